"""Keys survive a restart, and the operator's latest word counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.clustering.keyfile import KeyFile, key_name, parse_keys

OLD, NEW, OTHER = bytes([1] * 32), bytes([2] * 32), bytes([3] * 32)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "data" / "keys.json")


def test_without_a_file_the_configured_ones_are_used(file: KeyFile) -> None:
    assert file.keys((OLD, OTHER)) == (OLD, OTHER)


def test_after_a_rotation_the_file_counts(file: KeyFile) -> None:
    file.save((NEW, OLD), (OLD,))
    assert file.keys((OLD,)) == (NEW, OLD)
    file.save((NEW,), (OLD,))
    assert file.keys((OLD,)) == (NEW,)


def test_a_configuration_that_was_changed_since_comes_first(file: KeyFile) -> None:
    file.save((NEW,), (OLD,))
    assert file.keys((OTHER,)) == (OTHER, NEW)
    assert file.keys((NEW,)) == (NEW,)


def test_it_is_a_list_of_base64_that_only_the_node_can_read(file: KeyFile) -> None:
    file.save((NEW, OLD), (OLD,))
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(file.path.read_text())) == 2
    assert sorted(each.name for each in file.path.parent.iterdir()) == ["keys.json", "keys.json.origin"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '["!"]', '["AAAA"]', "[5]", '{"a": 1}', '["' + "A" * 5000])
def test_a_damaged_file_is_named_and_not_used(
    file: KeyFile, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.save((NEW,), (OLD,))
    file.path.write_text(text)
    assert file.keys((OLD,)) == (OLD,)
    assert "cannot be used" in caplog.text


def test_what_serf_writes_is_read() -> None:
    assert parse_keys('[\n  "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="\n]') == (OLD,)


def test_a_file_that_others_can_read_is_warned_about(file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    file.save((NEW,), (OLD,))
    file.path.chmod(0o644)
    assert file.keys((OLD,)) == (NEW,)
    assert "chmod 600" in caplog.text


def test_names_of_keys_differ_and_do_not_show_them() -> None:
    assert len({key_name(OLD), key_name(NEW)}) == 2
    assert OLD.hex()[:6] not in key_name(OLD)
