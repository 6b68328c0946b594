"""What simulated kills leave behind is closed after each test, as the kernel does for a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.way import Way


@pytest.fixture(autouse=True)
def ended_lives() -> Iterator[None]:
    yield
    Way.close_all()
