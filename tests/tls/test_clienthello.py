"""The first message of a TLS client: found in records of any shape, read, or refused; never an exception."""

from __future__ import annotations

import ssl
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import hellos
from tls.clienthello import MAX_HELLO, MAX_RECORDS, ClientHello, Refused, parse, scan


def read(wire: bytes) -> ClientHello:
    found = scan(wire)
    assert isinstance(found, bytes)
    hello = parse(found)
    assert hello is not None
    return hello


def test_a_real_client() -> None:
    hello = read(hellos.recorded(alpn=["imap", "h2"]))
    assert hello.version == 0x0303
    assert hello.sni == "mail.example.test"
    assert hello.alpn == (b"imap", b"h2")
    assert hello.supported_versions[0] == 0x0304
    assert 0x1301 in hello.ciphers
    assert {0, 10, 13, 16, 43, 51} <= set(hello.extensions)
    assert 0x0403 in hello.signature_algorithms


def test_a_real_client_of_tls_1_2() -> None:
    hello = read(hellos.recorded(newest=ssl.TLSVersion.TLSv1_2, server_name=None))
    assert hello.supported_versions == ()
    assert (hello.sni, hello.is_sni_bad) == ("", False)


@pytest.mark.parametrize("most", [1, 3, 4, 5, 100, 16384])
def test_every_shape_of_records_gives_the_same_message(most: int) -> None:
    message = hellos.body(extensions=[hellos.server_name(b"a.example")])
    wire = hellos.records(message, most=max(most, -(-(len(message) + 4) // MAX_RECORDS)))
    assert scan(wire) == message
    asked = [1]
    while isinstance(found := scan(wire[: asked[-1]]), int):
        asked.append(found)
    assert found == message
    assert all(before < after for before, after in pairwise(asked))
    assert asked[-1] == len(wire)
    assert len(asked) <= 2 * MAX_RECORDS + 1


def test_what_is_asked_for_comes_in_few_steps() -> None:
    wire = hellos.recorded()
    assert scan(wire[:1]) == 5
    assert scan(wire[:5]) == len(wire)
    assert scan(wire[:-1]) == len(wire)
    assert scan(b"") == 5


def test_bytes_behind_the_message_are_no_part_of_it() -> None:
    message = hellos.body()
    assert scan(hellos.records(message) + b"\x14\3\3\0\1\1") == message
    joined = b"\1" + hellos.vector(3, message) + b"\x02behind"
    assert scan(b"\x16\3\1" + hellos.vector(2, joined)) == message


def test_the_longest_message_and_one_octet_more() -> None:
    padding = [(40000 + n, bytes(30_000)) for n in range(2)]
    exact = hellos.body(extensions=padding)
    exact = exact + bytes(MAX_HELLO - len(exact))
    assert scan(hellos.records(exact)) == exact
    assert scan(hellos.records(exact + b"\0")[:9]) is Refused.TOO_LARGE


def test_a_message_in_too_many_records_is_refused() -> None:
    message = hellos.body(extensions=[(21, bytes(500))])
    assert scan(hellos.records(message, most=1)) is Refused.TOO_LARGE
    assert scan(hellos.records(message, most=10)) == message


@pytest.mark.parametrize(
    "wire",
    [
        b"G",
        b"GET / HTTP/1.1\r\n\r\n",
        b"a1 CAPABILITY\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSLv2
        b"\x16\x02\x00\x00\x05\x01",
        b"\x16\xfe\xfd\x00\x05",  # DTLS
        b"\x17\x03\x03\x00\x05",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x05\x02",  # a ServerHello
        b"\x16\x03\x01\x00\x02\x01\x00\x17\x03\x03\x00\x01",  # data in the middle of the hello
    ],
)
def test_what_is_not_tls(wire: bytes) -> None:
    assert scan(wire) is Refused.NOT_TLS


@pytest.mark.parametrize(
    "message",
    [
        b"",
        hellos.body()[:-1],
        hellos.body() + b"\0",
        hellos.body(extensions=None)[:-1],
        b"\3\3" + bytes(32) + b"\0" + hellos.vector(2, b"\x13") + b"\1\0",  # half a cipher
        hellos.body(extensions=[(21, b""), (21, b"")]),
        hellos.body(extensions=[(0, b"\0")]),
        hellos.body(extensions=[(16, b"\0\5\1a")]),
        hellos.body(extensions=[(16, b"\0\2\5a")]),
        hellos.body(extensions=[(43, b"\3\3\4\3")]),
        hellos.body(extensions=[(43, b"\2\3\4\3")]),
        hellos.body(extensions=[(13, b"\0\1\4")]),
    ],
)
def test_broken_messages_are_none(message: bytes) -> None:
    assert parse(message) is None


@pytest.mark.parametrize(
    ("name", "sni", "is_bad"),
    [
        (b"Mail.Example.TEST", "mail.example.test", False),
        (b"mail.example.test.", "mail.example.test", False),
        (b"xn--mller-kva.example", "xn--mller-kva.example", False),
        ("müller.example".encode(), "", True),
        (b"", "", True),
        (b".", "", True),
        (b"a b", "", True),
        (b"a\0b", "", True),
        (b"a\nforged log line", "", True),
        (b"x" * 256, "", True),
    ],
)
def test_server_names(name: bytes, sni: str, is_bad: bool) -> None:
    hello = parse(hellos.body(extensions=[hellos.server_name(name)]))
    assert hello is not None
    assert (hello.sni, hello.is_sni_bad) == (sni, is_bad)


def test_no_list_of_extensions_at_all() -> None:
    hello = parse(hellos.body(extensions=None, version=0x0301))
    assert hello == ClientHello(0x0301, (0x1301,), ())


@given(st.data())
@settings(max_examples=200)
def test_any_bytes_give_a_result(data: st.DataObject) -> None:
    """Random bytes, and real hellos with some octets changed, at every length that is asked for."""
    wire = bytearray(hellos.records(hellos.body(extensions=[hellos.server_name(b"a"), hellos.alpn(b"imap")])))
    for _ in range(data.draw(st.integers(0, 6))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    taken = bytes(wire[: data.draw(st.integers(0, len(wire)))])
    given_bytes = data.draw(st.sampled_from([taken, bytes(wire), data.draw(st.binary(max_size=80))]))
    found = scan(given_bytes)
    if isinstance(found, int):
        assert len(given_bytes) < found <= MAX_HELLO + 4 + 5 * MAX_RECORDS
    elif isinstance(found, bytes):
        assert parse(found) is None or isinstance(parse(found), ClientHello)
    parse(given_bytes)
