"""Header fields of mail of our own, whatever text they are made from."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import AddressHeader

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.sending.composing import (
    address_field,
    checked_address,
    date_field,
    id_field,
    ids_field,
    message_ids,
    one_line,
    references,
    text_field,
)
from storage.addresses import BadAddress

from .letters import check_header

SOME = settings(max_examples=150, deadline=None)
TEXTS = st.text(max_size=300) | st.text("ab =?\r\n\t\0ü", max_size=200)


def read(field: bytes) -> str:
    check_header(field)
    (value,) = message_from_bytes(field + b"\r\n", policy=policy.default).values()
    return str(value)


@SOME
@given(TEXTS)
@example("Lunch?\r\nBcc: eve@evil.test\r\n\r\nHi")
@example("x" * 1500)
@example("=?utf-8?q?=0D=0ABcc:_eve?=")
@example("\ud800")
def test_text_comes_back_on_one_line(text: str) -> None:
    field = text_field("Subject", text)
    assert field.isascii()
    assert field.startswith(b"Subject: ")
    expected = one_line(text).encode("utf-8", "replace").decode()
    assert read(field) == expected


@SOME
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["bob@away.test", "o'neil+x@büro.test"])), max_size=8))
@example([('"', "bob@away.test"), ("a, b <c@d>", "bob@away.test"), ("J. Doe", "bob@away.test")])
def test_addresses_come_back(people: list[tuple[str, str]]) -> None:
    field = address_field("To", people)
    assert field.isascii()
    if not people:
        return
    check_header(field)
    value = message_from_bytes(field + b"\r\n", policy=policy.default)["To"]
    assert isinstance(value, AddressHeader)
    assert [each.addr_spec for each in value.addresses] == [checked_address(address) for _, address in people]


@pytest.mark.parametrize("name", ["Ann", "Ann B. Cook", "Änn Çook", 'The "Boss"', "Cook, Ann", "a\\b"])
def test_names_come_back(name: str) -> None:
    value = message_from_bytes(address_field("From", [(name, "a@b.test")]) + b"\r\n", policy=policy.default)
    (found,) = value["From"].addresses
    assert found.display_name == name


def test_an_address_that_is_not_ascii_stays_as_it_is() -> None:
    assert address_field("To", [("", "jürgen@büro.test")]) == "To: jürgen@büro.test\r\n".encode()


NO_ADDRESSES = (
    *("", "bob", "bob@", "@away.test", "a b@c.test", "a@b>,<c@d.test", "a,b@c.test", "a@b c", "a\n@b.test"),
    *("a@[1.2", "<a@b.test>", '"a@b.test', "x" * 600 + "@b.test", "ü" * 300 + "@b.test", "a@b\ud800.test"),
)


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_no_address(address: str) -> None:
    with pytest.raises(BadAddress):
        checked_address(address)


@pytest.mark.parametrize("address", ["a@b", "a.b+c=d@e-f.test", '"a;b"@c.test', "a@[127.0.0.1]", "é@ü.test"])
def test_addresses(address: str) -> None:
    assert checked_address(address) == address


def test_message_ids_are_taken_from_any_value_and_stay_whole() -> None:
    long = b"<" + b"x" * 200 + b"@away.test>"
    value = b"<1@a> junk <2@b>, <3 3@c> <\xc3\xbc@d> <<4@e> " + long + b" <" + b"y" * 600 + b"@z>"
    ids = message_ids(value)
    assert ids == [b"<1@a>", b"<2@b>", b"<4@e>", long]
    field = ids_field("References", ids)
    check_header(field)
    assert field.split() == [b"References:", *ids]
    assert ids_field("References", []) == b""


@SOME
@given(st.binary(max_size=400) | st.text("<>@a \r\n", max_size=100).map(str.encode))
def test_no_message_id_breaks_a_field(value: bytes) -> None:
    found = message_ids(value)
    if found:
        check_header(ids_field("In-Reply-To", found[:1]))
        check_header(ids_field("References", references(found)))


def test_of_a_long_thread_first_and_last_ids_stay() -> None:
    ids = [b"<%d@a>" % number for number in range(50)]
    assert references(ids) == [ids[0], *ids[-19:]]
    assert references(ids[:20]) == ids[:20]


@pytest.mark.parametrize(
    ("hostname", "ending"),
    [("mail.test", b"@mail.test>"), ("büro.test", b"@xn--bro-hoa.test>"), ("a\r\nb", b"@ab>")],
)
def test_message_id(hostname: str, ending: bytes) -> None:
    field = id_field(b"k" * 32, hostname)
    check_header(field)
    assert field.strip().endswith(ending)
    assert message_ids(field)


def test_date() -> None:
    at = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
    assert date_field(at) == b"Date: Sun, 22 Nov 2026 01:02:03 +0000\r\n"
