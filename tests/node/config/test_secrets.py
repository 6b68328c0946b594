"""No secret is in a repr, a message, a masked dump or JSON, whatever is wrong with it."""

from __future__ import annotations

import pickle
import tomllib

import pytest

from node.config import Config, Secret, every_row
from node.config.check import render, to_json
from node.config.dump import dump
from node.config.option import Option, Section

from .loading import STORAGE, load_text

CANARY = "c4n4ry-s3cr3t"
SECRETS = [path for path, row in every_row(Config) if isinstance(row, Option) and row.kind.secret]


def document(path: str, value: str) -> str:
    """A file that sets one option."""
    head, _, key = path.rpartition(".")
    tables = [
        f"[[{part}]]" if row.repeated else f"[{part}]"
        for part, row in (
            (each.replace("[]", ""), row) for each, row in every_row(Config) if isinstance(row, Section)
        )
        if head.replace("[]", "").startswith(part) and (part == head.replace("[]", "") or row.repeated)
    ]
    server = '\ntype = "imap"\naddr = ":1"' if tables and tables[0] == "[[servers]]" else ""
    return tables[0] + server + "\n" + "\n".join(tables[1:]) + f"\n{key} = {value}\n"


@pytest.mark.parametrize("path", SECRETS)
@pytest.mark.parametrize(
    "value",
    [
        f'"{CANARY}"',
        f'["{CANARY}"]',
        f'[["{CANARY}"]]',
        f'{{ x = "{CANARY}" }}',
        f'[{{ x = "{CANARY}" }}]',
        f'"{CANARY}${{NOT_SET}}"',
        f'"your-{CANARY}"',
        f'"{CANARY}',
        f"{CANARY}",
        f'"{CANARY}" x',
    ],
)
def test_secrets_stay_out_of_everything_shown(path: str, value: str) -> None:
    loaded = load_text(document(path, value))
    shown = [render(loaded), to_json(loaded), repr(loaded), str(loaded.config)]
    if loaded.config is not None:
        shown.append(dump(loaded.config, show_secrets=False))
    assert not [text for text in shown if CANARY in text]


@pytest.mark.parametrize("path", SECRETS)
def test_the_document_does_set_the_option(path: str) -> None:
    assert CANARY in str(tomllib.loads(document(path, f'"{CANARY}"')))


def test_number_as_password_is_not_repeated() -> None:
    loaded = load_text("[database.write]\npassword = 271828182\n")
    assert "271828182" not in render(loaded)


def test_secrets_in_files_stay_hidden_too() -> None:
    loaded = load_text(STORAGE + 'encryption_key_file = "/k"', files={"/k": CANARY})
    assert "s3.encryption_key_file" in {problem.key for problem in loaded.problems}
    assert CANARY not in repr(loaded)


def test_secret() -> None:
    secret = Secret("sesame")
    assert "sesame" not in f"{secret} {secret!r} {secret!s} {[secret]}"
    assert secret.reveal() == "sesame"
    assert secret == Secret("sesame") != Secret("other")
    assert hash(secret) == hash(Secret("sesame"))
    assert secret
    assert not Secret("")
    assert not Secret(b"")
    assert pickle.loads(pickle.dumps(secret)) == secret
