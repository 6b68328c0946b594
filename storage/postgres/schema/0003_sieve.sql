-- Sieve scripts of accounts, and what `duplicate` has seen (RFC 7352). New tables only: nodes of the version
-- before this one do not know them and go on.

CREATE TABLE sieve_scripts (
    account_id  bigint NOT NULL REFERENCES accounts (id),
    name        text COLLATE "C" NOT NULL,
    content     bytea NOT NULL,
    is_active   boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, name)
);
CREATE UNIQUE INDEX sieve_scripts_active ON sieve_scripts (account_id) WHERE is_active;

CREATE TABLE sieve_seen (
    account_id  bigint NOT NULL REFERENCES accounts (id),
    key         bytea NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (account_id, key)
);
CREATE INDEX sieve_seen_age ON sieve_seen (account_id, expires_at);
