"""The owner of a script that fails is told of it by a message in the INBOX: once a day for each version of
the script. No script runs on it, so nothing comes of a note but the note.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from datetime import datetime
from email.utils import format_datetime

from protocols.ports import MailboxChanged, Services
from storage.errors import CommitUnknown, StorageError
from storage.model import NewMessage, Recipient
from storage.scripts import ScriptStore

log = logging.getLogger("sora.sieve")

DAY_S = 24 * 3600
MAX_FAULT_CHARS = 1_000


async def tell_owner(
    services: Services,
    memory: ScriptStore,
    recipient: Recipient,
    fault: str,
    *,
    at: datetime,
    hostname: str,
) -> None:
    """Never raises StorageError: the message that the script failed on is delivered already."""
    try:
        await _tell(services, memory, recipient, fault, at, hostname)
    except StorageError as error:
        log.warning("%s is not told of the failing script now: %s", recipient.primary_address, error)


async def _tell(
    services: Services, memory: ScriptStore, recipient: Recipient, fault: str, at: datetime, hostname: str
) -> None:
    key = note_key(recipient, at)
    if key in await memory.seen(recipient.account_id, [key]):
        return
    spool = services.intake.spool()
    try:
        spool.write(compose(recipient, fault, key, at=at, hostname=hostname))
    except StorageError:
        spool.close()
        raise
    staged = await services.intake.take(spool)
    note = NewMessage(recipient.inbox_id, delivery_key=key)
    try:
        (appended,) = await services.mail.append(staged, [note])
    except CommitUnknown:
        raise  # it may be there: the next message that fails asks by the key
    except StorageError:
        await services.intake.discard(staged)
        raise
    services.feed.publish(MailboxChanged(recipient.account_id, appended.mailbox_id, appended.modseq))
    await memory.remember(recipient.account_id, [(key, 2 * DAY_S)])


def note_key(recipient: Recipient, at: datetime) -> bytes:
    """32 octets for an account, a version of its script and a day."""
    script = recipient.script
    text = f"{recipient.account_id}\0{script.name if script else ''}\0{at.date()}\0".encode(
        "utf-8", "surrogateescape"
    )
    content = script.content if script else b""
    return hashlib.sha256(b"failing script\0" + text + hashlib.sha256(content).digest()).digest()


def compose(recipient: Recipient, fault: str, key: bytes, *, at: datetime, hostname: str) -> bytes:
    """The whole message."""
    lines = [
        "Your mail filter could not be carried out on a message that came for you:",
        "",
        f"    {' '.join(fault.split())[:MAX_FAULT_CHARS]}",
        "",
        "What the filter did not decide is kept in your INBOX; no mail is lost. You are told once a day",
        "as long as this goes on, or until you change the script.",
    ]
    head = [
        f"From: Mail Filter <MAILER-DAEMON@{hostname}>",
        f"To: <{recipient.primary_address}>",
        "Subject: Your mail filter does not work",
        f"Date: {format_datetime(at)}",
        f"Message-ID: <{key.hex()[:24]}@{hostname}>",
        "Auto-Submitted: auto-generated",  # RFC 3834 §5: nobody answers it
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: base64",
        "",
    ]
    body = base64.encodebytes("".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace"))
    return "".join(f"{line}\r\n" for line in head).encode("utf-8", "replace") + body.replace(b"\n", b"\r\n")
