"""A cluster without a network."""

from __future__ import annotations

import pytest

from .cluster import Nodes


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()
