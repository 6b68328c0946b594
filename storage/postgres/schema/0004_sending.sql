-- What scripts send: whom an account has answered, and how much it sends. New tables only:
-- nodes of the version before this one do not know them and go on.

CREATE TABLE sieve_answers (
    account_id  bigint NOT NULL REFERENCES accounts (id),
    key         bytea NOT NULL,
    cause       bytea NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (account_id, key)
);
CREATE INDEX sieve_answers_age ON sieve_answers (expires_at);

-- One row an account and kind: what it sent within the window, and when.
CREATE TABLE sieve_sends (
    account_id  bigint NOT NULL REFERENCES accounts (id),
    kind        text COLLATE "C" NOT NULL,
    keys        uuid[] NOT NULL,
    sent_at     timestamptz[] NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (account_id, kind)
) WITH (fillfactor = 60);
