"""What proxies tell of their clients: grammar, and who the client is then."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.ports import Peer
from protocols.xclient import ATTRIBUTES, BadXclient, Told, parse_xclient
from protocols.xtext import BadText, decode_xtext, encode_xtext

PROXY = Peer("192.0.2.1", 4000, "192.0.2.99", 24, sni="mail.example.test", ja4="of the proxy")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("ADDR=203.0.113.9", {"ADDR": "203.0.113.9"}),
        ("addr=IPV6:2001:DB8::1 port=25", {"ADDR": "2001:db8::1", "PORT": "25"}),
        ("ADDR=2001:db8::1", {"ADDR": "2001:db8::1"}),
        ("ADDR=IPv6:::ffff:203.0.113.9", {"ADDR": "203.0.113.9"}),
        ("ADDR=[UNAVAILABLE] NAME=[tempunavail]", {"ADDR": "", "NAME": ""}),
        ("HELO=a+2Bb LOGIN=gr+C3+BCn", {"HELO": "a+b", "LOGIN": "grün"}),
        ("PROTO=esmtp TTL=005", {"PROTO": "ESMTP", "TTL": "5"}),
        ("NAME=x.test  HELO=[192.0.2.5]", {"NAME": "x.test", "HELO": "[192.0.2.5]"}),
        (f"FORWARD={'A' * 1024}", {"FORWARD": "A" * 1024}),
    ],
)
def test_attributes(argument: str, expected: dict[str, str]) -> None:
    assert parse_xclient(argument) == expected


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "  ",
        "ADDR",
        "ADDR=",
        "COLOUR=red",
        "ADDR=192.0.2.1 addr=192.0.2.2",
        "ADDR=localhost",
        "ADDR=192.0.2.1:25",
        "ADDR=fe80::1+25eth0",
        "ADDR=192.0.2.010",
        "PORT=70000",
        "PORT=-1",
        "PORT=\u0661",
        "TTL=[UNAVAILABLE]",
        "TTL=1000",
        "PROTO=HTTP",
        "NAME=a+0D+0Ab",
        "NAME=a+20b",
        "NAME=a+b",
        "HELO=a+2",
        "LOGIN=+FF",
        "HELO=" + "x" * 256,
        "FORWARD=" + "x" * 1025,
    ],
)
def test_what_is_none(argument: str) -> None:
    with pytest.raises(BadXclient):
        parse_xclient(argument)


@settings(max_examples=150)
@given(st.text(max_size=80) | st.lists(st.sampled_from(ATTRIBUTES), max_size=4).map("=1 ".join))
def test_any_text_is_parsed_or_refused(argument: str) -> None:
    try:
        values = parse_xclient(argument)
    except BadXclient:
        return
    assert values.keys() <= set(ATTRIBUTES)
    Told().updated(values).peer(PROXY)


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=("Cc", "Cs"))))
def test_xtext_there_and_back(text: str) -> None:
    assert decode_xtext(encode_xtext(text)) == text


@pytest.mark.parametrize("text", ["a b", "a=b", "a+", "a+2b", "a+0A", "+C3", "é"])
def test_no_xtext(text: str) -> None:
    with pytest.raises(BadText):
        decode_xtext(text)


def test_the_client_stands_in_the_place_of_the_proxy() -> None:
    told = Told().updated(parse_xclient("ADDR=203.0.113.9 PORT=1234 DESTADDR=198.51.100.1 DESTPORT=25"))
    peer = told.updated(parse_xclient("SESSION=abc NAME=x.test")).peer(PROXY)
    assert peer == Peer(
        *("203.0.113.9", 1234, "198.51.100.1", 25),
        via_ip="192.0.2.1",
        sni="mail.example.test",
        proxy_session="abc",
    )


def test_a_client_that_nobody_knows_is_the_proxy_and_never_local() -> None:
    peer = Told(parse_xclient("ADDR=[UNAVAILABLE] PORT=99")).peer(PROXY)
    assert (peer.ip, peer.port) == ("192.0.2.1", 4000)
    told = Told(parse_xclient("ADDR=127.0.0.1"))
    assert not told.peer(PROXY).is_loopback
    assert not told.peer(Peer("127.0.0.1", 1)).is_loopback


def test_time_to_live() -> None:
    assert Told(parse_xclient("TTL=0")).is_looping
    assert not Told(parse_xclient("TTL=1")).is_looping
    assert not Told().is_looping
