"""The part tree: tables of good and bad messages, examples of the RFCs, stdlib as a second opinion."""

from __future__ import annotations

import email
import email.message
import mmap
import tempfile
from random import Random

import pytest

from storage.errors import Corrupt
from storage.mime.structure import Part, count_lines, decode_structure, encode_structure, scan
from tests.support.messages import Built, corpus

from .trees import assert_as_built, assert_invariants, bodies, every, multipart, shape

TEXT = b"Content-Type: text/plain\r\n\r\n"


def leaf(**changes: object) -> Part:
    fields: dict[str, object] = {
        "type": b"TEXT",
        "subtype": b"PLAIN",
        "params": [(b"CHARSET", b"US-ASCII")],
        "content_id": None,
        "description": None,
        "encoding": b"7BIT",
        "md5": None,
        "disposition": None,
        "language": [],
        "location": None,
        "header_start": 0,
        "body_start": 0,
        "body_end": 0,
    }
    return Part(**(fields | changes))  # type: ignore[arg-type]


def test_message_that_says_nothing_is_ascii_text() -> None:
    data = b"Subject: x\r\n\r\none\r\ntwo"
    assert scan(data) == leaf(body_start=14, body_end=22, lines=1)
    assert scan(b"") == leaf()


def test_every_describing_field() -> None:
    header = (
        b'CONTENT-TYPE: text/X-Foo;\r\n\tcharset="utf-8"; format=flowed\r\n'
        b"content-id: <a@b>\r\nContent-Description: some\r\n thing\r\n"
        b"Content-Transfer-Encoding: Base64 (yes)\r\n"
        b"Content-MD5: abc==\r\nContent-Disposition: attachment; filename*0=a; filename*1=b\r\n"
        b"Content-Language: de, en-GB\r\nContent-Location: http://x.example/a;b\r\n\r\n"
    )
    assert scan(header + b"YQ==\r\n") == leaf(
        subtype=b"X-FOO",
        params=[(b"CHARSET", b"utf-8"), (b"FORMAT", b"flowed")],
        content_id=b"<a@b>",
        description=b"some thing",
        encoding=b"BASE64",
        md5=b"abc==",
        disposition=(b"ATTACHMENT", [(b"FILENAME", b"ab")]),
        language=[b"de", b"en-GB"],
        location=b"http://x.example/a;b",
        body_start=len(header),
        body_end=len(header) + 6,
        lines=1,
    )


@pytest.mark.parametrize(
    "value",
    [b"", b"text", b"text/", b"/plain", b"a b/c", b"text/plain/x", b"\xe4/x", b"text\x01/plain", b";"],
)
def test_unreadable_type_is_ascii_text(value: bytes) -> None:
    part = scan(b"Content-Type: " + value + b"\r\n\r\nx")
    assert (part.type, part.subtype, part.params) == (b"TEXT", b"PLAIN", [(b"CHARSET", b"US-ASCII")])


@pytest.mark.parametrize(
    "value", [b"image/png", b"image / png", b"image/png charset=x", b"IMAGE/PNG(c); x=y"]
)
def test_sloppy_types_are_read(value: bytes) -> None:
    assert shape(scan(b"Content-Type: " + value + b"\r\n\r\nx")) == "image/png"


def test_body_structure_of_the_rfc() -> None:
    """RFC 9051 §7.5.2: the two-part example, with bodies of the sizes and line counts it gives."""
    text = b"x" * (1152 - 23 * 2) + b"\r\n" * 23
    diff = b"y" * (4554 - 73 * 2) + b"\r\n" * 73
    data = multipart(
        b"b",
        b"Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\r\n\r\n" + text,
        b"Content-Type: TEXT/PLAIN; CHARSET=US-ASCII; NAME=cc.diff\r\n"
        b"Content-ID: <960723163407.20117h@cac.washington.edu>\r\nContent-Description: Compiler diff\r\n"
        b"Content-Transfer-Encoding: BASE64\r\n\r\n" + diff,
    )
    root = scan(data)
    assert shape(root) == ("multipart/mixed", "text/plain", "text/plain")
    assert [(part.size_bytes, part.lines) for part in root.children] == [(1152, 23), (4554, 73)]
    second = root.children[1]
    assert second.params == [(b"CHARSET", b"US-ASCII"), (b"NAME", b"cc.diff")]
    assert second.content_id == b"<960723163407.20117h@cac.washington.edu>"
    assert (second.description, second.encoding) == (b"Compiler diff", b"BASE64")


