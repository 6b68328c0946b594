"""The table of options is in itself consistent."""

from __future__ import annotations

import typing
from collections import Counter

import pytest

from node.config import Config, Secret, every_row
from node.config.features import ACTIVE_FEATURES, TYPE_FEATURES, UNSAFE_WITHOUT
from node.config.option import Option, Section, rows
from node.config.servertypes import SERVER_TYPES

ROWS = dict(every_row(Config))
# in the order of the table: parallel runs must collect the same tests
SECTIONS = list(dict.fromkeys([Config, *(row.of for row in ROWS.values() if isinstance(row, Section))]))
SECRET_WORDS = ("password", "secret", "token", "api_key", "encryption_key")


def test_size_of_the_table() -> None:
    assert len([row for row in ROWS.values() if isinstance(row, Option)]) > 250


@pytest.mark.parametrize("of", SECTIONS, ids=lambda of: of.__name__)
def test_keys_and_aliases_are_unique_in_their_table(of: type) -> None:
    words = Counter(word for row in rows(of) for word in (row.key, *row.aliases))
    assert not [word for word, count in words.items() if count > 1]


@pytest.mark.parametrize("of", SECTIONS, ids=lambda of: of.__name__)
def test_defaults_have_the_declared_type(of: type) -> None:
    hints = typing.get_type_hints(of)
    instance = of()
    for row in rows(of):
        hint = hints[row.name]
        allowed = typing.get_args(hint) if typing.get_origin(hint) is not tuple else (tuple,)
        accepted = tuple(typing.get_origin(each) or each for each in allowed or (hint,))
        if typing.get_origin(hint) is Secret:
            accepted = (Secret,)
        assert isinstance(getattr(instance, row.name), accepted), f"{of.__name__}.{row.name}"


@pytest.mark.parametrize("path", ROWS)
def test_every_row_is_documented(path: str) -> None:
    row = ROWS[path]
    assert row.doc
    assert row.doc.endswith(".")
    assert set(row.types) <= set(SERVER_TYPES)


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if isinstance(row, Option)])
def test_option_values_survive_writing(path: str) -> None:
    row = ROWS[path]
    assert isinstance(row, Option)
    value = row.kind.parse(row.default)
    assert row.kind.parse(row.kind.render(value)) == value
    if row.shown is not None:
        row.kind.parse(row.shown)


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if isinstance(row, Option)])
def test_what_sounds_secret_is_secret(path: str) -> None:
    row = ROWS[path]
    assert isinstance(row, Option)
    last = path.rpartition(".")[2]
    if any(word in last for word in SECRET_WORDS) and not last.startswith(("token_", "positive_")):
        assert row.kind.secret, path


def test_features_are_known_words() -> None:
    used = {row.feature for row in ROWS.values()} | set(TYPE_FEATURES.values())
    assert set(UNSAFE_WITHOUT) <= used
    assert {"imap", "lmtp", "pop3"} <= ACTIVE_FEATURES
    assert set(TYPE_FEATURES) == set(SERVER_TYPES)
