from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tls.domains import BadName, Fault, Group, fold, resolve
from tls.wanted import KeyType


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("mail.example.com", "mail.example.com"),
        ("Mail.Example.COM.", "mail.example.com"),
        ("*.example.com", "*.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # IDNA 2008, not 2003
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_names_are_folded(name: str, folded: str) -> None:
    assert fold(name) == folded


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("https://mail.example.com", "is a URL"),
        ("mail.example.com/", "is a URL"),
        ("mail.example.com:993", "has a port"),
        ("192.0.2.1", "is an address"),
        ("2001:db8::1", "is an address"),
        ("[2001:db8::1]", "is an address"),
        ("nodots", "has no dot"),
        ("a..example.com", "two dots"),
        (".example.com", "two dots"),
        ("mail.*.example.com", "wildcard"),
        ("m*.example.com", "wildcard"),
        ("-mail.example.com", "is no host name"),
        ("mail.example.com ", "has spaces"),
        ("ma il.example.com", "has spaces"),
        ("a" * 64 + ".example.com", "longer than 63"),
        (".".join(["a" * 60] * 5), "longer than 253"),
        ("ü" * 70 + ".example.com", "no host name"),
        ("mail.exa\0mple.com", "no host name"),
    ],
)
def test_what_is_no_name_is_refused_with_its_reason(name: str, why: str) -> None:
    with pytest.raises(BadName, match=why):
        fold(name)


@settings(max_examples=200)
@given(st.text(max_size=80))
def test_any_text_is_folded_to_a_stable_ascii_name_or_refused(text: str) -> None:
    try:
        folded = fold(text)
    except BadName:
        return
    assert folded.isascii() and len(folded) <= 253  # noqa: PT018
    assert fold(folded) == folded


def test_one_certificate_over_all_names_for_each_type_of_key() -> None:
    group = Group(("b.example.com", "a.example.com"), (KeyType.P256, KeyType.RSA2048))
    wanted, faults = resolve([group], profile="short")
    assert [(each.names, each.key_type, each.profile) for each in wanted] == [
        (("a.example.com", "b.example.com"), KeyType.P256, "short"),
        (("a.example.com", "b.example.com"), KeyType.RSA2048, "short"),
    ]
    assert not faults


def test_the_order_and_spelling_of_names_make_no_other_certificate() -> None:
    one, _ = resolve([Group(("a.example.com", "B.example.com."))])
    other, _ = resolve([Group(("b.example.com", "a.example.com"))])
    assert one == other


def test_names_listed_twice_are_one_with_a_warning() -> None:
    wanted, faults = resolve([Group(("a.example.com", "A.example.com"))])
    assert wanted[0].names == ("a.example.com",)
    assert [(each.is_error, each.message) for each in faults] == [(False, '"A.example.com" is listed twice')]


def test_a_certificate_asked_for_twice_is_one_with_a_warning() -> None:
    groups = [Group(("a.example.com",)), Group(("a.example.com",), where="certificate[0].domains")]
    wanted, (fault,) = resolve(groups)
    assert len(wanted) == 1
    assert (fault.where, fault.is_error) == ("certificate[0].domains", False)


def test_wildcards_need_a_way_to_prove_them() -> None:
    group = Group(("*.example.com",))
    wanted, (fault,) = resolve([group])
    assert not wanted
    assert isinstance(fault, Fault) and fault.is_error  # noqa: PT018
    assert resolve([group], can_prove_wildcards=True)[0][0].names == ("*.example.com",)


def test_a_certificate_has_at_most_a_hundred_names() -> None:
    names = tuple(f"n{number}.example.com" for number in range(101))
    assert not resolve([Group(names[:100])])[1]
    (fault,) = resolve([Group(names)])[1]
    assert fault.is_error and "101 names" in fault.message  # noqa: PT018