def test_embedded_message_has_its_envelope_and_lines() -> None:
    inner = b"Subject: in\r\nFrom: a@b\r\n\r\nx\r\ny\r\n"
    data = multipart(b"b", b"Content-Type: message/rfc822\r\n\r\n" + inner)
    message = scan(data).children[0]
    assert message.is_message
    assert message.envelope is not None
    assert message.envelope.subject == b"in"
    assert message.lines == 5
    assert data[message.body_start : message.body_end] == inner
    assert data[message.children[0].body_start : message.children[0].body_end] == b"x\r\ny\r\n"


def test_other_message_types_are_leaves() -> None:
    for subtype in (b"delivery-status", b"partial", b"external-body", b"disposition-notification"):
        part = scan(b"Content-Type: message/" + subtype + b"\r\n\r\nA: b\r\n\r\nC: d\r\n")
        assert (part.children, part.lines, part.is_message) == ([], 0, False)


def test_digest_parts_are_messages_unless_they_say_so() -> None:
    data = multipart(
        b"b", b"\r\nSubject: one\r\n\r\n1", TEXT + b"2", b"\r\nSubject: three\r\n\r\n3", subtype=b"digest"
    )
    root = scan(data)
    assert shape(root) == (
        "multipart/digest",
        ("message/rfc822", "text/plain"),
        "text/plain",
        ("message/rfc822", "text/plain"),
    )
    assert [p.envelope.subject for p in root.children if p.envelope] == [b"one", b"three"]
    assert shape(scan(b"Content-Type: text/digest\r\n\r\nx")) == "text/digest"


