"""Real-looking messages from a seed, each with the part tree it was built from.

``corpus(seed, count)`` has the mix of a mail store: plain text, alternatives, attachments, forwarded
messages, raw 8-bit mail; mean 22 KB, median some 6 KB.
"""

from __future__ import annotations

import base64
import quopri
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

_TEXT = (
    "the quick brown fox jumps over a lazy dog while meeting minutes attached please review quarterly report "
    "regards invoice number shipment tomorrow Müller Straße über naïve café résumé"
)
WORDS = _TEXT.split()
NAMES = ("Ann Example", "Doe, John", "Jürgen Groß", "李雷", "ops", "Zoë van der Berg")


@dataclass(slots=True)
class Built:
    """A part as built: its type, header and body bytes, and what is inside."""

    type: str
    header: bytes
    body: bytes
    children: list[Built] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return self.header + self.body


def corpus(seed: int, count: int) -> Iterator[Built]:
    rng = Random(seed)
    for number in range(count):
        yield message(rng, number)


def message(rng: Random, number: int) -> Built:
    shape = rng.choices((plain, alternative, mixed, forwarded, latin1), (30, 30, 20, 10, 10))[0]
    part = shape(rng, number)
    part.header = top_fields(rng, number, raw=shape is latin1) + part.header
    return part


def top_fields(rng: Random, number: int, *, raw: bool = False) -> bytes:
    lines = ["Return-Path: <bounce@lists.example>"]
    for hop in range(rng.randint(2, 6)):
        lines.append(
            f"Received: from mx{hop}.example.net (mx{hop}.example.net [192.0.2.{rng.randint(1, 250)}])\r\n"
            f"\tby mail.example.org (Postfix) with ESMTPS id {rng.getrandbits(40):X}\r\n"
            "\tfor <user@example.org>; Tue, 3 Mar 2026 10:11:12 +0100 (CET)"
        )
    signature = base64.b64encode(rng.randbytes(256)).decode()
    folded = "\r\n\t".join(signature[i : i + 70] for i in range(0, len(signature), 70))
    lines.append(f"DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=mail;\r\n\tb={folded}")
    lines.append("From: " + mailbox(rng))
    lines.append("To: " + ",\r\n ".join(mailbox(rng) for _ in range(rng.randint(1, 5))))
    if rng.random() < 0.3:
        lines.append("Cc: " + ", ".join(mailbox(rng) for _ in range(rng.randint(1, 8))))
    lines.append(f"Message-ID: <{number}.{rng.getrandbits(64):x}@example.net>")
    lines.append("Date: Tue, 3 Mar 2026 10:11:12 +0100")
    lines.append("MIME-Version: 1.0")
    subject = " ".join(rng.choices(WORDS, k=6))
    if not raw:
        subject = "\r\n ".join(encoded_word(subject[i : i + 30]) for i in range(0, len(subject), 30))
    return ("\r\n".join(lines) + "\r\n").encode() + b"Subject: " + subject.encode("latin-1") + b"\r\n"


def encoded_word(text: str) -> str:
    if text.isascii():
        return text
    return f"=?utf-8?B?{base64.b64encode(text.encode()).decode()}?="


def mailbox(rng: Random) -> str:
    name = rng.choice(NAMES)
    address = f"user{rng.randint(1, 9999)}@{rng.choice(('example.org', 'mail.example.net'))}"
    if rng.random() < 0.2:
        return address
    name = f'"{name}"' if "," in name else encoded_word(name)
    return f"{name} <{address}>"


def text_lines(rng: Random, size_bytes: int) -> str:
    lines: list[str] = []
    size = 0
    while size < size_bytes:
        lines.append(" ".join(rng.choices(WORDS, k=rng.randint(3, 12))))
        size += len(lines[-1]) + 2
    return "\r\n".join(lines) + "\r\n"


def body_size(rng: Random) -> int:
    return min(int(rng.lognormvariate(7.2, 1.0)), 60_000)


def plain(rng: Random, number: int) -> Built:
    body = quopri.encodestring(text_lines(rng, body_size(rng)).replace("\r\n", "\n").encode())
    header = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    return Built("text/plain", header, body.replace(b"\n", b"\r\n"))


def latin1(rng: Random, number: int) -> Built:
    body = text_lines(rng, body_size(rng)).encode("latin-1")
    header = b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    return Built("text/plain", header, body)


def html(rng: Random, number: int) -> Built:
    text = f"<html><body><p>{text_lines(rng, 2 * body_size(rng))}</p></body></html>\r\n"
    header = b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    return Built("text/html", header, text.encode())


def attachment(rng: Random, number: int) -> Built:
    data = base64.encodebytes(rng.randbytes(min(int(rng.lognormvariate(9.8, 1.1)), 600_000)))
    kind, name = rng.choice((("image/png", "logo.png"), ("application/pdf", "Bericht.pdf")))
    header = (
        f'Content-Type: {kind}; name="{name}"\r\nContent-Transfer-Encoding: base64\r\n'
        f"Content-Disposition: attachment; filename*0*=utf-8''Quartals%2D;\r\n filename*1=\"{name}\"\r\n"
        f"Content-ID: <{number}@example.net>\r\n\r\n"
    )
    return Built(kind, header.encode(), data.replace(b"\n", b"\r\n"))


def multipart(rng: Random, subtype: str, children: list[Built], *, preamble: bytes = b"") -> Built:
    boundary = f"----=_Part_{rng.getrandbits(64):x}"
    mark = b"--" + boundary.encode()
    body = preamble + b"".join(mark + b"\r\n" + child.data + b"\r\n" for child in children) + mark + b"--\r\n"
    header = f'Content-Type: multipart/{subtype};\r\n boundary="{boundary}"\r\n\r\n'
    return Built(f"multipart/{subtype}", header.encode(), body, children)


def alternative(rng: Random, number: int) -> Built:
    preamble = b"This is a multi-part message in MIME format.\r\n\r\n"
    return multipart(rng, "alternative", [plain(rng, number), html(rng, number)], preamble=preamble)


def mixed(rng: Random, number: int) -> Built:
    first = rng.choice((plain, alternative))(rng, number)
    return multipart(rng, "mixed", [first, *(attachment(rng, number) for _ in range(rng.randint(1, 2)))])


def embedded(rng: Random, number: int) -> Built:
    inner = message(rng, number)
    return Built("message/rfc822", b"Content-Type: message/rfc822\r\n\r\n", inner.data, [inner])


def forwarded(rng: Random, number: int) -> Built:
    return multipart(rng, "mixed", [plain(rng, number), embedded(rng, number)])
