"""What can be wrong with a cluster as it is configured."""

from __future__ import annotations


class ClusterUnusable(Exception):
    """The node cannot take part as it is configured; the message says why, and what to do."""
