"""The mailbox tree of an account, its subscriptions, and special use.

Changes of the tree first lock the account's row of ``uidvalidities``, so they come one after the other per
account, and each statement after that sees what the one before committed. That row is locked before any
mailbox row and by nothing else.
"""

from __future__ import annotations

import asyncpg

from storage.errors import AlreadyExists, InvalidName, NotFound, NotPermitted
from storage.model import INBOX, AccountId, Mailbox, MailboxId, MailboxList, SpecialUse, Uid
from storage.names import checked, is_inside, sought, with_parents

from . import rows
from .copying import MOVE_ALL
from .part import Part
from .pool import Transaction

_LIST = f"""
SELECT {rows.MAILBOX_COLUMNS}, NULL AS subscribed FROM mailboxes m
WHERE m.account_id = $1 AND m.deleted_at IS NULL
UNION ALL
SELECT {", ".join(["NULL"] * 12)}, s.name FROM subscriptions s WHERE s.account_id = $1
ORDER BY name"""

_GET = f"""
SELECT {rows.MAILBOX_COLUMNS} FROM mailboxes m
WHERE m.account_id = $1 AND m.name = $2 AND m.deleted_at IS NULL"""

_LOCK_TREE = """
INSERT INTO uidvalidities AS u (account_id, last)
SELECT id, extract(epoch FROM now())::bigint FROM accounts WHERE id = $1 AND deleted_at IS NULL
ON CONFLICT (account_id) DO UPDATE SET last = u.last
RETURNING last"""

# Names that exist are left out; every new mailbox gets a uidvalidity of its own, above all before.
_CREATE = f"""
WITH missing AS (
    SELECT n.name, n.n FROM unnest($2::text[]) WITH ORDINALITY AS n (name, n)
    WHERE NOT EXISTS (SELECT FROM mailboxes b
                      WHERE b.account_id = $1 AND b.name = n.name AND b.deleted_at IS NULL)
), validity AS (
    UPDATE uidvalidities u
    SET last = greatest(u.last, extract(epoch FROM now())::bigint) + (SELECT count(*) FROM missing)
    WHERE u.account_id = $1
    RETURNING last - (SELECT count(*) FROM missing) AS before
)
INSERT INTO mailboxes AS m (account_id, name, uidvalidity, special_use)
SELECT $1, x.name, v.before + row_number() OVER (ORDER BY x.n), CASE WHEN x.name = $3 THEN $4::text END
FROM missing x CROSS JOIN validity v
RETURNING {rows.MAILBOX_COLUMNS}"""

_DELETE = """
UPDATE mailboxes SET deleted_at = now()
WHERE account_id = $1 AND name = $2 AND deleted_at IS NULL
RETURNING id, account_id"""

# A deleted mailbox that has children is a name still, and may be renamed with them.
_EXIST = """
SELECT coalesce(bool_or(name = $2 OR starts_with(name, $2 || '/')), false) AS has_old,
       coalesce(bool_or(name = $3), false) AS has_new
FROM mailboxes WHERE account_id = $1 AND deleted_at IS NULL"""

_RENAME = """
WITH moving AS MATERIALIZED (
    SELECT id FROM mailboxes
    WHERE account_id = $1 AND deleted_at IS NULL AND (name = $2 OR starts_with(name, $2 || '/'))
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE mailboxes m SET name = $3 || substr(m.name, length($2) + 1) FROM moving WHERE m.id = moving.id
RETURNING m.id"""

_SUBSCRIBE = """
INSERT INTO subscriptions (account_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING"""

_UNSUBSCRIBE = "DELETE FROM subscriptions WHERE account_id = $1 AND name = $2"

_CLAIM = "UPDATE mailboxes SET recent_uid = $2 WHERE id = $1 AND recent_uid < $2"