OUTER = b"Content-Type: multipart/mixed; boundary=out\r\n\r\n"
INNER = b"Content-Type: multipart/alternative; boundary=in\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected", "texts"),
    [
        # no usable boundary, or one that never occurs: the whole body is there as text
        (
            b"Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\nx",
            ("multipart/mixed", "text/plain"),
            [b"--b\r\n\r\nx"],
        ),
        (
            b'Content-Type: multipart/mixed; boundary=""\r\n\r\n--\r\nx',
            ("multipart/mixed", "text/plain"),
            [b"--\r\nx"],
        ),
        (OUTER + b"only preamble", ("multipart/mixed", "text/plain"), [b"only preamble"]),
        (OUTER, ("multipart/mixed", "text/plain"), [b""]),
        (OUTER[:-2], ("multipart/mixed", "text/plain"), [b""]),
        (OUTER[:-4], ("multipart/mixed", "text/plain"), [b""]),
        (OUTER + b"--out--\r\nepilogue", ("multipart/mixed", "text/plain"), [b"--out--\r\nepilogue"]),
        # endings
        (OUTER + b"--out\r\n\r\nx", ("multipart/mixed", "text/plain"), [b"x"]),
        (OUTER + b"--out\r\n\r\nx\r\n", ("multipart/mixed", "text/plain"), [b"x\r\n"]),
        (OUTER + b"--out\r\n\r\nx\r\n--out--", ("multipart/mixed", "text/plain"), [b"x"]),
        (OUTER + b"--out\r\n\r\nx\r\n--out", ("multipart/mixed", "text/plain", "text/plain"), [b"x", b""]),
        (OUTER + b"--out", ("multipart/mixed", "text/plain"), [b""]),
        (
            OUTER + b"--out\r\n\r\nx\r\n--out \t \r\n\r\ny\r\n--out-- \r\n--out\r\n\r\nz",
            ("multipart/mixed", "text/plain", "text/plain"),
            [b"x", b"y"],
        ),
        # lines that only look like delimiters
        (
            OUTER + b"--out\r\n\r\nx\r\n--outer\r\n --out\r\n--ou\r\nx--out\r\n--out-\r\n--out--x\r\n--out--",
            ("multipart/mixed", "text/plain"),
            [b"x\r\n--outer\r\n --out\r\n--ou\r\nx--out\r\n--out-\r\n--out--x"],
        ),
        (
            OUTER + b"--out\r\n\r\nx\r\n--OUT\r\ny\r\n--out--",
            ("multipart/mixed", "text/plain"),
            [b"x\r\n--OUT\r\ny"],
        ),
        # LF only, and CR only
        (
            OUTER.replace(b"\r", b"") + b"--out\n\nx\n\n--out\n\ny\n--out--\n",
            ("multipart/mixed", "text/plain", "text/plain"),
            [b"x\n", b"y"],
        ),
        (OUTER + b"--out\r\rx\r--out--\r", ("multipart/mixed", "text/plain"), [b"--out\r\rx\r--out--\r"]),
        # empty parts and parts that end within their header
        (
            OUTER + b"--out\r\n--out\r\n\r\n--out\r\nX: y\r\n--out\r\nX: y\r\n\r\n--out--",
            ("multipart/mixed", *["text/plain"] * 4),
            [b""] * 4,
        ),
        (
            OUTER + b"--out\r\nContent-Type: text/html\r\n--out\r\n\r\nx",
            ("multipart/mixed", "text/html", "text/plain"),
            [b"", b"x"],
        ),
        (
            OUTER + b"--out\r\nContent-Type: message/rfc822\r\n--out\r\n\r\nx",
            ("multipart/mixed", ("message/rfc822", "text/plain"), "text/plain"),
            [b"", b"x"],
        ),
        (
            OUTER + b"--out\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\n--out--",
            ("multipart/mixed", ("message/rfc822", "text/plain")),
            [b""],
        ),
        (
            OUTER + b"--out\r\nContent-Type: message/rfc822\r\n\r\n--out--",
            ("multipart/mixed", ("message/rfc822", "text/plain")),
            [b""],
        ),
        # a delimiter of the parent ends what the child left open
        (
            OUTER + b"--out\r\n" + INNER + b"--in\r\n\r\nx\r\n--out\r\n\r\ny\r\n--in--\r\n--out--",
            ("multipart/mixed", ("multipart/alternative", "text/plain"), "text/plain"),
            [b"x", b"y\r\n--in--"],
        ),
        (
            OUTER + b"--out\r\n" + INNER + b"--out--\r\n--in\r\n",
            ("multipart/mixed", ("multipart/alternative", "text/plain")),
            [b""],
        ),
        (
            OUTER + b"--out\r\n" + INNER[:-2] + b"--out\r\n\r\ny",
            ("multipart/mixed", ("multipart/alternative", "text/plain"), "text/plain"),
            [b"", b"y"],
        ),
        # boundaries that are prefixes of one another
        (
            multipart(
                b"b", multipart(b"bb", TEXT + b"1", TEXT + b"2"), multipart(b"b--", TEXT + b"3"), TEXT + b"4"
            ),
            (
                "multipart/mixed",
                ("multipart/mixed", "text/plain", "text/plain"),
                ("multipart/mixed", "text/plain"),
                "text/plain",
            ),
            [b"1", b"2", b"3", b"4"],
        ),
        # equal boundaries: the innermost multipart that is open has it
        (
            multipart(b"b", multipart(b"b", TEXT + b"1", TEXT + b"2"), TEXT + b"3"),
            ("multipart/mixed", ("multipart/mixed", "text/plain", "text/plain"), "text/plain"),
            [b"1", b"2", b"3"],
        ),
        # RFC 2231 boundary
        (
            b"Content-Type: multipart/mixed; boundary*0=ou; boundary*1=t\r\n\r\n--out\r\n\r\nx\r\n--out--",
            ("multipart/mixed", "text/plain"),
            [b"x"],
        ),
        # too long to be a boundary
        (
            b"Content-Type: multipart/mixed; boundary="
            + b"b" * 300
            + b"\r\n\r\n--"
            + b"b" * 300
            + b"\r\n\r\nx",
            ("multipart/mixed", "text/plain"),
            [b"--" + b"b" * 300 + b"\r\n\r\nx"],
        ),
    ],
)
def test_odd_messages(data: bytes, expected: object, texts: list[bytes]) -> None:
    root = scan(data)
    assert shape(root) == expected
    assert bodies(root, data) == texts
    assert_invariants(root, data)


