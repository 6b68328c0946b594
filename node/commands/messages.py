"""``sora-admin messages``: what was expunged, until the cleaner purges it."""

from __future__ import annotations

from collections.abc import Iterable

import click

from storage.errors import Corrupt
from storage.mime.envelope import Envelope, decode_envelope
from storage.mime.text import decode_words
from storage.model import DeletedMessage, Mailbox, Uid
from storage.postgres.store import PostgresMailStore

from .access import Access, Stores, with_access
from .addresses import address_argument
from .failure import EXIT_CODES, NOT_FOUND, Failure
from .output import json_time, show_size, show_time, table

BATCH = 1000  # messages restored by one statement
MAX_UID = 2**32 - 1
MAX_SHOWN_CHARS = 60


@click.group(epilog=EXIT_CODES)
def messages() -> None:
    """Expunged messages: list and restore them.

    They can be had back until cleanup.grace_period is over.
    """


@messages.command(epilog="\b\nExample:\n  sora-admin messages deleted ann@example.org --mailbox INBOX")
@click.argument("address", type=address_argument)
@click.option("--mailbox", help="Only those of this mailbox.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="At most so many."
)
@with_access
def deleted(access: Access, address: str, mailbox: str | None, limit: int) -> None:
    """List the expunged messages of an account, the latest first."""

    async def find(stores: Stores) -> list[DeletedMessage]:
        account = await stores.accounts.account(address)
        return await stores.mail.list_deleted(account.id, mailbox, limit)

    found = access.run(find)
    described = [(message, _describe(message)) for message in found]
    rows = [
        (
            message.mailbox_name,
            message.uid,
            show_size(message.size_bytes),
            show_time(message.expunged_at),
            sender[:MAX_SHOWN_CHARS],
            subject[:MAX_SHOWN_CHARS],
        )
        for message, (sender, subject) in described
    ]
    data = [
        {
            "mailbox": message.mailbox_name,
            "uid": message.uid,
            "size_bytes": message.size_bytes,
            "internaldate": json_time(message.internaldate),
            "expunged_at": json_time(message.expunged_at),
            "from": sender,
            "subject": subject,
        }
        for message, (sender, subject) in described
    ]
    access.answer(data, table(("MAILBOX", "UID", "SIZE", "EXPUNGED", "FROM", "SUBJECT"), rows))


RESTORE_EXAMPLES = """\b
Examples:
  sora-admin messages restore ann@example.org INBOX 17 20:25
  sora-admin messages restore ann@example.org 'Sent/2025' --all"""


def uids_argument(value: str) -> range:
    """A click type: ``17`` or ``20:25``."""
    first, colon, last = value.partition(":")
    try:
        low, high = sorted((int(first), int(last if colon else first)))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither a uid nor a range like 20:25") from error
    if not 1 <= low <= high <= MAX_UID:
        raise click.BadParameter(f"{value!r} is not within 1 to {MAX_UID}")
    return range(low, high + 1)


@messages.command(epilog=RESTORE_EXAMPLES)
@click.argument("address", type=address_argument)
@click.argument("mailbox")
@click.argument("uids", nargs=-1, type=uids_argument)
@click.option("--all", "everything", is_flag=True, help="All that can be had back.")
@with_access
def restore(access: Access, address: str, mailbox: str, uids: tuple[range, ...], everything: bool) -> None:
    """Bring expunged messages back into MAILBOX, under new uids.

    UIDS are those that 'messages deleted' lists, single or as a range. Single ones that are not there
    make the exit code 3, after the others have been restored.
    """
    if bool(uids) == everything:
        raise click.UsageError("give either UIDS or --all")

    async def bring_back(stores: Stores) -> list[tuple[Uid, Uid]]:
        account = await stores.accounts.account(address)
        box = await stores.mail.get_mailbox(account.id, mailbox)
        if everything:
            return await _restore_all(stores.mail, box)
        return await _restore(stores.mail, box, uids)

    pairs = access.run(bring_back)
    access.answer(
        {"mailbox": mailbox, "restored": [{"uid": old, "new_uid": new} for old, new in pairs]},
        f"restored {len(pairs)} messages to {mailbox}",
    )
    restored = {old for old, _ in pairs}
    missing = [each.start for each in uids if len(each) == 1 and each.start not in restored]
    if missing:
        raise Failure(f"not to be had back: {', '.join(map(str, missing))}", NOT_FOUND)


async def _restore(mail: PostgresMailStore, box: Mailbox, uids: Iterable[range]) -> list[tuple[Uid, Uid]]:
    """Uids that are not there are skipped by the store."""
    wanted = sorted({Uid(uid) for each in uids for uid in range(each.start, min(each.stop, box.uidnext))})
    pairs: list[tuple[Uid, Uid]] = []
    for start in range(0, len(wanted), BATCH):
        pairs += (await mail.undelete(box.id, wanted[start : start + BATCH])).pairs
    return pairs


async def _restore_all(mail: PostgresMailStore, box: Mailbox) -> list[tuple[Uid, Uid]]:
    pairs: list[tuple[Uid, Uid]] = []
    while found := await mail.list_deleted(box.account_id, box.name, BATCH):
        restored = (await mail.undelete(box.id, [message.uid for message in found])).pairs
        if not restored:  # purged between the two statements
            break
        pairs += restored
    return pairs


def _describe(message: DeletedMessage) -> tuple[str, str]:
    """Sender and subject for a terminal."""
    try:
        envelope = decode_envelope(message.envelope)
    except Corrupt:
        envelope = Envelope()
    sender = next(
        (b"%s@%s" % (each.mailbox, each.host) for each in envelope.from_ if each.mailbox and each.host), b""
    )
    return _printable(sender), _printable(envelope.subject or b"")


def _printable(raw: bytes) -> str:
    """Decoded, without what could command the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in decode_words(raw))
