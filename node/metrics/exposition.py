"""A merged snapshot as Prometheus reads it: text format, or OpenMetrics when asked for.

The library does the escaping and the formats; it is imported only where metrics are served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from .family import Family, Kind, Numbers, Snapshot


def render(families: Sequence[Family], snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """The text and its content type, by the Accept header."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(families, snapshot))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Snapshot(Collector):
    def __init__(self, families: Sequence[Family], snapshot: Snapshot) -> None:
        self._families = families
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            if family.name in self._snapshot:
                yield _metric(family, self._snapshot)


def _metric(family: Family, snapshot: Snapshot) -> Metric:
    metric = Metric(family.name.removesuffix("_total"), family.doc, family.kind.value)
    for values, numbers in sorted(snapshot[family.name].items()):
        labels = dict(zip(family.all_labels, values, strict=True))
        if family.kind is not Kind.HISTOGRAM:
            metric.add_sample(family.name, labels, numbers[0])
            continue
        for bound, count in _cumulated(family.bounds, numbers):
            metric.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count)
        metric.add_sample(f"{family.name}_count", labels, sum(numbers[:-1]))
        metric.add_sample(f"{family.name}_sum", labels, numbers[-1])
    return metric


def _cumulated(bounds: Numbers, numbers: Numbers) -> Iterable[tuple[str, float]]:
    return zip([*(repr(float(bound)) for bound in bounds), "+Inf"], accumulate(numbers[:-1]), strict=True)
