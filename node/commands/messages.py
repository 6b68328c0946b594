"""``sora-admin messages``: what was deleted, until the cleaner purges it."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import click

from node.control import ControlRefused, ControlUnusable, ask, control_path
from node.restoring import Ambiguous, Restored, Restorer, Selection
from storage.errors import Corrupt
from storage.mime.envelope import Envelope, decode_envelope
from storage.mime.text import decode_words
from storage.model import AccountId, DeletedMessage

from .access import Access, Stores, read_config, with_access
from .addresses import address_argument
from .failure import EXIT_CODES, NOT_FOUND, USAGE, Failure
from .output import json_time, show_size, show_time, table

TIME: Final = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])  # of this machine's zone
TOLD_WITHIN_S: Final = 5.0
MAX_UID = 2**32 - 1
MAX_SHOWN_CHARS = 60


@click.group(epilog=EXIT_CODES)
def messages() -> None:
    """Deleted messages: list and restore them.

    They can be had back until cleanup.grace_period is over.
    """


@messages.command(epilog="\b\nExample:\n  sora-admin messages deleted ann@example.org --mailbox INBOX")
@click.argument("address", type=address_argument)
@click.option("--mailbox", help="Only those of this mailbox.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="At most so many."
)
@click.option("--since", type=TIME, help="Only those deleted at this time or later.")
@with_access
def deleted(access: Access, address: str, mailbox: str | None, limit: int, since: datetime | None) -> None:
    """List the deleted messages of an account, the latest first: those that were expunged, and those of
    deleted mailboxes."""
    at = None if since is None else since.astimezone()

    async def find(stores: Stores) -> list[DeletedMessage]:
        account = await stores.accounts.account(address)
        return await stores.mail.list_deleted(account.id, mailbox, limit, since=at)

    found = access.run(find)
    described = [(message, _describe(message)) for message in found]
    rows = [
        (
            message.mailbox_name + (" (deleted)" if message.is_mailbox_deleted else ""),
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
            "mailbox_deleted": message.is_mailbox_deleted,
            "uid": message.uid,
            "size_bytes": message.size_bytes,
            "internaldate": json_time(message.internaldate),
            "expunged_at": json_time(message.expunged_at),
            "from": sender,
            "subject": subject,
        }
        for message, (sender, subject) in described
    ]
    access.answer(data, table(("MAILBOX", "UID", "SIZE", "DELETED", "FROM", "SUBJECT"), rows))


RESTORE_EXAMPLES = """\b
Examples:
  sora-admin messages restore ann@example.org --mailbox INBOX --uid 17,20:25
  sora-admin messages restore ann@example.org --mailbox Sent/2025 --all
  sora-admin messages restore ann@example.org --since 2026-11-20 --into Found"""


def uids_option(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[range, ...]:
    """A click callback: ``17,20:25``."""
    return tuple(_uids(word) for value in values for word in value.split(","))


def _uids(value: str) -> range:
    first, colon, last = value.partition(":")
    try:
        low, high = sorted((int(first), int(last if colon else first)))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither a uid nor a range like 20:25") from error
    if not 1 <= low <= high <= MAX_UID:
        raise click.BadParameter(f"{value!r} is not within 1 to {MAX_UID}")
    return range(low, high + 1)


@messages.command(epilog=RESTORE_EXAMPLES + "\n\n" + EXIT_CODES)
@click.argument("address", type=address_argument)
@click.option("--mailbox", help="Only those of this mailbox, which may be deleted itself.")
@click.option(
    "--uid",
    "uids",
    multiple=True,
    callback=uids_option,
    help="These of --mailbox, as 'messages deleted' lists them: 17, or 17,20:25.",
)
@click.option("--since", type=TIME, help="All that were deleted at this time or later.")
@click.option("--all", "everything", is_flag=True, help="All that can be had back.")
@click.option("--into", help="Bring them to this mailbox, which is made if need be.")
@with_access
def restore(
    access: Access,
    address: str,
    mailbox: str | None,
    uids: tuple[range, ...],
    since: datetime | None,
    everything: bool,
    into: str | None,
) -> None:
    """Bring deleted messages back, under new uids, without the flag \\Deleted.

    They go to the mailbox they were in, which is made again if it was deleted, or to --into. What came back
    already is not brought a second time. Single uids that cannot be had back make the exit code 3, after the
    others have been restored.
    """
    if [bool(uids), since is not None, everything].count(True) != 1:
        raise click.UsageError("give one of --uid, --since and --all")
    if uids and mailbox is None:
        raise click.UsageError("--uid needs --mailbox")
    selection = Selection(mailbox, uids or None, None if since is None else since.astimezone(), into)

    async def bring_back(stores: Stores) -> tuple[AccountId, Restorer, list[Restored]]:
        account = await stores.accounts.account(address)
        restorer = Restorer(stores.mail, account.id)
        return account.id, restorer, await restorer.restore(selection)

    try:
        account_id, restorer, done = access.run(bring_back)
    except Ambiguous as error:
        raise Failure(str(error), USAGE) from error
    _tell_node(access, account_id, restorer)
    places = sorted({each.into for each in done})
    data = [
        {"mailbox": each.mailbox, "uid": each.uid, "into": each.into, "new_uid": each.new_uid}
        for each in done
    ]
    access.answer(
        {"restored": data}, f"restored {len(done)} messages" + (f" to {', '.join(places)}" if places else "")
    )
    back = {each.uid for each in done}
    missing = [each.start for each in uids if len(each) == 1 and each.start not in back]
    if missing:
        raise Failure(f"not to be had back: {', '.join(map(str, missing))}", NOT_FOUND)


def _tell_node(access: Access, account_id: AccountId, restorer: Restorer) -> None:
    """Sessions hear of it at once, on all nodes. Without a node here they find out within seconds."""
    path = control_path(read_config(access.config))
    for mailbox_id, modseq in restorer.modseqs.items():
        change = {"account": account_id, "mailbox": mailbox_id, "modseq": modseq}
        try:
            ask(path, "mailbox.changed", change, timeout_s=TOLD_WITHIN_S)
        except (ControlUnusable, ControlRefused):
            return


def _describe(message: DeletedMessage) -> tuple[str, str]:
    """Sender and subject, decoded."""
    try:
        envelope = decode_envelope(message.envelope)
    except Corrupt:
        envelope = Envelope()
    sender = next(
        (b"%s@%s" % (each.mailbox, each.host) for each in envelope.from_ if each.mailbox and each.host), b""
    )
    return decode_words(sender), decode_words(envelope.subject or b"")
