"""Part numbers and the bytes they mean."""

from __future__ import annotations

import pytest

from storage.mime.sections import Section, Span, find_part, locate
from storage.mime.structure import scan

from .trees import multipart, shape

PLAIN = b"Content-Type: text/plain\r\n\r\n"
INNER_3 = multipart(b"i3", PLAIN + b"3.1", b"Content-Type: application/octet-stream\r\n\r\n3.2")
RICH = b"Content-Type: text/richtext\r\n\r\n4.2.2.2"
INNER_42 = multipart(
    b"i42", PLAIN + b"4.2.1", multipart(b"i422", PLAIN + b"4.2.2.1", RICH, subtype=b"alternative")
)
GIF = b"Content-Type: image/gif\r\n\r\n"
MESSAGE = b"Content-Type: message/rfc822\r\n\r\n"
# The example tree of RFC 9051 §6.4.5.1.
RFC = b"Subject: top\r\n" + multipart(
    b"top",
    PLAIN + b"1",
    b"Content-Type: application/octet-stream\r\n\r\n2",
    MESSAGE + b"Subject: three\r\n" + INNER_3,
    multipart(b"i4", GIF + b"4.1", MESSAGE + b"Subject: four two\r\n" + INNER_42),
)


def body_of(header_and_body: bytes) -> bytes:
    return header_and_body.split(b"\r\n\r\n", 1)[1]


def header_of(header_and_body: bytes) -> bytes:
    return header_and_body.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n"


def bytes_of(data: bytes, section: Section) -> bytes | None:
    span = locate(scan(data), section)
    return None if span is None else data[span.start : span.stop]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (Section(), RFC),
        (Section((), "HEADER"), header_of(RFC)),
        (Section((), "HEADER.FIELDS", (b"subject",)), header_of(RFC)),
        (Section((), "TEXT"), body_of(RFC)),
        (Section((1,)), b"1"),
        (Section((1,), "MIME"), PLAIN),
        (Section((2,)), b"2"),
        (Section((3,)), b"Subject: three\r\n" + INNER_3),
        (Section((3,), "MIME"), MESSAGE),
        (Section((3,), "HEADER"), b"Subject: three\r\n" + header_of(INNER_3)),
        (Section((3,), "HEADER.FIELDS.NOT", (b"to",)), b"Subject: three\r\n" + header_of(INNER_3)),
        (Section((3,), "TEXT"), body_of(INNER_3)),
        (Section((3, 1)), b"3.1"),
        (Section((3, 2)), b"3.2"),
        (Section((4, 1), "MIME"), GIF),
        (Section((4, 2), "HEADER"), b"Subject: four two\r\n" + header_of(INNER_42)),
        (Section((4, 2), "TEXT"), body_of(INNER_42)),
        (Section((4, 2, 1)), b"4.2.1"),
        (Section((4, 2, 2, 1)), b"4.2.2.1"),
        (Section((4, 2, 2, 2)), b"4.2.2.2"),
        (Section((4, 2, 2, 2), "MIME"), header_of(RICH)),
        # what is not there
        (Section((), "MIME"), None),
        (Section((0,)), None),
        (Section((5,)), None),
        (Section((1, 1)), None),
        (Section((1,), "HEADER"), None),
        (Section((1,), "TEXT"), None),
        (Section((4,), "HEADER"), None),
        (Section((4,), "TEXT"), None),
        (Section((3, 3)), None),
        (Section((4, 2, 2, 3)), None),
        (Section((4, 1, 1)), None),
        (Section((2**32,)), None),
    ],
)
def test_sections_of_the_rfc_example(section: Section, expected: bytes | None) -> None:
    assert bytes_of(RFC, section) == expected


SINGLE = b"Subject: x\r\n\r\nbody"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (Section((1,)), b"body"),
        (Section((1,), "MIME"), b"Subject: x\r\n\r\n"),
        (Section((), "TEXT"), b"body"),
        (Section((1,), "TEXT"), None),
        (Section((2,)), None),
        (Section((1, 1)), None),
    ],
)
def test_a_message_without_parts_is_its_own_part_one(section: Section, expected: bytes | None) -> None:
    assert bytes_of(SINGLE, section) == expected


def test_messages_in_messages() -> None:
    """Each embedded message that is no multipart has itself as part 1."""
    data = b"Subject: a\r\n" + MESSAGE + b"Subject: b\r\n" + MESSAGE + b"Subject: c\r\n\r\nheart"
    assert shape(scan(data)) == ("message/rfc822", ("message/rfc822", "text/plain"))
    assert bytes_of(data, Section((1,), "HEADER")) == b"Subject: b\r\n" + MESSAGE
    assert bytes_of(data, Section((1, 1), "HEADER")) == b"Subject: c\r\n\r\n"
    assert bytes_of(data, Section((1, 1, 1))) == b"heart"
    assert bytes_of(data, Section((1, 1, 1, 1))) is None
    assert bytes_of(data, Section((1, 2))) is None


def test_find_part_gives_the_numbered_part() -> None:
    root = scan(RFC)
    assert find_part(root, ()) is root
    found = find_part(root, (4, 2, 2))
    assert found is not None
    assert (found.type, found.subtype) == (b"MULTIPART", b"ALTERNATIVE")


def test_empty_sections_are_there() -> None:
    root = scan(b"")
    assert locate(root, Section()) == Span(0, 0)
    assert locate(root, Section((), "HEADER")) == Span(0, 0)
    assert locate(root, Section((1,))) == Span(0, 0)
