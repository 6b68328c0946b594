"""JA4 by the worked examples of its specification, and against a second, independent way of computing it."""

from __future__ import annotations

import hashlib
import re
import ssl

import pytest

from tests.support import hellos
from tls.clienthello import parse, scan
from tls.ja4 import ja4

# The worked example of the specification: a browser's hello, in an order of our own choice.
CIPHERS = "1301 1302 1303 c02b c02f c02c c030 cca9 cca8 c013 c014 009c 009d 002f 0035"
EXTENSIONS = "001b 0000 0033 0010 4469 0017 002d 000d 0005 0023 0012 002b ff01 000b 000a 0015"
ALGORITHMS = "0403 0804 0401 0503 0805 0501 0806 0601"


def values(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def example(*, with_algorithms: bool = True, grease: bool = False) -> str:
    bodies = {
        0x0000: hellos.server_name(b"example.test")[1],
        0x0010: hellos.alpn(b"h2", b"http/1.1")[1],
        0x002B: hellos.versions(*([0x7A7A] * grease), 0x0304, 0x0303)[1],
        0x000D: hellos.algorithms(*([0x5A5A] * grease), *(values(ALGORITHMS) * with_algorithms))[1],
    }
    kinds = [*([0x2A2A] * grease), *values(EXTENSIONS), *([0xFAFA] * grease)]
    ciphers = [*([0x0A0A] * grease), *values(CIPHERS)]
    hello = parse(hellos.body(ciphers, [(kind, bodies.get(kind, b"")) for kind in kinds]))
    assert hello is not None
    return ja4(hello)


@pytest.mark.parametrize("grease", [False, True])
def test_the_worked_examples(grease: bool) -> None:
    assert example(grease=grease) == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert example(with_algorithms=False, grease=grease) == "t13d1516h2_8daaf6152771_6d807ffa2a79"


def of(**parts: object) -> str:
    hello = parse(hellos.body(**parts))  # type: ignore[arg-type]
    assert hello is not None
    return ja4(hello)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"imap", "ip"),
        (b"h", "hh"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"0\xab", "3b"),
        (b"01\xab\xcd", "3d"),
        (b"0\xab\xcd1", "01"),
        (b"a-", "6d"),
    ],
)
def test_the_first_alpn(name: bytes, ends: str) -> None:
    assert of(extensions=[hellos.alpn(name, b"zz")]).split("_")[0] == f"t12i0101{ends}"


@pytest.mark.parametrize("extensions", [[], [(16, b"\0\0")], [hellos.alpn(b"")], None])
def test_no_alpn(extensions: list[tuple[int, bytes]] | None) -> None:
    assert of(extensions=extensions).split("_")[0].endswith("00")


@pytest.mark.parametrize(
    ("version", "offered", "shown"),
    [
        (0x0303, [], "12"),
        (0x0302, [], "11"),
        (0x0301, [], "10"),
        (0x0300, [], "s3"),
        (0x0303, [0x0303, 0x0304], "13"),
        (0x0303, [0x0302, 0xFAFA], "11"),
        (0x0303, [0xFAFA], "12"),
        (0x9999, [], "00"),
    ],
)
def test_versions(version: int, offered: list[int], shown: str) -> None:
    extensions = [hellos.versions(*offered)] if offered else []
    assert of(version=version, extensions=extensions)[1:3] == shown


def test_counts_stop_at_99_and_empty_lists_are_zeros() -> None:
    many = of(ciphers=range(0x0101, 0x0101 + 150), extensions=[(0x6001 + n, b"") for n in range(120)])
    assert many[4:8] == "9999"
    assert of(ciphers=[], extensions=None) == "t12i000000_000000000000_000000000000"
    assert of(ciphers=[0x0A0A], extensions=[(0x1A1A, b"")]) == "t12i000000_000000000000_000000000000"
    # a name and an ALPN are counted, but not hashed
    named = of(extensions=[hellos.server_name(b"a"), hellos.alpn(b"imap")])
    assert named.startswith("t12d0102ip_")
    assert named.endswith("_000000000000")


def second_opinion(wire: bytes) -> str:
    """JA4 from the hexadecimal text of one unfragmented record, written without a look at the other one."""
    text = wire.hex()
    position = 2 * (5 + 4 + 2 + 32)

    def take(width: int) -> str:
        nonlocal position
        length = int(text[position : position + width], 16) * 2
        position += width + length
        return text[position - length : position]

    def grouped(run: str) -> list[str]:
        return [word for word in re.findall("....", run) if not re.fullmatch(r"(.)a\1a", word)]

    take(2)
    ciphers = grouped(take(4))
    take(2)
    block, found = take(4), []
    while block:
        size = int(block[4:8], 16) * 2
        found.append((block[:4], block[8 : 8 + size]))
        block = block[8 + size :]
    bodies = dict(found)
    kinds = grouped("".join(kind for kind, _ in found))
    offered = grouped(bodies["002b"][2:]) if "002b" in bodies else [text[18:22]]
    version = {"0304": "13", "0303": "12"}[max(offered)]
    ends = "00"
    if "0010" in bodies:
        name = bytes.fromhex(bodies["0010"])[3:][: int(bodies["0010"][4:6], 16)].decode()
        ends = name[0] + name[-1]

    def digest(joined: str) -> str:
        return hashlib.sha256(joined.encode()).hexdigest()[:12]

    inner = ",".join(sorted(kind for kind in kinds if kind not in ("0000", "0010")))
    inner += "_" + ",".join(grouped(bodies["000d"][4:]))
    head = f"t{version}{'d' if '0000' in bodies else 'i'}{len(ciphers):02}{len(kinds):02}{ends}"
    return f"{head}_{digest(','.join(sorted(ciphers)))}_{digest(inner)}"


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("server_name", ["mail.example.test", None])
@pytest.mark.parametrize("alpn", [[], ["imap"], ["h2", "imap"]])
@pytest.mark.parametrize("ciphers", ["", "ECDHE+AESGCM"])
def test_recorded_hellos(
    newest: ssl.TLSVersion, server_name: str | None, alpn: list[str], ciphers: str
) -> None:
    wire = hellos.recorded(newest=newest, server_name=server_name, alpn=alpn, ciphers=ciphers)
    found = scan(wire)
    assert isinstance(found, bytes)
    hello = parse(found)
    assert hello is not None
    assert ja4(hello) == second_opinion(wire)
