"""The report that mail could not be delivered: RFC 3464 in a multipart/report (RFC 6522). Pure.

The same failure always gives the same octets, so that a report that is made twice because of a crash is
recognised as one. Only the header of the message goes back: the sender has the rest, and a forged sender
should not get it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from storage.relayfile import RelayEnvelope, Verdict

MAX_HEADER_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Failure:
    recipient: str
    verdict: Verdict


def bounce(
    envelope: RelayEnvelope, failures: Sequence[Failure], message_head: bytes, *, hostname: str, at: float
) -> bytes:
    """To ``envelope.sender``. ``message_head``: the message or its beginning; ``at``: when the last
    recipient was refused, seconds since 1970."""
    is_utf8 = not all(each.isascii() for each in (envelope.sender, *(one.recipient for one in failures)))
    digest = hashlib.sha256(f"{envelope.id} {at} {hostname}".encode()).hexdigest()
    boundary = f"=_{digest[:32]}"
    parts = [
        _part("text/plain; charset=utf-8", _words(failures, hostname)),
        _part(
            "message/global-delivery-status" if is_utf8 else "message/delivery-status",
            _status(envelope, failures, hostname, is_utf8=is_utf8),
        ),
        _header_part(message_head),
    ]
    head = _head(envelope.sender, hostname, digest, boundary, at)
    marker = f"--{boundary}".encode()
    return b"".join([head, *(marker + b"\r\n" + part + b"\r\n" for part in parts), marker, b"--\r\n"])


def _head(to: str, hostname: str, digest: str, boundary: str, at: float) -> bytes:
    lines = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{to}>",
        "Subject: Undelivered mail returned to sender",
        f"Date: {_date(at)}",
        f"Message-ID: <{digest[:24]}@{hostname}>",
        "Auto-Submitted: auto-replied",  # RFC 3834 §5
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
    )
    return _encode(lines) + b"\r\n"


def _words(failures: Sequence[Failure], hostname: str) -> bytes:
    lines = [
        f"This is the mail system at {hostname}.",
        "",
        "Your message could not be delivered to:",
        "",
    ]
    for each in failures:
        lines += [f"<{each.recipient}>", f"    {_who(each.verdict)}{each.verdict.reply}", ""]
    lines += ["The header of your message is attached. It will not be tried again."]
    return _encode(lines)


def _who(verdict: Verdict) -> str:
    return f"{verdict.remote} said: " if verdict.remote else ""


def _status(envelope: RelayEnvelope, failures: Sequence[Failure], hostname: str, *, is_utf8: bool) -> bytes:
    """RFC 3464 §2: a block for the message, then one for each recipient."""
    lines = [f"Reporting-MTA: dns; {hostname}", f"Arrival-Date: {_date(envelope.created_at)}", ""]
    for each in failures:
        verdict = each.verdict
        kind = "utf-8" if is_utf8 and not each.recipient.isascii() else "rfc822"  # RFC 6533 §3
        lines += [f"Final-Recipient: {kind}; {each.recipient}", "Action: failed", f"Status: {verdict.status}"]
        if verdict.remote:
            lines.append(f"Remote-MTA: dns; {verdict.remote}")
        if verdict.reply[:3].isdecimal():
            lines.append(f"Diagnostic-Code: smtp; {_fit(verdict.reply, is_utf8=is_utf8)}")
        lines.append("")
    return _encode(lines[:-1])


def _fit(reply: str, *, is_utf8: bool) -> str:
    return reply if is_utf8 else reply.encode("ascii", "replace").decode()


def _header_part(message_head: bytes) -> bytes:
    """Of the message that failed. What is cut off was long; lines stay whole."""
    end = message_head.find(b"\r\n\r\n")
    header = message_head if end < 0 else message_head[: end + 2]
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
