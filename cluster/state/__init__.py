"""Small facts that all nodes share, without a server that keeps them."""

from .shared import SharedState
from .store import Capacity

__all__ = ["Capacity", "SharedState"]
