from __future__ import annotations

from tests.support.stores import memory_stores, postgres_stores, stores

__all__ = ["memory_stores", "postgres_stores", "stores"]
