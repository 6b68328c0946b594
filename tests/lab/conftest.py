"""One lab for all tests; a machine that cannot have one skips them, and says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import namespaces
from .lab import NODES, Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/lab" in str(item.path):
            item.add_marker(pytest.mark.lab)
    items.sort(key=lambda item: item.path.stem != "test_certificates")  # it takes as long as all others


@pytest.fixture(scope="session")
def running_lab() -> Iterator[Lab]:
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    with Lab() as lab:
        for name in NODES:
            lab.start(name)
        yield lab


@pytest.fixture
def lab(running_lab: Lab) -> Iterator[Lab]:
    """With a good wire before and after."""
    running_lab.heal()
    yield running_lab
    running_lab.heal()
