"""``config.toml.example``, the code and the defaults say the same."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from node.config import Config, every_row, example
from node.config.option import Option

from .loading import brief, load_text

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "config.toml.example").read_text()
COMMENTED_OUT = re.compile(r"^#(?=\[|[a-z_0-9]+ = )", re.MULTILINE)
FULL = COMMENTED_OUT.sub("", TEXT)
OPTIONS = {path.replace("[]", ""): row for path, row in every_row(Config) if isinstance(row, Option)}
# Their place is taken by other words in the example.
ADDRESS_AND_TYPE = {"servers.addr", "servers.type"}

# Tables that are not there by default.
ABSENT = ("servers.", "database.read.", "tls.letsencrypt.certificate.", "tls.letsencrypt.authority.")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}".strip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for each in value:
            yield from leaves(each, path)
    else:
        yield path, value


def test_the_file_is_what_the_table_says() -> None:
    assert example.render() == TEXT, "run: sora-node config example > config.toml.example"


def test_every_option_is_there_and_nothing_else() -> None:
    assert {path for path, _ in leaves(tomllib.loads(FULL))} == set(OPTIONS)


def test_values_are_the_defaults() -> None:
    for path, value in leaves(tomllib.loads(FULL)):
        row = OPTIONS[path]
        expected = [row.default, row.shown] if row.live else [row.default]
        assert value in expected or path in ADDRESS_AND_TYPE, path


def test_commented_out_values_are_the_defaults_of_the_dataclasses() -> None:
    defaults = Config()
    for path, row in OPTIONS.items():
        if path.startswith(ABSENT):
            continue
        value: Any = defaults
        for key in path.split("."):
            names = {each.key: each.name for each in _rows(type(value))}
            value = getattr(value, names[key])
        assert value == row.kind.parse(row.default), path


def _rows(of: type) -> Any:
    from node.config.option import rows

    return rows(of)


def test_as_shipped_it_only_lacks_secrets() -> None:
    problems = load_text(TEXT).problems
    assert {brief(problem) for problem in problems} == {
        ("error", "placeholder", "database.write.password"),
        ("error", "placeholder", "s3.access_key"),
        ("error", "placeholder", "s3.secret_key"),
        ("warning", "placeholder", "s3.bucket"),
    }


def test_with_secrets_it_can_be_used() -> None:
    text = re.sub(r'"YOUR_[A-Z0-9_]+"', '"wJalr"', TEXT).replace("your-sora-mail-bucket", "mail")
    loaded = load_text(text)
    assert loaded.problems == ()
    assert loaded.config is not None
    assert [server.type for server in loaded.config.servers] == ["imap", "lmtp", "pop3"]


def test_with_everything_uncommented_no_key_is_unknown() -> None:
    codes = {problem.code for problem in load_text(FULL).problems}
    assert not codes & {"unknown", "value", "syntax"}


def test_lines_fit_a_terminal() -> None:
    assert max(len(line) for line in TEXT.splitlines()) <= 110
