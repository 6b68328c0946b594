"""Settings of an IMAP server become words of its capability line and of its answer to ID."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from node.presentation import imap_presentation


def server(**settings: Any) -> Any:
    defaults = {
        "id_name": "Sora",
        "id_version": "1",
        "id_vendor": "",
        "id_support_url": "",
        "disabled_caps": (),
        "additional_caps": (),
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
