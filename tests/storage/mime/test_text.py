"""Text out of mail."""

from __future__ import annotations

import codecs
import encodings.aliases
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.mime import text as module
from storage.mime.structure import scan
from storage.mime.text import (
    MAX_MARKS,
    STRIDE,
    decode_charset,
    decode_transfer,
    decode_words,
    fold,
    header_text,
    part_text,
    search_text,
    strip_tags,
)

from .trees import multipart


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        (b"", ""),
        (b"=?utf-8?Q?a_b=C3=A4?=", "a bä"),
        (b"=?UTF-8?b?4pyT?= done", "✓ done"),
        # RFC 2047 §8
        (b"=?US-ASCII?Q?Keith_Moore?= <moore@cs.utk.edu>", "Keith Moore <moore@cs.utk.edu>"),
        (b"=?ISO-8859-1?Q?Patrik_F=E4ltstr=F6m?= <paf@nada.kth.se>", "Patrik Fältström <paf@nada.kth.se>"),
        (
            b"=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=\r\n"
            b" =?ISO-8859-2?B?dSB1bmRlcnN0YW5kIHRoZSBleGFtcGxlLg==?=",
            "If you can read this you understand the example.",
        ),
        (b"(=?ISO-8859-1?Q?a?= b)", "(a b)"),
        (b"(=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=)", "(ab)"),
        (b"(=?ISO-8859-1?Q?a?=\r\n    =?ISO-8859-1?Q?b?=)", "(ab)"),
        (b"(=?ISO-8859-1?Q?a_b?=)", "(a b)"),
        (b"(=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=)", "(a b)"),
        (b"=?utf-8*en?Q?a?=", "a"),  # RFC 2231 §5
        (b"=?utf-8?Q?=C3?= =?utf-8?Q?=A4?=", "ä"),  # a character split between words
        (b"=?x-unknown?Q?=C3=A4?=", "ä"),
        (b"=?nonsense?Q?=E4?=", "ä"),
        (b"=?ks_c_5601-1987?B?x9GxuQ==?=", "한국"),
        (b"=?gb2312?B?1tDOxA==?=", "中文"),
        (b"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"),
        (b"=?utf-8?B?4pyT", "=?utf-8?B?4pyT"),
        (b"=?utf-8?X?a?=", "=?utf-8?X?a?="),
        (b"=?utf-8?B?!!!?=", ""),
        (b"=?utf-8?B?4pyT4?=", "✓"),
        (b"=?utf-8?Q?bl=ZZ?=", "bl=ZZ"),
        (b"raw \xc3\xa4 utf-8", "raw ä utf-8"),
        (b"raw \xe4 latin-1", "raw ä latin-1"),
        (b"=?undefined?Q?a?= =?idna?Q?b?= =?hex?Q?63?= =?unicode_escape?Q?=5Cu0041?=", "ab63\\u0041"),
        (b"folded\r\n value", "folded value"),
    ],
)
def test_decode_words(raw: bytes, text: str) -> None:
    assert decode_words(raw) == text


@pytest.mark.parametrize(
    ("data", "encoding", "decoded"),
    [
        (b"YWJj", b"BASE64", b"abc"),
        (b"YW\r\nJj\r\n", b"BASE64", b"abc"),
        (b"YWI", b"BASE64", b"ab"),
        (b"YWI=\r\n-- \r\nlist footer!", b"BASE64", None),
        (b"Y", b"BASE64", b""),
        (b"", b"BASE64", b""),
        (b"a=3D=\r\nb =20\r\n", b"QUOTED-PRINTABLE", b"a=b  \r\n"),
        (b"a=ZZ", b"QUOTED-PRINTABLE", b"a=ZZ"),
        (b"begin 644 x\n", b"X-UUENCODE", b"begin 644 x\n"),
        (b"\xff\x00", b"8BIT", b"\xff\x00"),
    ],
)
def test_decode_transfer(data: bytes, encoding: bytes, decoded: bytes | None) -> None:
    result = decode_transfer(data, encoding)
    assert result.startswith(b"ab") if decoded is None else result == decoded


