-- The base schema. Core PostgreSQL 14 and newer only: no extension is required.
--
-- Shape: `contents` is what was received, once per distinct bytes; `messages` says which mailbox holds
-- which content and never changes; `message_state` is the small mutable row of every live message and is
-- all that opening a mailbox reads; `expunged` is the log of what is gone. Every foreign key has an index
-- that covers it.

CREATE TABLE accounts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz
);
CREATE INDEX accounts_deleted ON accounts (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE credentials (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id    bigint NOT NULL REFERENCES accounts (id),
    address       text NOT NULL,
    domain        text GENERATED ALWAYS AS (split_part(address, '@', 2)) STORED,
    password_hash text NOT NULL,
    is_primary    boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    -- credentials of a deleted account step aside so that the address can be given out again
    retired_at    timestamptz
);
CREATE UNIQUE INDEX credentials_address ON credentials (address) WHERE retired_at IS NULL;
CREATE UNIQUE INDEX credentials_one_primary ON credentials (account_id) WHERE is_primary;
CREATE INDEX credentials_account ON credentials (account_id);
CREATE INDEX credentials_domain ON credentials (domain);

CREATE TABLE mailboxes (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id     bigint NOT NULL REFERENCES accounts (id),
    name           text COLLATE "C" NOT NULL,
    uidvalidity    bigint NOT NULL CHECK (uidvalidity BETWEEN 1 AND 4294967295),
    uidnext        bigint NOT NULL DEFAULT 1,
    highestmodseq  bigint NOT NULL DEFAULT 1,
    messages       bigint NOT NULL DEFAULT 0,
    unseen         bigint NOT NULL DEFAULT 0,
    deleted        bigint NOT NULL DEFAULT 0,
    size_bytes     bigint NOT NULL DEFAULT 0,
    recent_uid     bigint NOT NULL DEFAULT 1,
    special_use    text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    deleted_at     timestamptz
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX mailboxes_name ON mailboxes (account_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX mailboxes_special_use ON mailboxes (account_id, special_use)
    WHERE deleted_at IS NULL AND special_use IS NOT NULL;
CREATE INDEX mailboxes_account ON mailboxes (account_id);
CREATE INDEX mailboxes_deleted ON mailboxes (deleted_at) WHERE deleted_at IS NOT NULL;

-- uidvalidity of a name that comes back must be greater than any it had (RFC 9051 §2.3.1.1)
CREATE TABLE uidvalidities (
    account_id  bigint NOT NULL REFERENCES accounts (id),
    last        bigint NOT NULL,
    PRIMARY KEY (account_id)
);

CREATE TABLE subscriptions (
    account_id  bigint NOT NULL REFERENCES accounts (id),
    name        text COLLATE "C" NOT NULL,
    PRIMARY KEY (account_id, name)
);

CREATE TABLE contents (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash           bytea NOT NULL,
    size_bytes     bigint NOT NULL,
    header         bytea NOT NULL,
    envelope       bytea NOT NULL,
    structure      bytea NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    -- written when another delivery brings the same bytes: that update is what fences the purge
    last_taken_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 85);
CREATE UNIQUE INDEX contents_hash ON contents (hash);
ALTER TABLE contents ALTER COLUMN header SET STORAGE MAIN;

-- The upload queue, apart from `contents` so that leasing and marking rewrite narrow rows only. A content
-- without a row here is in the object store.
CREATE TABLE staged_contents (
    content_id       bigint PRIMARY KEY REFERENCES contents (id) ON DELETE CASCADE,
    node             text,                 -- staged on that node's disk; NULL: in staged_frames
    encoded_bytes    bigint NOT NULL,
    staged_at        timestamptz NOT NULL DEFAULT now(),
    -- a lease moves this to its own end, so one index serves "due" and "lease ran out"
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    lease_until      timestamptz,
    lease_node       text,
    attempts         integer NOT NULL DEFAULT 0,
    last_error       text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX staged_contents_due ON staged_contents (next_attempt_at);

CREATE TABLE staged_frames (
    content_id  bigint NOT NULL REFERENCES contents (id) ON DELETE CASCADE,
    n           integer NOT NULL,
    data        bytea NOT NULL,
    PRIMARY KEY (content_id, n)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 4000);
-- the frames are compressed already
ALTER TABLE staged_frames ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE messages (
    mailbox_id    bigint NOT NULL REFERENCES mailboxes (id),
    uid           bigint NOT NULL,
    content_id    bigint NOT NULL REFERENCES contents (id),
    prefix        bytea NOT NULL DEFAULT '',
    size_bytes    bigint NOT NULL,
    internaldate  timestamptz NOT NULL,
    saved_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (mailbox_id, uid)
);
CREATE INDEX messages_content ON messages (content_id);
CREATE INDEX messages_age ON messages (internaldate);

CREATE TABLE message_state (
    mailbox_id    bigint NOT NULL,
    uid           bigint NOT NULL,
    modseq        bigint NOT NULL,
    flags         smallint NOT NULL DEFAULT 0,
    keywords      text[] NOT NULL DEFAULT '{}',
    size_bytes    bigint NOT NULL,
    internaldate  bigint NOT NULL,         -- seconds since the epoch, as views want it
    PRIMARY KEY (mailbox_id, uid),
    FOREIGN KEY (mailbox_id, uid) REFERENCES messages (mailbox_id, uid)
) WITH (fillfactor = 85);
CREATE INDEX message_state_modseq ON message_state (mailbox_id, modseq);
-- EXPUNGE finds \Deleted (bit 8) without looking at the others
CREATE INDEX message_state_deleted ON message_state (mailbox_id, uid) WHERE (flags & 8) <> 0;

CREATE TABLE expunged (
    mailbox_id   bigint NOT NULL REFERENCES mailboxes (id),
    uid          bigint NOT NULL,
    modseq       bigint NOT NULL,
    flags        smallint NOT NULL,
    keywords     text[] NOT NULL,
    expunged_at  timestamptz NOT NULL DEFAULT now(),
    purged_at    timestamptz,              -- the messages row is gone; the log entry stays
    PRIMARY KEY (mailbox_id, uid)
);
CREATE INDEX expunged_modseq ON expunged (mailbox_id, modseq);
CREATE INDEX expunged_due ON expunged (expunged_at) WHERE purged_at IS NULL;
CREATE INDEX expunged_recoverable ON expunged (mailbox_id, expunged_at) WHERE purged_at IS NULL;

CREATE TABLE deliveries (
    account_id    bigint NOT NULL REFERENCES accounts (id),
    key           bytea NOT NULL,
    delivered_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, key)
);
CREATE INDEX deliveries_age ON deliveries (delivered_at);

-- Contents that lost a message; whether it was the last one is checked under the content's lock. No foreign
-- key: an entry without a content is harmless, and inserting must not wait for a content's lock.
CREATE TABLE purge_candidates (
    content_id  bigint PRIMARY KEY,
    noted_at    timestamptz NOT NULL DEFAULT now()
);

-- objects that no content refers to any more; keys are unique per content id, so a late delete can
-- never hit a newer object
CREATE TABLE doomed_objects (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    content_id    bigint NOT NULL,
    key           text NOT NULL,
    doomed_at     timestamptz NOT NULL DEFAULT now(),
    forgotten_at  timestamptz              -- deleted; the row stays a while for an upload that ends late
);
CREATE INDEX doomed_objects_due ON doomed_objects (id) WHERE forgotten_at IS NULL;
CREATE INDEX doomed_objects_forgotten ON doomed_objects (forgotten_at) WHERE forgotten_at IS NOT NULL;
CREATE INDEX doomed_objects_content ON doomed_objects (content_id);
