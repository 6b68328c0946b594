"""What the installed Serf sends today is what the recorded vectors say: everything is understood."""

from __future__ import annotations

import os

import pytest

from tests.cluster.agents import needs_serf
from tests.cluster.capture import record, shape
from tests.cluster.vectors import check_written_again, recorded


def test_agents_are_understood_whole() -> None:
    needs_serf()
    if os.geteuid() != 0:
        pytest.skip("reading datagrams from the loopback interface needs root")
    vectors = record()
    shapes = {(vector.kind, shape(vector)) for vector in vectors}
    for vector in vectors:
        if vector.kind == "datagram":
            check_written_again(vector)
    types = {name for _, what in shapes for name in what.partition(":")[2].split()}
    before = {name for what, _ in recorded() for name in what.partition(":")[2].split()}
    assert types >= before - {"nack"}  # agents send it in the instant in which the probe ends
    assert {("reply", "ack"), ("reply", "pushpull"), ("request", "pushpull")} <= shapes
