-- Annotations of mailboxes and accounts (RFC 5464). A new table only; its rows go with what they belong to, so
-- that the purge of nodes of the version before, which do not know it, goes on.

CREATE TABLE annotations (
    account_id  bigint NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    mailbox_id  bigint REFERENCES mailboxes (id) ON DELETE CASCADE,  -- NULL: of the account itself
    entry       text COLLATE "C" NOT NULL,                           -- in lower case
    value       bytea NOT NULL
);
-- mailbox ids begin at 1
CREATE UNIQUE INDEX annotations_place ON annotations (account_id, coalesce(mailbox_id, 0), entry);
CREATE INDEX annotations_mailbox ON annotations (mailbox_id) WHERE mailbox_id IS NOT NULL;
