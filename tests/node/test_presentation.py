"""Settings of an IMAP server become words of its capability line and of its answer to ID."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from node.config import ClientFilter
from node.presentation import imap_presentation
from protocols.imap.presentation import MAX_SEARCHED, Client


def server(**settings: Any) -> Any:
    defaults = {
        "id_name": "Sora",
        "id_version": "1",
        "id_vendor": "",
        "id_support_url": "",
        "disabled_caps": (),
        "additional_caps": (),
        "client_filters": (),
    }
    return cast("Any", SimpleNamespace(**{**defaults, **settings}))


def test_empty_fields_are_left_out() -> None:
    shown = imap_presentation(server(id_support_url="https://example.org"))
    assert shown.identity == (
        (b"name", b"Sora"),
        (b"version", b"1"),
        (b"support-url", b"https://example.org"),
    )


def test_capabilities_are_hidden_in_any_case_and_added_as_written() -> None:
    shown = imap_presentation(server(disabled_caps=("Idle",), additional_caps=("X-IceWarp",)))
    assert shown.hidden == {b"IDLE"}
    assert shown.additional == (b"X-IceWarp",)


def hidden(each: ClientFilter, **client: str) -> bool:
    return imap_presentation(server(client_filters=(each,))).hidden_from(Client(**client))[0] == {b"IDLE"}


def test_a_filter_matches_by_a_fingerprint_or_by_name_and_version() -> None:
    each = ClientFilter(
        client_name="^iOS",
        client_version=r"^1\.",
        ja4_fingerprints=("^t13d1516h2_", "_0123456789ab$"),
        disable_caps=("idle",),
    )
    assert hidden(each, ja4="t13d1516h2_8daaf6152771_e5627efa2ab1")
    assert hidden(each, ja4="t12i0304h2_8daaf6152771_0123456789ab", name="Other")
    assert hidden(each, name="iOS Mail", version="1.2")
    assert not hidden(each, name="iOS Mail", version="2.1")
    assert not hidden(each, name="iOS Mail")
    assert not hidden(each, ja4="t13d1517h2_8daaf6152771_e5627efa2ab1", version="1.2")


def test_a_filter_by_fingerprint_alone_matches_no_client_without_one() -> None:
    each = ClientFilter(ja4_fingerprints=("",), disable_caps=("IDLE",))
    assert hidden(each, ja4="x")
    assert not hidden(each, name="x", version="1")


def test_what_clients_say_is_searched_up_to_a_length() -> None:
    each = ClientFilter(client_name="b", disable_caps=("IDLE",))
    assert hidden(each, name="a" * (MAX_SEARCHED - 1) + "b")
    assert not hidden(each, name="a" * MAX_SEARCHED + "b")