class Mailboxes(Part):
    async def list_mailboxes(self, account_id: AccountId) -> MailboxList:
        found = await self.db.read(_LIST, account_id, account=account_id)
        return MailboxList(
            tuple(rows.mailbox(row) for row in found if row["id"] is not None),
            frozenset(row["subscribed"] for row in found if row["id"] is None),
        )

    async def get_mailbox(self, account_id: AccountId, name: str) -> Mailbox:
        found = await self.db.read(_GET, account_id, sought(name), account=account_id)
        if not found:
            raise _unknown(name)
        return rows.mailbox(found[0])

    async def create_mailbox(
        self, account_id: AccountId, name: str, special_use: SpecialUse | None = None
    ) -> Mailbox:
        name = checked(name)
        use = None if special_use is None else special_use.value
        async with self.db.transaction(account=account_id) as transaction:
            await self._lock_tree(transaction, account_id)
            return await self._create(transaction, account_id, name, use)

    async def _lock_tree(self, transaction: Transaction, account_id: AccountId) -> None:
        if not await transaction.fetch(_LOCK_TREE, account_id):
            raise NotFound("the account is gone")

    async def _create(
        self, transaction: Transaction, account_id: AccountId, name: str, use: str | None = None
    ) -> Mailbox:
        try:
            found = await transaction.fetch(_CREATE, account_id, with_parents(name), name, use)
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(f"there is a mailbox for {use!r} already") from error
        created = [row for row in found if row["name"] == name]
        if not created:
            raise AlreadyExists(f"mailbox {name!r} exists")
        return rows.mailbox(created[0])

    async def delete_mailbox(self, account_id: AccountId, name: str) -> None:
        name = sought(name)
        if name == INBOX:
            raise NotPermitted("INBOX cannot be deleted")
        found = await self.db.write(_DELETE, account_id, name, account=account_id)
        if not found:
            raise _unknown(name)
        self.db.wrote(mailboxes=[found[0]["id"]])

    async def rename_mailbox(self, account_id: AccountId, old: str, new: str) -> None:
        old, new = sought(old), checked(new)
        if old == new:
            raise AlreadyExists(f"mailbox {new!r} exists")
        if is_inside(new, old) and old != INBOX:
            raise InvalidName("a mailbox cannot be moved into itself")
        if old == INBOX:
            await self._rename_inbox(account_id, new)
            return
        async with self.db.transaction(account=account_id) as transaction:
            await self._lock_tree(transaction, account_id)
            await self._check_free(transaction, account_id, old, new)
            *parents, _ = with_parents(new)
            await transaction.fetch(_CREATE, account_id, parents, "", None)
            try:
                renamed = await transaction.fetch(_RENAME, account_id, old, new)
            except asyncpg.UniqueViolationError as error:
                raise AlreadyExists(f"a mailbox below {new!r} exists") from error
            if not renamed:  # deleted while we waited for the row
                raise _unknown(old)

    async def _check_free(self, transaction: Transaction, account_id: AccountId, old: str, new: str) -> None:
        [found] = await transaction.fetch(_EXIST, account_id, old, new)
        if not found["has_old"]:
            raise _unknown(old)
        if found["has_new"]:
            raise AlreadyExists(f"mailbox {new!r} exists")

    async def _rename_inbox(self, account_id: AccountId, new: str) -> None:
        """INBOX stays; its messages, not its children, move to ``new`` (RFC 9051 §6.3.6). O(messages)."""
        inbox = (await self.get_mailbox(account_id, INBOX)).id
        async with (
            self.queue.turn((inbox,)),
            self.db.transaction(account=account_id, mailboxes=(inbox,)) as transaction,
        ):
            await self._lock_tree(transaction, account_id)
            created = await self._create(transaction, account_id, new)
            if not await transaction.fetch(MOVE_ALL, inbox, created.id):
                raise NotFound("no INBOX")

    async def set_subscribed(self, account_id: AccountId, name: str, *, subscribed: bool) -> None:
        sql = _SUBSCRIBE if subscribed else _UNSUBSCRIBE
        try:
            await self.db.write(sql, account_id, checked(name), account=account_id)
        except asyncpg.ForeignKeyViolationError as error:
            raise NotFound("the account is gone") from error

    async def claim_recent(self, mailbox_id: MailboxId, upto: Uid) -> None:
        await self.db.write(_CLAIM, mailbox_id, upto, mailboxes=(mailbox_id,))


def _unknown(name: str) -> NotFound:
    return NotFound(f"no mailbox {name!r}")
