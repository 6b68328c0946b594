"""The tours in the READMEs name every file, and the index of the guides every guide."""

from __future__ import annotations

import re
from pathlib import Path

from .test_layers import ROOT, sources

GUIDES = ROOT / "docs" / "README.md"
UNTOLD = ("__init__.py", "__main__.py")


def tour_of(path: Path) -> Path:
    """The README that is nearest above."""
    return next(found for folder in path.parents if (found := folder / "README.md").exists())


def is_told(path: Path, tour: Path) -> bool:
    """By its name, or with its whole folder."""
    text = tour.read_text()
    folders = path.relative_to(tour.parent).parts[:-1]
    if folders and any(f"`{'/'.join(folders[:depth])}/`" in text for depth in range(1, len(folders) + 1)):
        return True
    return re.search(rf"(?<![\w.]){re.escape(path.name)}\b", text) is not None


def test_every_file_is_on_a_tour() -> None:
    lost = {
        str(path.relative_to(ROOT)): str(tour_of(path).relative_to(ROOT))
        for path in sources()
        if path.name not in UNTOLD and not is_told(path, tour_of(path))
    }
    assert not lost, f"name each file in the README beside it: {lost}"


def test_tours_name_no_file_that_is_gone() -> None:
    names = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    gone = [
        f"{tour.relative_to(ROOT)}: {name}"
        for tour in sorted(ROOT.rglob("README.md"))
        if ".venv" not in tour.parts
        for name in re.findall(r"`(?:[\w./]*/)?(\w+\.py)`", tour.read_text())
        if name not in names
    ]
    assert not gone, gone


def test_every_guide_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\((\w[\w.-]*)\)", GUIDES.read_text()))
    there = {path.name for path in GUIDES.parent.iterdir() if path != GUIDES}
    assert listed == there
