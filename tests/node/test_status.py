"""What a node says of itself while its database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from node import status
from node.config import Config
from node.loginguard import Guards
from node.status import ListenerStatus, StatusCommand
from storage.errors import Unavailable
from storage.model import StagingLevel


async def never() -> StagingLevel:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def refused() -> StagingLevel:
    raise Unavailable("no connection")


async def no_listeners() -> list[ListenerStatus]:
    return []


async def cluster() -> object:
    return {"leader": "node-1"}


@pytest.mark.parametrize("level", [never, refused])
async def test_all_but_the_staging_is_told_without_a_database(
    level: Callable[[], Awaitable[StagingLevel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "DATABASE_WITHIN_S", 0.01)
    guards = Guards(Config(), check_takes_s=lambda: 0.0)
    command = StatusCommand(no_listeners, guards, level, lambda: 1.0, cluster=cluster)
    found = cast("dict[str, Any]", await command.status({}))
    assert "the database" in found["staging"]["error"]
    assert found["cluster"] == {"leader": "node-1"}
