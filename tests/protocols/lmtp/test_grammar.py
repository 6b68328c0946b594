"""Paths and parameters as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.lmtp.grammar import (
    NULL_PATH,
    BadSyntax,
    Path,
    parse_chunk,
    parse_helo_name,
    parse_parameters,
    parse_path,
)


@pytest.mark.parametrize(
    ("text", "path", "rest"),
    [
        ("<>", NULL_PATH, ""),
        ("<> SIZE=1", NULL_PATH, " SIZE=1"),
        ("<a@b.example>", Path("a@b.example", "a@b.example"), ""),
        ("  <a@b.example> X", Path("a@b.example", "a@b.example"), " X"),
        ("<@one.example,@two.example:a@b.example>", Path("a@b.example", "a@b.example"), ""),
        ('<"a b"@c.example>', Path('"a b"@c.example', "a b@c.example"), ""),
        (r'<"a\"\\b>"@c.example>', Path(r'"a\"\\b>"@c.example', r'a"\b>@c.example'), ""),
        ('<"x@y"@c.example>', Path('"x@y"@c.example', "x@y@c.example"), ""),
        ("<a@[192.0.2.1]>", Path("a@[192.0.2.1]", "a@[192.0.2.1]"), ""),
        ("<a@[IPv6:2001:db8::1]>", Path("a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]"), ""),
        ("<postmaster>", Path("postmaster", "postmaster"), ""),
        ("<SRS0=x=y=b.example=u+d@c.example>", Path(*["SRS0=x=y=b.example=u+d@c.example"] * 2), ""),
        ("<björn@例え.example>", Path(*["björn@例え.example"] * 2), ""),
        (f"<{'l' * 256}@c.example>", Path(*["l" * 256 + "@c.example"] * 2), ""),
    ],
)
def test_paths(text: str, path: Path, rest: str) -> None:
    assert parse_path(text) == (path, rest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a@b.example",
        "<a@b.example",
        "<a@>",
        "<@b.example>",
        "<a..b@c.example>",
        "<.a@c.example>",
        "<a.@c.example>",
        "<a b@c.example>",
        "<a@b.example\x00>",
        '<"a\x01"@c.example>',
        '<"a"b@c.example>',
        "<a@b@c.example>",
        "<a@-..example>",
        "<<a@b.example>>",
        "< a@b.example>",
        f"<{'l' * 320}@c.example>",
    ],
)
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(BadSyntax):
        parse_path(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        (" SIZE=5 body=8BITMIME SMTPUTF8", {"SIZE": "5", "BODY": "8BITMIME", "SMTPUTF8": None}),
        (" X-Y=a+b", {"X-Y": "a+b"}),
        ("SIZE=5", None),
        (" SIZE=", None),
        (" =5", None),
        (" SIZE=5 size=6", None),
        (" A=b=c", None),
        (" é=1", None),
    ],
)
def test_parameters(text: str, expected: dict[str, str | None] | None) -> None:
    if expected is None:
        with pytest.raises(BadSyntax):
            parse_parameters(text)
    else:
        assert parse_parameters(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0, False)),
        ("12 LAST", (12, True)),
        ("7  last ", (7, True)),
        ("", None),
        ("-1", None),
        ("5 LAS", None),
    ],
)
def test_chunks(text: str, expected: tuple[int, bool] | None) -> None:
    if expected is None:
        with pytest.raises(BadSyntax):
            parse_chunk(text)
    else:
        assert parse_chunk(text) == expected


def test_helo_names() -> None:
    assert parse_helo_name(" [192.0.2.1] ") == "[192.0.2.1]"
    for bad in ("", "a b", "a\tb", "é", "x" * 256):
        with pytest.raises(BadSyntax):
            parse_helo_name(bad)


@given(st.text(alphabet='<>@:,."\\ab é\x00\r\n[]', max_size=40))
def test_any_text_gives_a_path_or_bad_syntax_and_no_line_break(text: str) -> None:
    try:
        path, _ = parse_path(text)
    except BadSyntax:
        return
    assert not any(ord(ch) < 0x20 for ch in path.raw)
