"""Putting several objects into a store that takes them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from storage.api import BlobStore
from storage.errors import StorageError


async def put_each(
    store: BlobStore, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
) -> dict[str, int | StorageError]:
    """``BlobStore.put_many`` out of ``put`` and ``head``."""

    async def put(key: str, frames: Sequence[bytes]) -> int | StorageError:
        async with slots:
            try:
                await store.put(key, frames)
                info = await store.head(key)
            except StorageError as error:
                return error
        return -1 if info is None else info.size_bytes

    outcomes = await asyncio.gather(*(put(*item) for item in objects.items()), return_exceptions=True)
    done: dict[str, int | StorageError] = {}
    for key, outcome in zip(objects, outcomes, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, StorageError):
            raise outcome
        done[key] = outcome
    return done
