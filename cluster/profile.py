"""Timings. All of them are local policy: nodes with different profiles work together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds unless the name says otherwise. The values here are Sora's; ``LAN`` are those of a Serf agent.

    With them a death among five nodes is known after 0.4 + 0.8 + 3.2 s, against 5.8 s with LAN, for 2.5
    packets/s at rest against 2.
    """

    probe_interval_s: float = 0.8
    probe_timeout_s: float = 0.25
    nack_after_s: float = 0.2  # as a helper, so that the nack comes while the probe runs
    indirect_checks: int = 3
    suspicion_mult: int = 4
    suspicion_max_mult: int = 6
    awareness_max: int = 8
    retransmit_mult: int = 4
    retransmit_floor: int = 8  # 4 would miss a node in 15 at eight or nine nodes
    gossip_interval_s: float = 0.1
    gossip_nodes: int = 3
    gossip_to_the_dead_s: float = 30.0
    push_pull_interval_s: float = 30.0
    push_pull_interval_small_s: float = 15.0  # below 16 nodes
    stream_timeout_s: float = 10.0
    udp_bytes: int = 1400  # of one datagram's payload
    rejoin_interval_s: float = 15.0  # peers that are not members are tried again
    forget_failed_s: float = 86_400.0
    forget_left_s: float = 86_400.0


SORA = Profile()
LAN = Profile(
    probe_interval_s=1.0,
    probe_timeout_s=0.5,
    nack_after_s=0.5,
    retransmit_floor=0,
    gossip_interval_s=0.2,
    push_pull_interval_small_s=30.0,
)
