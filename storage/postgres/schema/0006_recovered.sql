-- Numbers for what users find in the namespace of deleted messages. New tables only, and without foreign
-- keys: nodes of the version before this one do not know them and go on purging accounts and mailboxes.

-- Uids and modseqs count on over all days of an account, so that none is ever given out twice.
CREATE TABLE recovered_accounts (
    account_id   bigint PRIMARY KEY,
    uidvalidity  bigint NOT NULL,
    uidnext      bigint NOT NULL DEFAULT 1,
    modseq       bigint NOT NULL DEFAULT 1
);

CREATE TABLE recovered (
    account_id   bigint NOT NULL,
    day          date NOT NULL,
    uid          bigint NOT NULL,
    modseq       bigint NOT NULL,
    mailbox_id   bigint NOT NULL,
    message_uid  bigint NOT NULL,
    is_gone      boolean NOT NULL DEFAULT false,  -- restored or purged, and told to nobody yet
    PRIMARY KEY (account_id, day, uid)
);
CREATE UNIQUE INDEX recovered_message ON recovered (mailbox_id, message_uid);
-- the cleaner drops days on which nothing is left
CREATE INDEX recovered_day ON recovered (day);
