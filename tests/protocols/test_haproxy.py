"""The PROXY protocol: what is a header, what is none, and that nothing else ever comes out."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.haproxy import (
    AUTHORITY,
    CRC32C,
    JA4,
    MAX_V1,
    MAX_V2_BODY,
    NETNS,
    NOOP,
    SESSION_ID,
    SIGNATURE,
    SSL,
    UNIQUE_ID,
    V2_HEAD,
    Endpoint,
    Header,
    ProxyHeaderError,
    crc32c,
    encode_v1,
    encode_v2,
    parse,
)

CLIENT, SERVER = Endpoint("192.0.2.7", 49152), Endpoint("198.51.100.1", 993)
CLIENT6, SERVER6 = Endpoint("2001:db8::7", 49152), Endpoint("2001:db8::1", 993)


def whole(data: bytes) -> Header:
    found = parse(data)
    assert isinstance(found, Header)
    return found


# --- version 1 ---


@pytest.mark.parametrize(
    ("line", "source"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 993\r\n", CLIENT),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Endpoint("0.0.0.0", 0)),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 49152 993\r\n", CLIENT6),
        (b"PROXY TCP6 2001:0DB8:0:0:0:0:0:7 ::1 49152 993\r\n", CLIENT6),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 whatever it may be\r\n", None),
        (b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", ...),
    ],
)
def test_lines_that_are_headers(line: bytes, source: Endpoint | None) -> None:
    header = whole(line + b"a1 NOOP\r\n")
    assert header.size == len(line)
    if source is not ...:
        assert header.source == source


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"proxy TCP4 192.0.2.7 198.51.100.1 49152 993\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.1 49152 993\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 49152 993\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 993 1\r\n",
        b"PROXY TCP4  192.0.2.7 198.51.100.1 49152 993\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 993 \r\n",
        b"PROXY TCP4 192.0.2.7\t198.51.100.1 49152 993\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 49152 993\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.1 49152 993\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 49152 993\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 49152 993\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 49152 993\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 049152 993\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 00\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 993\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 993\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 993\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 ٣ 993\r\n".encode(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 993\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 993\r\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 993\rx",
        b"PROXY UNKNOWN \n\r\n",
        b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n",
    ],
)
def test_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse(line)


def test_the_longest_line_and_one_octet_more() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n"
    assert whole(longest).size == MAX_V1
    assert parse(longest[:-1]) == MAX_V1
    with pytest.raises(ProxyHeaderError):
        parse(b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 14))


# --- version 2 ---


def v2(version_command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + struct.pack("!BBH", version_command, family, size) + body


FOUR = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 49152, 993)


@pytest.mark.parametrize(
    ("header", "source", "is_local"),
    [
        (v2(0x21, 0x11, FOUR), CLIENT, False),
        (v2(0x21, 0x12, FOUR), CLIENT, False),  # datagrams
        (v2(0x21, 0x10, FOUR), CLIENT, False),
        (encode_v2(CLIENT6, SERVER6), CLIENT6, False),
        (v2(0x20, 0x11, FOUR), None, True),
        (v2(0x20, 0x00, b""), None, True),
        (v2(0x20, 0xFF, b"to be skipped"), None, True),
        (v2(0x21, 0x00, b""), None, False),
        (v2(0x21, 0x31, bytes(216)), None, False),  # Unix sockets
    ],
)
def test_binary_headers(header: bytes, source: Endpoint | None, is_local: bool) -> None:
    found = whole(header + b"\x16\x03\x01")
    assert (found.size, found.source, found.is_local) == (len(header), source, is_local)


@pytest.mark.parametrize(
    "header",
    [
        SIGNATURE[:-1] + b"\r",
        b"\r\n\r\nx",
        v2(0x11, 0x11, FOUR),
        v2(0x31, 0x11, FOUR),
        v2(0x22, 0x11, FOUR),
        v2(0x2F, 0x11, FOUR),
        v2(0x21, 0x41, FOUR),
        v2(0x21, 0x13, FOUR),
        v2(0x21, 0x11, FOUR[:-1]),
        v2(0x21, 0x21, FOUR),
        v2(0x21, 0x31, bytes(215)),
        v2(0x21, 0x11, FOUR, MAX_V2_BODY + 1),
        v2(0x20, 0x00, b"", MAX_V2_BODY + 1),
        v2(0x21, 0x11, FOUR + b"\x02"),
        v2(0x21, 0x11, FOUR + b"\x02\x00\x05abcd"),
        v2(0x21, 0x11, FOUR + b"\x03\x00\x04" + bytes(4)),
        v2(0x21, 0x11, FOUR + b"\x03\x00\x03" + bytes(3)),
        v2(0x21, 0x11, FOUR + b"\x20\x00\x04" + bytes(4)),
        encode_v2(CLIENT, SERVER, ((UNIQUE_ID, bytes(129)),)),
        encode_v2(CLIENT, SERVER, ((AUTHORITY, b"a"), (AUTHORITY, b"b"))),
        encode_v2(CLIENT, SERVER, ((AUTHORITY, b"a b"),)),
        encode_v2(CLIENT, SERVER, ((JA4, b"x" * 65),)),
        encode_v2(CLIENT, SERVER, ((SESSION_ID, b"a\r\nforged"),)),
    ],
)
def test_binary_headers_that_are_refused(header: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse(header)


def test_a_refusal_needs_no_more_than_the_first_16_octets() -> None:
    with pytest.raises(ProxyHeaderError):
        parse(v2(0x21, 0x41, b"", 4000))
    with pytest.raises(ProxyHeaderError):
        parse(v2(0x21, 0x21, b"", 12))


def test_tlvs() -> None:
    tls = (
        struct.pack("!BI", 0x07, 0)
        + b"\x21\x00\x07TLSv1.3"
        + b"\x22\x00\x03ann"
        + b"\x23\x00\x16TLS_AES_256_GCM_SHA384"
        + b"\x24\x00\x06SHA256"
    )
    tlvs = (
        (NOOP, b"padding"),
        (AUTHORITY, b"Mail.Example.Test."),
        (UNIQUE_ID, bytes(range(128))),
        (SSL, tls),
        (NETNS, b"blue"),
        (JA4, b"t13d1516h2_8daaf6152771_e5627efa2ab1"),
        (SESSION_ID, b"4f1c2a.7"),
        (0xEA, b"somebody else's"),
        (0xEA, b"twice"),
    )
    found = whole(encode_v2(CLIENT, SERVER, tlvs, checksum=True))
    assert found.authority == "mail.example.test"
    assert found.unique_id == bytes(range(128))
    assert found.namespace == "blue"
    assert found.ja4 == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert found.session_id == "4f1c2a.7"
    assert found.tls is not None
    assert (found.tls.is_tls, found.tls.is_verified, found.tls.version) == (True, True, "TLSv1.3")
    assert (found.tls.common_name, found.tls.cipher) == ("ann", "TLS_AES_256_GCM_SHA384")
    assert found.tlvs[:-1] == tlvs[1:]


def test_tls_without_a_client_certificate_is_not_verified() -> None:
    found = whole(encode_v2(CLIENT, SERVER, ((SSL, struct.pack("!BI", 0x01, 0)),)))
    assert found.tls is not None
    assert found.tls.is_tls
    assert not found.tls.is_verified


def test_checksum_of_the_standard_and_of_every_flipped_bit() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 §B.4
    good = encode_v2(CLIENT, SERVER, ((AUTHORITY, b"mail"),), checksum=True)
    whole(good)
    for position in range(V2_HEAD, len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x01
        try:
            found = parse(bytes(bad))
        except ProxyHeaderError:
            continue
        # the type octet of the checksum became another type: then there is none to check
        assert isinstance(found, Header), position
        assert CRC32C not in dict(found.tlvs), position


# --- both ---

addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
ports = st.integers(0, 65535)


def endpoints(pair: tuple[object, object], source_port: int, port: int) -> tuple[Endpoint, Endpoint]:
    return Endpoint(str(pair[0]), source_port), Endpoint(str(pair[1]), port)


def piecewise(data: bytes) -> Header:
    """As a socket gives it: no more than was asked for, until there is a header."""
    seen = 1
    for _ in range(MAX_V1 + 4):
        found = parse(data[:seen])
        if isinstance(found, Header):
            return found
        assert seen < found <= len(data), (seen, found)
        seen = found
    raise AssertionError("asked too often")


@given(addresses, ports, ports)
@settings(max_examples=100)
def test_round_trip_of_version_1(pair: tuple[object, object], source_port: int, port: int) -> None:
    source, destination = endpoints(pair, source_port, port)
    line = encode_v1(source, destination)
    found = piecewise(line)
    assert (found.source, found.destination, found.size) == (source, destination, len(line))


tlv_lists = st.lists(
    st.tuples(st.integers(0xEC, 0xFF), st.binary(max_size=100)), max_size=6, unique_by=lambda each: each[0]
)


@given(st.none() | addresses, ports, ports, tlv_lists, st.booleans(), st.booleans(), st.binary(max_size=20))
@settings(max_examples=150)
def test_round_trip_of_version_2(
    pair: tuple[object, object] | None,
    source_port: int,
    port: int,
    tlvs: list[tuple[int, bytes]],
    checksum: bool,
    is_local: bool,
    behind: bytes,
) -> None:
    source, destination = (None, None) if pair is None else endpoints(pair, source_port, port)
    data = encode_v2(source, destination, tuple(tlvs), checksum=checksum, is_local=is_local)
    found = piecewise(data)
    assert found == parse(data + behind)
    assert found.size == len(data)
    if is_local:
        assert (found.source, found.tlvs) == (None, ())
    else:
        assert (found.source, found.destination) == (source, destination)
        assert [each for each in found.tlvs if each[0] != CRC32C] == tlvs


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=120).map(lambda tail: b"PROXY " + tail),
        st.binary(max_size=300).map(lambda tail: SIGNATURE + tail),
        st.binary(max_size=200).map(lambda tail: v2(0x21, 0x11, FOUR + tail)),
        st.binary(max_size=60).map(
            lambda tail: v2(0x21, 0x11, FOUR + b"\x20" + struct.pack("!H", len(tail)) + tail)
        ),
    )
)
@settings(max_examples=200)
def test_any_bytes_give_a_header_a_number_or_the_error(data: bytes) -> None:
    try:
        found = parse(data)
    except ProxyHeaderError:
        return
    if isinstance(found, Header):
        assert 0 < found.size <= len(data)
        for end in (found.source, found.destination):
            assert end is None or ipaddress.ip_address(end.ip)
    else:
        assert len(data) < found <= V2_HEAD + MAX_V2_BODY
