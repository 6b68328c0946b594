"""What a move says, and what of a message is told."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.spamtraining.lesson import Judgement, Lesson, encode_lesson, judgement, without_attachments
from storage.mime.structure import scan
from storage.model import AccountId, ContentHash, MailboxId, SpecialUse, Uid

HEAD = b"From: a@b.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
TEXT = b"--x\r\n\r\nbuy now\r\n"
HTML = b"--x\r\nContent-Type: text/html\r\n\r\n<b>buy</b>\r\n"
PDF = b"--x\r\nContent-Type: application/pdf\r\n\r\n%s\r\n"
NOTES = b"--x\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename=n.txt\r\n\r\n%s\r\n"
MESSAGE = b"--x\r\nContent-Type: message/rfc822\r\n%s\r\nSubject: inner\r\n\r\ninner text\r\n"
END = b"--x--\r\n"

J, T, A = SpecialUse.JUNK, SpecialUse.TRASH, SpecialUse.ARCHIVE


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (None, J, Judgement.SPAM),
        (A, J, Judgement.SPAM),
        (T, J, Judgement.SPAM),
        (J, None, Judgement.HAM),
        (J, A, Judgement.HAM),
        (J, T, None),
        (J, J, None),
        (None, None, None),
        (None, T, None),
        (A, None, None),
    ],
)
def test_judgement(source: SpecialUse | None, target: SpecialUse | None, expected: Judgement | None) -> None:
    assert judgement(source, target) is expected


def stripped(content: bytes, limit: int = 0, prefix: bytes = b"Received: x\r\n") -> tuple[bytes, int]:
    return without_attachments(prefix + content, len(prefix), scan(content), limit)


def test_attachments_are_left_out_and_text_stays() -> None:
    content = HEAD + TEXT + PDF % b"JVBERi0=" + HTML + NOTES % b"secret" + MESSAGE % b"" + END
    left = HEAD + TEXT + PDF % b"" + HTML + NOTES % b"" + MESSAGE % b"" + END
    assert stripped(content) == (b"Received: x\r\n" + left, 2)


def test_an_attached_message_is_an_attachment() -> None:
    content = HEAD + TEXT + MESSAGE % b"Content-Disposition: Attachment\r\n" + END
    message, left_out = stripped(content)
    assert left_out == 1
    assert b"inner" not in message


def test_small_attachments_may_stay() -> None:
    content = HEAD + PDF % b"12345" + PDF % b"123456" + END
    assert stripped(content, 5) == (b"Received: x\r\n" + HEAD + PDF % b"12345" + PDF % b"" + END, 1)
    assert stripped(content, 6) == (b"Received: x\r\n" + content, 0)


def test_a_message_that_is_nothing_but_an_attachment() -> None:
    head = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert stripped(head + b"AAAA") == (b"Received: x\r\n" + head, 1)


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from([HEAD, TEXT, PDF, NOTES, MESSAGE, HTML, END, b"\r\n", b"\xff\x00", b"x"])),
    st.integers(0, 20),
)
def test_any_octets(pieces: list[bytes], limit: int) -> None:
    content = b"".join(pieces)
    message, left_out = stripped(content, limit)
    assert message.startswith(b"Received: x\r\n")
    assert (len(message) < len(content) + 13) == bool(left_out)


def test_the_request() -> None:
    lesson = Lesson(
        *(Judgement.HAM, AccountId(1), "ann@example.test", "Junk", "Grüße", MailboxId(5), Uid(7)),
    )
    raw = encode_lesson(lesson, b"\xff\r\n", size_bytes=10, left_out=1, digest=ContentHash(b"\xab" * 32))
    assert json.loads(raw) == {
        "class": "ham",
        "account": "ann@example.test",
        "from_mailbox": "Junk",
        "to_mailbox": "Grüße",
        "message": base64.b64encode(b"\xff\r\n").decode(),
        "size": 10,
        "left_out": 1,
        "hash": "ab" * 32,
    }
