"""Real-looking and hostile messages, from a seed. Every message differs from every other in its bytes."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator

WORDS = (
    "invoice",
    "meeting",
    "project",
    "the",
    "and",
    "of",
    "to",
    "in",
    "for",
    "with",
    "budget",
    "quarterly",
    "report",
    "please",
    "find",
    "attached",
    "regards",
    "tomorrow",
    "delivery",
    "customer",
    "schedule",
    "review",
    "update",
    "server",
    "mail",
    "cluster",
    "storage",
    "lunch",
)
NAMES = ("Ann Example", "Bob Tester", "Żółta Łódź", "山田太郎", "O'Brien, Pat", "Dr. Q. Public")


def messages(seed: int, count: int, *, to: str = "test@sora.localhost") -> Iterator[bytes]:
    """``count`` messages in a realistic mixture; sizes from 1 KB to some 200 KB, mean about 20 KB."""
    rng = random.Random(seed)
    kinds = (
        plain,
        plain,
        plain,
        alternative,
        alternative,
        alternative,
        attachments,
        attachments,
        forwarded,
        latin1,
    )
    for n in range(count):
        yield rng.choice(kinds)(rng, f"{seed}.{n}@corpus.example.test", to)


def headers(rng: random.Random, message_id: str, to: str) -> bytes:
    name = rng.choice(NAMES)
    spelled = name if name.isascii() and "," not in name else encoded_word(name)
    if "," in name:
        spelled = f'"{name}"'
    subject = " ".join(rng.choices(WORDS, k=rng.randint(2, 9)))
    if rng.random() < 0.3:
        subject = encoded_word(subject + " – Übergrößenträger ✓")
    day = rng.randint(1, 28)
    return (
        f"Received: from mx{rng.randint(1, 9)}.example.test by relay.example.test with ESMTPS;\r\n"
        f"\tSat, {day:02d} Nov 2025 10:{rng.randint(0, 59):02d}:00 +0100\r\n"
        f"From: {spelled} <sender{rng.randint(1, 99)}@example.test>\r\n"
        f"To: <{to}>\r\nSubject: {subject}\r\nMessage-ID: <{message_id}>\r\n"
        f"Date: Sat, {day:02d} Nov 2025 10:00:00 +0100\r\nMIME-Version: 1.0\r\n"
    ).encode()


def encoded_word(text: str) -> str:
    return f"=?utf-8?B?{base64.b64encode(text.encode()).decode()}?="


def text(rng: random.Random, lines: int) -> bytes:
    return b"".join((" ".join(rng.choices(WORDS, k=11)) + "\r\n").encode() for _ in range(lines))


def binary(rng: random.Random, size: int) -> bytes:
    encoded = base64.b64encode(rng.randbytes(size))
    return b"".join(encoded[i : i + 76] + b"\r\n" for i in range(0, len(encoded), 76))


def plain(rng: random.Random, message_id: str, to: str) -> bytes:
    return (
        headers(rng, message_id, to)
        + b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
        + text(rng, rng.randint(5, 120))
    )


def alternative(rng: random.Random, message_id: str, to: str) -> bytes:
    body = text(rng, rng.randint(20, 150))
    html = b"<html><body><p>" + body.replace(b"\r\n", b"<br>\r\n") + b"</p></body></html>\r\n"
    return (
        headers(rng, message_id, to)
        + b'Content-Type: multipart/alternative; boundary="=_alt"\r\n\r\n'
        + b"--=_alt\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        + body
        + b"--=_alt\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        + html
        + b"--=_alt--\r\n"
    )


def attachments(rng: random.Random, message_id: str, to: str) -> bytes:
    return (
        headers(rng, message_id, to)
        + b'Content-Type: multipart/mixed; boundary="mix"\r\n\r\nThis is a multi-part message.\r\n'
        + b"--mix\r\nContent-Type: text/plain\r\n\r\n"
        + text(rng, 12)
        + b"--mix\r\nContent-Type: application/pdf; name*0*=utf-8''%C3%BCber; name*1*=sicht.pdf\r\n"
        + b"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=x.pdf\r\n\r\n"
        + binary(rng, rng.choice((2_000, 10_000, 40_000, 120_000)))
        + b"--mix--\r\n"
    )


def forwarded(rng: random.Random, message_id: str, to: str) -> bytes:
    inner = plain(rng, f"inner.{message_id}", to)
    return (
        headers(rng, message_id, to)
        + b'Content-Type: multipart/mixed; boundary="fwd"\r\n\r\n'
        + b"--fwd\r\n\r\nSee below.\r\n--fwd\r\nContent-Type: message/rfc822\r\n\r\n"
        + inner
        + b"\r\n--fwd--\r\n"
    )


def latin1(rng: random.Random, message_id: str, to: str) -> bytes:
    return (
        headers(rng, message_id, to)
        + "X-Raw: Grüße aus Köln\r\n".encode("latin-1")
        + b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        + "Schöne Grüße, naïve façade\r\n".encode("latin-1") * rng.randint(3, 60)
    )


def hostile() -> dict[str, bytes]:
    """Mail that breaks rules; each must be delivered and returned byte for byte."""
    top = b"From: a@example.test\r\nSubject: hostile\r\n"
    nested = b"Content-Type: message/rfc822\r\n\r\n" * 500
    mixed = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    many = b"".join(b"--b\r\n\r\nx\r\n" for _ in range(10_000))
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(300)
    )
    return {
        "empty": b"",
        "no header": b"\r\njust a body\r\n",
        "no body": top,
        "no final line end": top + b"\r\nlast line",
        "nul bytes": top + b"\r\nnul \0 here\r\n\0\0\r\n",
        "8-bit header": b"Subject: \xff\xfe\x80\r\nFrom: \xe4@\xf6\r\n\r\nbody\r\n",
        "long line": top + b"\r\n" + b"x" * 100_000 + b"\r\n",
        "long header": b"X-Long: " + b"y" * 50_000 + b"\r\n" + top + b"\r\nbody\r\n",
        "dots": top + b"\r\n.\r\n..\r\n...\r\n.x\r\n",
        "bare line feeds": top + b"\r\none\ntwo\n.\nthree\r\n",
        "bare carriage returns": top + b"\r\none\rtwo\r.\rthree\r\n",
        "no boundary": top + b"Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\nhi\r\n",
        "unclosed multipart": top + mixed + b"--b\r\n\r\nhi\r\n",
        "empty multipart": top + mixed + b"--b--\r\n",
        "ten thousand parts": top
        + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        + many
        + b"--b--\r\n",
        "nested messages": top + nested + b"x\r\n",
        "nested multiparts": top + deep + b"x\r\n",
        "bad encoding name": top + b"Content-Transfer-Encoding: x-nonsense\r\n\r\nbody\r\n",
        "bad base64": top + b"Content-Transfer-Encoding: base64\r\n\r\n!!!not base64***\r\n",
    }


def strip_trace(message: bytes) -> bytes:
    """Cut the headers that delivery added in front: Return-Path, Delivered-To and one Received."""
    for name in (b"Return-Path:", b"Delivered-To:", b"Received:"):
        assert message.startswith(name), message[:300]
        end = re.compile(rb"\n(?![ \t])").search(message)
        assert end is not None
        message = message[end.end() :]
    return message
