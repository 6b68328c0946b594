-- What scripts send: whom an account has answered, and how much it sends. New tables only;
-- their rows go with the account, so that the purge of nodes of the version before, which do not know them,
-- goes on.

CREATE TABLE sieve_answers (
    account_id  bigint NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key         bytea NOT NULL,
    cause       bytea NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (account_id, key)
);
CREATE INDEX sieve_answers_age ON sieve_answers (expires_at);

-- One row an account and kind: what it sent within the window, and when.
CREATE TABLE sieve_sends (
    account_id  bigint NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    kind        text COLLATE "C" NOT NULL,
    keys        uuid[] NOT NULL,
    sent_at     timestamptz[] NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (account_id, kind)
) WITH (fillfactor = 60);
