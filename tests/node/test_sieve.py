"""The site's side of Sieve: what users may require, and its own scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import Sieve
from node.sieve import CHANGES_MAIL, SieveUnusable, allowed_extensions, site_scripts
from protocols.sieve.registry import NAMES


def test_extensions() -> None:
    assert allowed_extensions(Sieve()) == NAMES - CHANGES_MAIL
    assert allowed_extensions(Sieve(enabled_extensions=("fileinto",))) == {"fileinto"}


def test_scripts_of_the_site(tmp_path: Path) -> None:
    before, shared = tmp_path / "before.sieve", tmp_path / "shared"
    shared.mkdir()
    before.write_text("keep;")
    (shared / "lists.sieve").write_text("stop;")
    (shared / "notes.txt").write_text("no script")
    found = site_scripts(Sieve(before_script=str(before), shared_scripts=str(shared)))
    assert (found.before, found.after, dict(found.shared)) == (b"keep;", b"", {"lists": b"stop;"})


def test_script_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sieve"
    with pytest.raises(SieveUnusable, match=r"bad[.]sieve cannot be read"):
        site_scripts(Sieve(after_script=str(bad)))
    bad.write_text("keep")
    with pytest.raises(SieveUnusable, match="line 1, column 5"):
        site_scripts(Sieve(after_script=str(bad)))
