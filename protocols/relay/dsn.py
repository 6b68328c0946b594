"""Reports of what became of mail: RFC 3464 in a multipart/report (RFC 6522). Pure.

The same event always gives the same octets, so that a report that is made twice because of a crash is
recognised as one. Only the header of the message goes back: the sender has the rest, and a forged sender
should not get it, so RET=FULL is not obeyed (RFC 3461 §4.3 leaves that open).
"""

from __future__ import annotations

import base64
import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from protocols.xtext import BadText, decode_xtext
from storage.mime.headers import split_header
from storage.relayfile import Fate, RelayEnvelope, Verdict

from .content import with_crlf

MAX_HEADER_BYTES: Final = 64 * 1024


class Action(enum.Enum):
    """RFC 3464 §2.3.3."""

    FAILED = "failed"
    RELAYED = "relayed"  # to a system that sends no reports
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of the message for one recipient, also when nothing failed. ``orcpt``: as it came."""

    recipient: str
    verdict: Verdict
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """The message that is reported of. ``name`` tells it from all others; ``envid``: xtext, as it came."""

    name: str
    sender: str
    arrived_at: float  # seconds since 1970
    envid: str = ""


@dataclass(frozen=True, slots=True)
class _Words:
    subject: str
    opening: str
    closing: str


_WORDS: Final = {
    Action.FAILED: _Words(
        "Undelivered mail returned to sender",
        "Your message could not be delivered to:",
        "The header of your message is attached. It will not be tried again.",
    ),
    Action.RELAYED: _Words(
        "Your message was handed on",
        "Your message was handed on to a system that sends no confirmations, for:",
        "The header of your message is attached.",
    ),
    Action.DELIVERED: _Words(
        "Your message was delivered",
        "Your message was delivered to:",
        "The header of your message is attached.",
    ),
}


def bounce(
    envelope: RelayEnvelope, failures: Sequence[Failure], message_head: bytes, *, hostname: str, at: float
) -> bytes:
    """To ``envelope.sender``. ``message_head``: the message or its beginning; ``at``: when the last
    recipient was refused, seconds since 1970."""
    reported = Reported(envelope.id, envelope.sender, envelope.created_at, envelope.dsn.message.envid)
    return report(Action.FAILED, reported, failures, message_head, hostname=hostname, at=at)


def report(
    action: Action,
    reported: Reported,
    fates: Sequence[Failure],
    message_head: bytes,
    *,
    hostname: str,
    at: float,
) -> bytes:
    """To ``reported.sender``, of one action for all these recipients."""
    is_utf8 = not all(each.isascii() for each in (reported.sender, *(one.recipient for one in fates)))
    kind = "" if action is Action.FAILED else f" {action.value}"
    digest = hashlib.sha256(f"{reported.name} {at} {hostname}{kind}".encode()).hexdigest()
    boundary = f"=_{digest[:32]}"
    parts = [
        _part("text/plain; charset=utf-8", _text(_WORDS[action], fates, hostname)),
        _part(
            "message/global-delivery-status" if is_utf8 else "message/delivery-status",
            _status(action, reported, fates, hostname, is_utf8=is_utf8),
        ),
        _header_part(message_head),
    ]
    head = _head(reported.sender, _WORDS[action].subject, hostname, digest, boundary, at)
    marker = f"--{boundary}".encode()
    return b"".join([head, *(marker + b"\r\n" + part + b"\r\n" for part in parts), marker, b"--\r\n"])


def _head(to: str, subject: str, hostname: str, digest: str, boundary: str, at: float) -> bytes:
    lines = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{to}>",
        f"Subject: {subject}",
        f"Date: {_date(at)}",
        f"Message-ID: <{digest[:24]}@{hostname}>",
        "Auto-Submitted: auto-replied",  # RFC 3834 §5
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
    )
    return _encode(lines) + b"\r\n"


def _text(words: _Words, fates: Sequence[Failure], hostname: str) -> bytes:
    lines = [f"This is the mail system at {hostname}.", "", words.opening, ""]
    for each in fates:
        lines += [f"<{each.recipient}>", f"    {_who(each.verdict)}{each.verdict.reply}", ""]
    return _encode([*lines, words.closing])


def _who(verdict: Verdict) -> str:
    return f"{verdict.remote} said: " if verdict.remote else ""


def _status(
    action: Action, reported: Reported, fates: Sequence[Failure], hostname: str, *, is_utf8: bool
) -> bytes:
    """RFC 3464 §2: a block for the message, then one for each recipient."""
    lines = [f"Original-Envelope-Id: {_decoded(reported.envid)}"] if reported.envid else []
    lines += [f"Reporting-MTA: dns; {hostname}", f"Arrival-Date: {_date(reported.arrived_at)}", ""]
    for each in fates:
        verdict = each.verdict
        kind = "utf-8" if is_utf8 and not each.recipient.isascii() else "rfc822"  # RFC 6533 §3
        if each.orcpt:
            lines.append(f"Original-Recipient: {_original(each.orcpt, is_utf8=is_utf8)}")
        lines += [
            f"Final-Recipient: {kind}; {each.recipient}",
            f"Action: {action.value}",
            f"Status: {verdict.status}",
        ]
        if verdict.remote:
            lines.append(f"Remote-MTA: dns; {verdict.remote}")
        if verdict.fate is not Fate.TAKEN and verdict.reply[:3].isdecimal():
            lines.append(f"Diagnostic-Code: smtp; {_fit(verdict.reply, is_utf8=is_utf8)}")
        lines.append("")
    return _encode(lines[:-1])


def _decoded(text: str) -> str:
    try:
        return decode_xtext(text)
    except BadText:
        return text  # of a type that is no xtext (RFC 6533 §3)


def _original(orcpt: str, *, is_utf8: bool) -> str:
    kind, _, address = orcpt.partition(";")
    return _fit(f"{kind}; {_decoded(address)}", is_utf8=is_utf8)


def _fit(reply: str, *, is_utf8: bool) -> str:
    return reply if is_utf8 else reply.encode("ascii", "replace").decode()


def _header_part(message_head: bytes) -> bytes:
    """Of the message that failed, whatever its line ends. What is cut off was long; lines stay whole."""
    header = message_head[: split_header(message_head)]
    header = with_crlf(header.rstrip(b"\r\n"))
    if len(header) > MAX_HEADER_BYTES:
        header = header[: header.rfind(b"\r\n", 0, MAX_HEADER_BYTES) + 2]
    return _part("text/rfc822-headers" if header.isascii() else "message/global-headers", header)


def _part(content_type: str, body: bytes) -> bytes:
    """In base64 where the octets or the lines are not fit for any server."""
    is_plain = body.isascii() and b"\x00" not in body and max(map(len, body.split(b"\r\n"))) <= 990
    if is_plain:
        return f"Content-Type: {content_type}\r\n\r\n".encode() + body
    coded = base64.b64encode(body)
    folded = b"\r\n".join(coded[at : at + 76] for at in range(0, len(coded), 76))
    return f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode() + folded


def _encode(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


def _date(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(at), UTC))
