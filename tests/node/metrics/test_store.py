"""The metered store is the store, with figures."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from node.metrics.store import MeteredStore
from storage.errors import NotFound, StorageError, Unavailable
from storage.model import ContentHash, ContentId
from storage.objects.fs import FileBlobStore
from storage.objects.keys import object_key

KEYS = [object_key(ContentHash(bytes([n]) * 32), ContentId(n)) for n in range(3)]


async def test_objects_and_results_are_counted(tmp_path: Path) -> None:
    store = MeteredStore(FileBlobStore(tmp_path))
    await store.put(KEYS[0], [b"zero"])
    await store.put_many({KEYS[1]: [b"one"], KEYS[2]: [b"two"]}, asyncio.Semaphore(2))
    assert await store.get(KEYS[0]) == b"zero"
    assert b"".join([piece async for piece in store.stream(KEYS[1])]) == b"one"
    for failing in (store.get("bodies/none"), anext(store.stream("bodies/none"))):
        with pytest.raises(NotFound):
            await failing
    assert await store.head("bodies/none") is None
    assert len([each async for each in store.list()]) == 3
    await store.delete(KEYS)
    assert dict(store.results) == {
        ("put", "error"): 0,
        ("put", "ok"): 3,
        ("get", "ok"): 2,
        ("get", "missing"): 2,
        ("head", "ok"): 1,
        ("delete", "ok"): 1,
    }
    assert sum(store.durations["put"].counts) == 2


async def test_failures_pass_through_and_are_counted() -> None:
    class Away:
        async def head(self, _key: str) -> None:
            raise Unavailable("away")

        async def put_many(self, objects: dict[str, object], _slots: object) -> dict[str, StorageError]:
            return {key: Unavailable("away") for key in objects}

    store = MeteredStore(Away())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await store.head("x")
    done = await store.put_many({"a": [], "b": []}, asyncio.Semaphore(1))
    assert all(isinstance(each, Unavailable) for each in done.values())
    assert store.results["head", "error"] == 1
    assert store.results["put", "error"] == 2