def test_charsets_that_lie() -> None:
    assert decode_charset(b"\xc3\xa4", b"us-ascii") == "ä"
    assert decode_charset(b"\x93\xe4\x94", b"us-ascii") == "“ä”"
    assert decode_charset(b"\x93x\x94", b"iso-8859-1") == "“x”"
    assert decode_charset(b"a\xff", b"utf-8") == "a\ufffd"
    assert decode_charset(b"\xe4", None) == "ä"
    assert decode_charset(b"a", b"\xff\0" * 50) == "a"


@pytest.mark.parametrize(
    "charset", sorted({*encodings.aliases.aliases.values(), "undefined", "idna", "punycode"})
)
def test_no_charset_of_python_raises(charset: str) -> None:
    for data in (bytes(range(256)), b"\\u00", b"+A-", b"~{", b"\x1b$B\xff", b"xn--\xff"):
        assert isinstance(decode_charset(data, charset.encode()), str)


def test_part_text_and_its_limit() -> None:
    data = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\nw6TDtsO8"
    root = scan(data)
    assert part_text(root, data) == "äöü"
    assert part_text(root, data, limit=4) == "ä\ufffd"


def test_search_text_reads_texts_and_embedded_headers() -> None:
    inner = b"Subject: =?utf-8?q?in=C3=BC?=\r\nTo: a\r\n b\r\n\r\nInner text"
    data = b"Subject: top\r\n" + multipart(
        b"b",
        b"Content-Type: text/html\r\n\r\n<p>one&nbsp;<b>two</b>",
        b"Content-Type: image/png\r\n\r\nnot text",
        b"Content-Type: message/rfc822\r\n\r\n" + inner,
    )
    html, header, text = search_text(scan(data), data, 1 << 20)
    assert html.split() == ["one", "two"]
    assert header.splitlines() == ["Subject: inü", "To: a b"]
    assert text == "Inner text"


def test_search_text_stops_at_the_limit() -> None:
    data = multipart(b"b", *[b"\r\n" + b"x" * 100] * 10)
    assert [len(text) for text in search_text(scan(data), data, 250)] == [100, 100, 50]
    assert list(search_text(scan(data), data, 0)) == []


def test_header_text_keeps_fields_apart() -> None:
    assert header_text(b"A: =?utf-8?q?x?=\r\n =?utf-8?q?y?=\r\nB: z\r\n\r\n") == "A: xy\nB: z\n"


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("plain", ["plain"]),
        ("a<br>b<br/>c", ["a", "b", "c"]),
        ("<style>p { x }</style>a<script type='x'>if (a<b) c</script>b", ["a", "b"]),
        ("<SCRIPT>x</Script >a", ["a"]),
        ("a<!-- <b>hidden</b> -->b", ["a", "b"]),
        ("a --> b", ["a", "b"]),
        ("a<!-- <i title='-->b", ["a", "b"]),
        ("a<style>--></styles></style>b", ["a", "b"]),
        ("<!DOCTYPE html><?xml x?>a", ["a"]),
        ("1 < 2 &amp; 3 &gt; 2", ["1", "<", "2", "&", "3", ">", "2"]),
        ("a<script>never closed", ["a"]),
        ("a<never closed", ["a<never", "closed"]),
        ("", []),
    ],
)
def test_strip_tags(markup: str, words: list[str]) -> None:
    assert strip_tags(markup).split() == words


# Pieces of which markup is made that is hard to read.
MARKUP = ("<", "<!--", "-->", "-", ">", "<b>", "</b", "<script>", "</SCRIPT >", "</style>", "&amp;", "x ")