def test_generated_messages_scan_as_built() -> None:
    for built in corpus(seed=1, count=150):
        root = scan(built.data)
        assert_as_built(root, built, built.data)
        assert_invariants(root, built.data)


def assert_as_stdlib(part: Part, other: email.message.Message) -> None:
    assert f"{part.type.decode()}/{part.subtype.decode()}".lower() == other.get_content_type()
    payload = other.get_payload()
    children = payload if isinstance(payload, list) else []
    assert len(part.children) == len(children)
    for child, stdlib_child in zip(part.children, children, strict=True):
        assert_as_stdlib(child, stdlib_child)


def test_stdlib_sees_the_same_trees() -> None:
    for built in corpus(seed=2, count=100):
        assert_as_stdlib(scan(built.data), email.message_from_bytes(built.data))


def random_tree(rng: Random, depth: int) -> Built:
    """Nested multiparts and messages with bodies that tease: boundary-like lines, no final line ending."""
    kind = rng.choice(("leaf", "leaf", "multipart", "message") if depth < 6 else ("leaf",))
    if kind == "leaf":
        pieces = [
            b"--",
            b"\r\n",
            b"\r\n\r\n",
            b"b",
            b"--b",
            b" text",
            b"=",
            b"\x00\xff",
            b"-",
            b"Content-Type: x/y",
        ]
        body = b"".join(rng.choices(pieces, k=rng.randint(0, 8)))
        name = rng.choice(("text/plain", "text/html", "image/png"))
        return Built(name, f"Content-Type: {name}\r\n\r\n".encode(), body)
    if kind == "message":
        inner = random_tree(rng, depth + 1)
        return Built("message/rfc822", b"Content-Type: message/rfc822\r\n\r\n", inner.data, [inner])
    boundary = f"b{rng.getrandbits(60):x}".encode()
    children = [random_tree(rng, depth + 1) for _ in range(rng.randint(1, 3))]
    whole = multipart(boundary, *(child.data for child in children))
    at = whole.index(b"\r\n\r\n") + 4
    epilogue = rng.choice((b"", b"\r\n", b"epilogue --" + boundary))
    return Built("multipart/mixed", whole[:at], whole[at:] + epilogue, children)


@pytest.mark.parametrize("seed", range(100))
def test_random_trees_scan_as_built(seed: int) -> None:
    built = random_tree(Random(seed), 0)
    root = scan(built.data)
    assert_as_built(root, built, built.data)
    assert_invariants(root, built.data)
    assert_as_stdlib(root, email.message_from_bytes(built.data))


def test_every_kind_of_buffer_gives_the_same_tree() -> None:
    data = next(built.data for built in corpus(seed=3, count=50) if b"message/rfc822" in built.data)
    expected = scan(data)
    assert scan(bytearray(data)) == scan(memoryview(data)) == expected
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert scan(mapped) == expected
            assert count_lines(mapped, 10, len(data)) == data.count(b"\n", 10)


def test_encoding_round_trip() -> None:
    for built in corpus(seed=4, count=50):
        root = scan(built.data)
        assert decode_structure(encode_structure(root)) == root
        assert all(isinstance(value, tuple) for part in every(root) for value in part.params)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\x01\x02", b"\x91\x01", b"\x90"])
def test_foreign_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_structure(data)
