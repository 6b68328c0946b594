"""What every test of mail of our own asks of it, and the occasions it is made for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from protocols.sending.composing import Letter
from protocols.sending.occasion import Occasion
from storage.mime.headers import split_header
from storage.mime.structure import encode_structure, scan
from storage.model import AccountId

ANN, ANNIE, BOB = "ann@example.test", "annie@example.test", "bob@away.test"
HEADER = {
    "From": "Bob <bob@away.test>",
    "To": "Ann <ann@example.test>",
    "Subject": "Lunch?",
    "Message-ID": "<1@away.test>",
}


def message(**fields: str) -> bytes:
    """HEADER with these changed; an empty value leaves a field out. Underscores are hyphens."""
    changed = {name.replace("_", "-"): value for name, value in fields.items()}
    whole = {name: value for name, value in {**HEADER, **changed}.items() if value}
    return "".join(f"{name}: {value}\r\n" for name, value in whole.items()).encode() + b"\r\nHello.\r\n"


def occasion(data: bytes = b"", **changed: Any) -> Occasion:
    data = data or message()
    plain = Occasion(
        account_id=AccountId(7),
        primary_address=ANN,
        own_addresses=frozenset({ANN, ANNIE}),
        sender=BOB,
        recipient=ANN,
        trace=b"",
        header=data[: split_header(data)],
        structure=encode_structure(scan(data)),
        data=data,
        size_bytes=len(data),
        delivery_key=b"k" * 32,
        received_at=datetime(2026, 11, 22, 12, 30, tzinfo=UTC),
        hostname="mail.test",
    )
    return dataclasses.replace(plain, **changed)


def check_octets(octets: bytes) -> None:
    """Fit for any SMTP server."""
    assert b"\x00" not in octets
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
    assert max(map(len, octets.split(b"\r\n"))) <= 998


def check_header(header: bytes) -> None:
    check_octets(header)
    assert header.endswith(b"\r\n")
    assert b"\r\n\r\n" not in header
    for line in header.split(b"\r\n")[:-1]:
        assert re.match(rb"[ \t]*[!-~]", line) or line.endswith(b": "), line


def parsed(letter: Letter | Sequence[bytes]) -> EmailMessage:
    """As Python's ``email`` reads it, after the checks above."""
    pieces = letter.octets if isinstance(letter, Letter) else letter
    octets = b"".join(pieces)
    check_octets(octets)
    check_header(octets[: octets.index(b"\r\n\r\n") + 2])
    found = message_from_bytes(octets, policy=policy.default)
    assert isinstance(found, EmailMessage)
    assert not found.defects
    return found