@settings(max_examples=150)
@given(st.lists(st.sampled_from(MARKUP), max_size=30).map("".join), st.integers(1, 8))
def test_strides_change_nothing(markup: str, stride: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STRIDE", stride)
        found = strip_tags(markup)
    assert found == strip_tags(markup)


@pytest.mark.parametrize("charset", ["gb18030", "shift_jis", "utf-7", "iso-2022-kr", "hz", "cp1252"])
def test_strides_change_no_text(charset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # some decoders do not go on behind such octets, and all is decoded at once
    octets = "日本 a€ é".encode(charset, "ignore") + b"\x81\xff+\x1b${\xe3\x00\xfe\x00\xe3("
    expected = [decode_charset(octets[cut:], charset) for cut in range(len(octets))]
    for stride in (1, 2, 3):
        monkeypatch.setattr(module, "STRIDE", stride)
        assert [decode_charset(octets[cut:], charset) for cut in range(len(octets))] == expected


@pytest.mark.parametrize("charset", ["gb18030", "utf-7", "shift_jis", "us-ascii"])
def test_a_codec_gets_little_at_once(charset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the interpreter to itself, and may take 100 ns an octet."""
    given_bytes: list[int] = []
    real = codecs.getincrementaldecoder

    def watched(codec: str) -> Any:
        class Decoder(real(codec)):  # type: ignore[misc]
            def decode(self, data: bytes, final: bool = False) -> str:
                given_bytes.append(len(data))
                return str(super().decode(data, final))

        return Decoder

    monkeypatch.setattr(codecs, "getincrementaldecoder", watched)
    octets = b"\x81" * (3 * STRIDE + 5)
    assert decode_charset(octets, charset)
    assert sum(given_bytes) == len(octets)
    assert max(given_bytes) <= STRIDE


@pytest.mark.parametrize("opening", ["", "<!--", "<script>"])
def test_a_search_for_tags_sees_few_that_are_none(opening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs 300 ns, without a break until the search is over."""
    seen: list[int] = []

    class Watched:
        def __init__(self, pattern: re.Pattern[str]) -> None:
            self.pattern = pattern

        def search(self, text: str, pos: int, stop: int) -> re.Match[str] | None:
            seen.append(text.count("<", pos, stop))
            return self.pattern.search(text, pos, stop)

    monkeypatch.setattr(module, "_TAG", Watched(module._TAG))
    monkeypatch.setattr(module, "_HIDING", {tag: Watched(end) for tag, end in module._HIDING.items()})
    strip_tags(opening + "<" * (3 * STRIDE))
    assert len(seen) >= 3
    assert max(seen) <= STRIDE


def test_looking_for_the_end_of_a_stride_is_not_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    class Text(str):
        __slots__ = ()

        def find(self, *arguments: Any) -> int:
            looked.append(arguments[1])
            return super().find(*arguments)

    text = Text("<b>" * 1000 + "x" * 100_000)
    assert strip_tags(text).strip() == "x" * 100_000
    assert len(looked) <= 2


@settings(max_examples=150)
@given(st.text("ABcd01+/=-_ \r\n", max_size=60))
def test_base64_skips_what_is_none(text: str) -> None:
    digits = re.sub(r"[^A-Za-z0-9+/]", "", text)
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]
    expected = codecs.decode((digits + "=" * (-len(digits) % 4)).encode(), "base64")
    assert decode_transfer(text.encode(), b"BASE64") == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [("Straße", "STRASSE"), ("É", "e\u0301"), ("Ǆ", "ǆ"), ("ΌΣΟΣ", "όσος"), ("ﬁ", "FI"), ("K", "\u212a")],
)
def test_fold_makes_equal(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_fold_is_not_quadratic_in_combining_marks() -> None:
    """Two million marks out of order take seconds when sorted in one run of 60,000 already."""
    marks = "\u0301\u0323"
    assert len(fold("\u2014e" + marks * 1_000_000 + "x")) == 2 + MAX_MARKS + 1
    assert fold("e" + marks * 5) == fold("e" + "\u0323" * 5 + "\u0301" * 5)
    assert fold("\u2550" * 100) == "\u2550" * 100


def test_fold_keeps_accents_apart() -> None:
    assert fold("é") != fold("e")


@settings(max_examples=150)
@given(st.binary(max_size=200))
@example(b"=?" * 50)
def test_any_bytes_have_a_text(data: bytes) -> None:
    for raw in (data, b"=?utf-8?B?" + data + b"?=", b"=?utf-7?Q?" + data + b"?="):
        assert isinstance(decode_words(raw), str)
        assert isinstance(header_text(raw), str)
    for encoding in (b"BASE64", b"QUOTED-PRINTABLE", b"7BIT"):
        assert isinstance(decode_transfer(data, encoding), bytes)
    text = data.decode("latin-1")
    assert fold(fold(text)) == fold(text)
    assert isinstance(strip_tags(text), str)
