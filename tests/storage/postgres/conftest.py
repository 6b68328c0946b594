from __future__ import annotations

from tests.support.stores import postgres_stores

__all__ = ["postgres_stores"]
