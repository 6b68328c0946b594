"""``sora-admin accounts`` and ``credentials``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from node.commands import passwordinput
from node.passwords import hash_password, verify

from .conftest import Admin

ANN, BOB, SALES = "ann@example.org", "bob@example.org", "sales@example.com"
CHEAP = hash_password(b"imported", "SSHA512")
ARGON2 = (
    "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$TfXZB8Lqh+o/ZpGbVEG0QQ"
    "$ehdIhx5D4WoGQ+5EAcoqL84IVm6vnpcGK0KgwwtNdIQ"
)


def create(admin: Admin, address: str = ANN) -> None:
    assert admin("accounts", "create", address, "--password-hash", CHEAP).exit_code == 0


def test_create_with_a_password_from_standard_input(admin: Admin, stored_hash: Callable[[str], str]) -> None:
    result = admin("accounts", "create", "Ann@Example.ORG", "--password-stdin", input="pässwörd\r\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"created {ANN}\n", "")
    stored = stored_hash(ANN)
    assert stored.startswith("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$")
    assert verify(stored, "pässwörd".encode())


def test_create_asks_twice_at_a_terminal(
    admin: Admin, stored_hash: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwordinput, "has_terminal", lambda: True)
    result = admin("accounts", "create", ANN, input="secret\nsekret\nsecret\nsecret\n")
    assert result.exit_code == 0
    assert "secret" not in result.output
    assert verify(stored_hash(ANN), b"secret")


def test_create_without_a_terminal_says_what_to_do(admin: Admin) -> None:
    result = admin("accounts", "create", ANN, input="secret\nsecret\n")
    assert result.exit_code == 2
    assert "--password-stdin" in result.stderr
    assert admin.json("accounts", "list") == []


def test_create_with_a_generated_password(admin: Admin, stored_hash: Callable[[str], str]) -> None:
    made = admin.json("accounts", "create", ANN, "--generate")
    assert verify(stored_hash(ANN), made["password"].encode())
    assert made["address"] == ANN
    text = admin("accounts", "create", BOB, "--generate").stdout
    assert verify(stored_hash(BOB), text.split("password: ")[1].strip().encode())


def test_create_with_a_password_on_the_command_line_warns(
    admin: Admin, stored_hash: Callable[[str], str]
) -> None:
    result = admin("accounts", "create", ANN, "--password", "secret")
    assert result.exit_code == 0
    assert "process list" in result.stderr
    assert verify(stored_hash(ANN), b"secret")


def test_create_with_a_hash(admin: Admin, stored_hash: Callable[[str], str]) -> None:
    result = admin("accounts", "create", ANN, "--password-hash", CHEAP)
    assert result.exit_code == 0
    assert "replaced" in result.stderr
    assert stored_hash(ANN) == CHEAP
    assert admin("accounts", "create", BOB, "--password-hash", ARGON2).stderr == ""


def test_create_with_a_scheme(admin: Admin, stored_hash: Callable[[str], str]) -> None:
    result = admin("accounts", "create", ANN, "--password-stdin", "--scheme", "ssha512", input="secret")
    assert result.exit_code == 0
    assert stored_hash(ANN).startswith("{SSHA512}")
    assert verify(stored_hash(ANN), b"secret")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--password-hash", "{PLAIN}secret"], "plain text"),
        (["--password-hash", "{MD5}x"], "unknown scheme"),
        (["--password-hash", "secret"], "no scheme"),
        (["--password-hash", "{SSHA512}AAAA"], "too short"),
        (["--password-hash", ""], "no scheme"),
        (["--password-hash", CHEAP, "--generate"], "only one"),
        (["--password", ""], "empty"),
        (["--password", "x" * 1025], "longer"),
        (["--password-stdin"], "more than one line"),
        (["--generate", "--scheme", "PLAIN"], "PLAIN"),
    ],
)
def test_unusable_passwords_are_refused(admin: Admin, arguments: list[str], reason: str) -> None:
    result = admin("accounts", "create", ANN, *arguments, input="one\ntwo\n")
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "{PLAIN}secret" not in result.output
    assert admin.json("accounts", "list") == []


@pytest.mark.parametrize("address", ["ann", "@example.org", "ann smith@example.org", "ann+work@example.org"])
def test_bad_addresses_are_refused(admin: Admin, address: str) -> None:
    result = admin("accounts", "create", address, "--generate")
    assert result.exit_code == 2
    assert "ADDRESS" in result.stderr
    assert address in result.stderr or "space" in result.stderr


def test_an_address_can_be_created_once(admin: Admin) -> None:
    create(admin)
    result = admin("accounts", "create", ANN, "--generate")
    assert result.exit_code == 4
    assert result.stderr == f"Error: {ANN} belongs to an account already\n"


def test_list_and_show(admin: Admin) -> None:
    for address in (BOB, ANN, "kim@example.com"):
        create(admin, address)
    assert [each["address"] for each in admin.json("accounts", "list")] == [ANN, BOB, "kim@example.com"]
    found = admin.json("accounts", "list", "--domain", "Example.COM")
    assert [each["address"] for each in found] == ["kim@example.com"]
    lines = admin("accounts", "list").stdout.splitlines()
    assert lines[0].split() == ["ADDRESS", "CREDENTIALS", "MESSAGES", "SIZE", "CREATED"]
    assert [line.split()[0] for line in lines[1:]] == [ANN, BOB, "kim@example.com"]
    shown = admin.json("accounts", "show", "ANN@example.org")
    assert shown["address"] == ANN
    assert shown["deleted_at"] is None
    assert (shown["messages"], shown["size_bytes"]) == (0, 0)
    assert [(each["address"], each["scheme"]) for each in shown["credentials"]] == [(ANN, "SSHA512")]


def test_hashes_are_never_shown(admin: Admin) -> None:
    create(admin)
    for arguments in (["accounts", "show", ANN], ["accounts", "list"], ["credentials", "show", ANN]):
        for flags in ([], ["--json"]):
            assert CHEAP[9:20] not in admin(*arguments, *flags).output


def test_an_empty_list_has_its_headings(admin: Admin) -> None:
    result = admin("accounts", "list")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["accounts", "show", BOB],
        ["accounts", "update", BOB, "--generate"],
        ["accounts", "update", BOB, "--make-primary"],
        ["accounts", "delete", BOB, "--yes"],
        ["accounts", "restore", BOB],
        ["credentials", "add", BOB, SALES, "--generate"],
        ["credentials", "list", BOB],
        ["credentials", "show", BOB],
        ["credentials", "delete", BOB],
    ],
)
def test_what_is_not_there_is_exit_code_3(admin: Admin, arguments: list[str]) -> None:
    create(admin)
    result = admin(*arguments)
    assert result.exit_code == 3
    assert result.stderr == f"Error: no account has the address {BOB}\n"
    assert result.stdout == ""


def test_update_the_password(admin: Admin, stored_hash: Callable[[str], str]) -> None:
    create(admin)
    result = admin("accounts", "update", ANN, "--password-stdin", input="new\n")
    assert (result.exit_code, result.stdout) == (0, f"{ANN}: password changed\n")
    assert verify(stored_hash(ANN), b"new")
    made = admin.json("accounts", "update", ANN, "--generate")
    assert verify(stored_hash(ANN), made["password"].encode())


def test_update_the_primary_address_alone_asks_nothing(
    admin: Admin, stored_hash: Callable[[str], str]
) -> None:
    create(admin)
    assert admin("credentials", "add", ANN, SALES, "--password-hash", CHEAP).exit_code == 0
    result = admin("accounts", "update", SALES, "--make-primary")
    assert (result.exit_code, result.stdout) == (0, f"{SALES}: made primary\n")
    assert admin.json("accounts", "show", ANN)["address"] == SALES
    assert stored_hash(SALES) == CHEAP


def test_delete_asks_and_restore_undoes(admin: Admin) -> None:
    create(admin)
    admin("credentials", "add", ANN, SALES, "--password-hash", CHEAP)
    assert admin("accounts", "delete", ANN, input="n\n").exit_code == 1
    assert len(admin.json("accounts", "list")) == 1
    result = admin("accounts", "delete", SALES, input="y\n")
    assert result.exit_code == 0
    assert f"sora-admin accounts restore {ANN}" in result.stdout
    assert admin.json("accounts", "list") == []
    (deleted,) = admin.json("accounts", "list", "--deleted")
    assert deleted["deleted_at"]
    assert admin("accounts", "show", ANN).exit_code == 3
    assert "Deleted:" in admin("accounts", "show", ANN, "--deleted").stdout
    assert admin("accounts", "restore", SALES).stdout == f"restored {ANN}\n"
    assert admin.json("accounts", "show", SALES)["deleted_at"] is None


def test_restore_refuses_when_the_address_was_given_away(admin: Admin) -> None:
    create(admin)
    assert admin("accounts", "delete", ANN, "--yes").exit_code == 0
    create(admin)
    assert admin("accounts", "restore", ANN).exit_code == 4


def test_credentials(admin: Admin, stored_hash: Callable[[str], str]) -> None:
    create(admin)
    result = admin("credentials", "add", ANN, "Sales@Example.com", "--password-stdin", input="second")
    assert (result.exit_code, result.stdout) == (0, f"added {SALES} to {ANN}\n")
    assert verify(stored_hash(SALES), b"second")
    listed = admin.json("credentials", "list", SALES)
    assert [(each["address"], each["primary"]) for each in listed] == [(ANN, True), (SALES, False)]
    assert admin.json("credentials", "show", SALES)["account"] == ANN
    assert "Primary:" in admin("credentials", "show", SALES).stdout
    assert admin("credentials", "add", ANN, SALES, "--generate").exit_code == 4
    refused = admin("credentials", "delete", ANN)
    assert refused.exit_code == 1
    assert "primary" in refused.stderr
    assert admin("credentials", "delete", SALES).exit_code == 0
    assert len(admin.json("credentials", "list", ANN)) == 1


def test_a_new_credential_can_be_primary_at_once(admin: Admin) -> None:
    create(admin)
    result = admin("credentials", "add", ANN, SALES, "--password-hash", CHEAP, "--make-primary")
    assert result.stdout == f"added {SALES} to {SALES}\n"
    assert admin.json("accounts", "list")[0]["address"] == SALES
