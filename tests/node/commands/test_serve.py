"""What a node tells who has started it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from node.commands.serve import admin_program

ROOT = Path(__file__).resolve().parents[3]


def test_program_for_administrators_is_beside_the_one_that_runs(tmp_path: Path) -> None:
    (tmp_path / "sora-admin").touch()
    assert admin_program(tmp_path / "sora-node") == str(tmp_path / "sora-admin")


def test_module_is_named_where_nothing_was_installed() -> None:
    """As with ``python -m node quickstart`` in a checkout."""
    words = admin_program(ROOT / "node" / "__main__.py").split()
    shown = subprocess.run([*words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage" in shown.stdout
