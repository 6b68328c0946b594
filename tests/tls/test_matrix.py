"""The README of these tests tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
README = (Path(__file__).parent / "README.md").read_text()


def test_every_row_names_tests_that_exist() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| ") and "tests |" not in line]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert re.search(rf"\bdef {test}\(", (TESTS / file).read_text()), f"{file}::{test}"
