"""Values that never show themselves: in logs, tracebacks, dumps or messages."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T", str, bytes)

MASK = "***"


class Secret(Generic[T]):
    """A password, token or key. Only ``reveal`` gives it away; an empty one is false (not set)."""

    __slots__ = ("_value",)

    _value: T

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"Secret({MASK if self else ''})"

    def __str__(self) -> str:
        return MASK if self else ""
