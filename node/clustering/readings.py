"""Figures of the cluster, for the metrics: the engine's of a few seconds ago, and what is known here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cluster.errors import Reason

from .report import STATES, noticeable

if TYPE_CHECKING:
    from node.metrics.registry import Reading

    from .service import Clustering

# Figure of the engine: family, labels.
FIGURES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "packets_received": ("sora_cluster_packets_total", ("in",)),
    "packets_sent": ("sora_cluster_packets_total", ("out",)),
    "packet_bytes_received": ("sora_cluster_packet_bytes_total", ("in",)),
    "packet_bytes_sent": ("sora_cluster_packet_bytes_total", ("out",)),
    "requests_received": ("sora_cluster_streams_total", ("in",)),
    "requests_sent": ("sora_cluster_streams_total", ("out",)),
    "streams_failed": ("sora_cluster_stream_failures_total", ()),
    "datagrams_unsent": ("sora_cluster_packets_unsent_total", ()),
    "probe_acks": ("sora_cluster_probes_total", ("acked",)),
    "probe_tcp_fallbacks": ("sora_cluster_probes_total", ("acked_by_tcp",)),
    "probes_failed": ("sora_cluster_probes_total", ("failed",)),
    "suspicions_raised": ("sora_cluster_suspicions_total", ("raised",)),
    "suspicions_refuted": ("sora_cluster_suspicions_total", ("refuted",)),
    "suspicions_confirmed": ("sora_cluster_suspicions_total", ("confirmed",)),
    "refutations": ("sora_cluster_refutations_total", ()),
    "push_pulls": ("sora_cluster_push_pulls_total", ("done",)),
    "push_pulls_failed": ("sora_cluster_push_pulls_total", ("failed",)),
    "awareness": ("sora_cluster_awareness", ()),
    "broadcasts_queued": ("sora_cluster_queued", ("members",)),
    "serf_queued": ("sora_cluster_queued", ("events",)),
    "state_rumours": ("sora_cluster_queued", ("state",)),
    "broadcasts_dropped": ("sora_cluster_dropped_total", ("members",)),
    "serf_dropped": ("sora_cluster_dropped_total", ("events",)),
    "state_rumours_dropped_total": ("sora_cluster_dropped_total", ("state",)),
    "state_notices_dropped_total": ("sora_cluster_dropped_total", ("notices",)),
    "state_refused_total": ("sora_cluster_dropped_total", ("entries",)),
    "state_entries": ("sora_cluster_state_entries", ()),
    "state_bytes": ("sora_cluster_state_bytes", ()),
    "loop_delays": ("sora_cluster_loop_delays_total", ()),
    "engine_faults": ("sora_cluster_faults_total", ()),
    "records_refused": ("sora_cluster_rejected_total", ("record",)),
    **{f"rejected_{reason.value}": ("sora_cluster_rejected_total", (reason.value,)) for reason in Reason},
}


def read_cluster(clustering: Clustering) -> Iterator[Reading]:
    figures = clustering.figures
    for name, (family, labels) in FIGURES.items():
        if name in figures:
            yield family, labels, figures[name]
    for state in STATES.values():
        yield "sora_cluster_members", (state,), 0  # so that it is there when nobody is
    for member in clustering.roster:
        yield "sora_cluster_members", (STATES[member.state],), 1
        if member.round_trip_s is not None:
            yield "sora_cluster_round_trip_seconds", (member.name,), member.round_trip_s
    yield "sora_cluster_leads", (), clustering.leadership.is_ours
    yield "sora_cluster_drifting_nodes", (), len(clustering.drifting())
    for name, skew in clustering.skews.items():
        if noticeable(skew):
            yield "sora_cluster_clock_skew_seconds", (name,), abs(skew)
    yield "sora_cluster_dropped_total", ("bridges",), clustering.dropped
    yield "sora_cluster_unreadable_total", (), clustering.unreadable
    yield "sora_cluster_notices_total", ("told",), clustering.notices.told
    yield "sora_cluster_notices_total", ("heard",), clustering.notices.heard_of
    yield "sora_cluster_directory_accounts", ("here",), len(clustering.directory)
    yield "sora_cluster_directory_accounts", ("elsewhere",), clustering.directory.known
