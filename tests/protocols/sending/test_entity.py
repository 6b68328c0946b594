"""Bodies of mail of our own, whatever text they are made from."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.sending.entity import Entity, mime_entity, text_entity

from .letters import check_header, check_octets

SOME = settings(max_examples=150, deadline=None)
TEXTS = st.text(max_size=300) | st.text("ab.=-: \r\n\t\0ü", max_size=300)


def read(entity: Entity) -> EmailMessage:
    check_header(entity.fields)
    check_octets(entity.body)
    found = message_from_bytes(entity.fields + b"\r\n" + entity.body, policy=policy.default)
    assert isinstance(found, EmailMessage)
    assert found["MIME-Version"] == "1.0"
    return found


def lines(text: str) -> list[str]:
    """As the reader of a message should see them."""
    found = re.split("\r\n|\r|\n", text.replace("\0", "").encode("utf-8", "replace").decode())
    return found[:-1] if found[-1] == "" else found


@SOME
@given(TEXTS)
@example("Ich bin weg.\n\nGrüße\n.\nFrom here\n  trailing \t")
@example("x" * 5000)
@example("日本語" * 400)
@example("\ud800\r\r\n\n")
def test_text_comes_back(text: str) -> None:
    entity = text_entity(text)
    assert entity.body.isascii()
    assert lines(read(entity).get_content()) == lines(text)


def test_short_ascii_text_is_sent_as_it_is() -> None:
    entity = text_entity("I am away.\nAnn\n")
    assert entity.body == b"I am away.\r\nAnn\r\n"
    assert entity.fields == b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n"


@pytest.mark.parametrize(("text", "encoding"), [("Grüße von mir", "quoted-printable"), ("日本語", "base64")])
def test_the_encoding_fits_the_text(text: str, encoding: str) -> None:
    assert read(text_entity(text))["Content-Transfer-Encoding"] == encoding


@SOME
@given(TEXTS | TEXTS.map(lambda text: f"Content-Type: text/html\n\n{text}"))
@example("Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\nü" + "x" * 3000)
@example("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nü" + "x" * 3000 + "\n--b--")
@example("Content-Disposition: " + "x; " * 2000 + "\n\nb")
@example("\n\nb")
def test_any_mime_text_becomes_a_message(text: str) -> None:
    read(mime_entity(text))


def test_only_fields_of_the_content_are_taken_and_each_once() -> None:
    entity = mime_entity(
        "Subject: other\nContent-Type: text/html;\n charset=utf-8\nMIME-Version: 2.0\nBcc: eve@evil.test\n"
        "Content-type: text/plain\nContent-Language: de\n\n<p>Hallo</p>\n"
    )
    assert entity.fields == (
        b"MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\nContent-Language: de\r\n"
    )
    assert entity.body == b"<p>Hallo</p>\r\n"
    assert not entity.notes


def test_parts_stay_as_their_author_wrote_them() -> None:
    encoding = "charset=utf-8\nContent-Transfer-Encoding: 8bit"
    parts = f"--b\nContent-Type: text/plain; {encoding}\n\nGrüße\n"
    parts += f"--b\nContent-Type: text/html; {encoding}\n\n<p>Grüße</p>\n--b--\n"
    found = read(mime_entity(f"Content-Type: multipart/alternative; boundary=b\n\n{parts}"))
    assert found["Content-Transfer-Encoding"] == "8bit"
    assert [each.get_content().strip() for each in found.iter_parts()] == ["Grüße", "<p>Grüße</p>"]


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("Content-Type: text/html", "text/html"),
        ("Content-Type: text/html; charset=us-ascii", "text/html"),
        ("Content-Type: text/plain\nContent-Transfer-Encoding: 8bit", "text/plain"),
        ("Content-Type: text/plain\nContent-Transfer-Encoding: 7BIT", "text/plain"),
        ("Content-Language: de", "text/plain"),
    ],
)
def test_8_bit_text_is_encoded_and_its_charset_said(header: str, kind: str) -> None:
    entity = mime_entity(f"{header}\n\nGrüße\n")
    found = read(entity)
    assert entity.body.isascii()
    assert found.get_content_type() == kind
    assert found.get_content_charset() == "utf-8"
    assert found.get_content().splitlines() == ["Grüße"]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("Hello there", "plain text"),
        ("Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\nü\n", "octets"),
        ("Content-Type: multipart/mixed; boundary=b\n\n" + "x" * 2000, "lines"),
    ],
)
def test_the_author_is_told_of_what_is_wrong(text: str, note: str) -> None:
    (told,) = mime_entity(text).notes
    assert note in told
