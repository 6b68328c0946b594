"""Readings of certificate work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tls.ports import Failure
from tls.wanted import Wanted

if TYPE_CHECKING:
    from node.metrics.registry import Reading

    from .part import RenewalPart


def read_renewal(part: RenewalPart) -> Iterator[Reading]:
    rounds, tools = part.rounds, part.tools
    if rounds is None or tools is None:
        return
    for labels, wanted in _labelled(rounds.plan.wanted):
        copy = tools.shelf.copies.get(wanted.id)
        yield "sora_certificate_generation", labels, copy.generation.fence if copy else 0
        if copy is not None:
            yield "sora_certificate_not_before_timestamp_seconds", labels, copy.bundle.not_before.timestamp()
            yield "sora_certificate_not_after_timestamp_seconds", labels, copy.bundle.not_after.timestamp()
        standing = rounds.standings.get(wanted.id)
        if standing is not None:
            yield "sora_certificate_due", labels, standing.verdict.state.needs_order
            if (renew_at := standing.verdict.renew_at) is not None:
                yield "sora_certificate_renewal_timestamp_seconds", labels, renew_at.timestamp()
    figures = tools.figures
    for ca in rounds.plan.cas:
        yield "sora_certificate_issued_total", (ca.directory,), figures.issued[ca.directory]
    for failure in Failure:
        yield "sora_certificate_failures_total", (failure.value,), figures.failures[failure.value]
    yield "sora_certificate_orders_resumed_total", (), figures.resumed
    yield "sora_certificate_orders_deferred_total", (), figures.deferred
    yield "sora_certificate_lease_held", (), figures.holds_lease
    synced_at = tools.shelf.synced_at or part.since  # who never reads it must be noticed, too
    yield "sora_certificate_synced_timestamp_seconds", (), synced_at.timestamp()
    yield "sora_certificate_disagreeing_ports", (), part.disagreeing()
    if part.mirror is not None:
        for operation, count in part.mirror.failures.items():
            yield "sora_certificate_mirror_failures_total", (operation,), count
    if part.vault is not None:
        for reason, count in part.vault.skipped.items():
            yield "sora_certificate_objects_skipped_total", (reason.value,), count


def _labelled(wanted: Sequence[Wanted]) -> Iterator[tuple[tuple[str, str], Wanted]]:
    """Name and key type of each, and its id where these are another's, too: readings of the same labels are
    added up, and the sum of two expiries never comes."""
    labels = [(each.names[0], each.key_type.value) for each in wanted]
    taken = Counter(labels)
    for (name, key_type), each in zip(labels, wanted, strict=True):
        yield (name if taken[name, key_type] == 1 else f"{name} ({each.id})", key_type), each
