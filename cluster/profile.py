"""Timings. All of them are local policy: nodes with different profiles work together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds unless the name says otherwise. The values here are Sora's; ``LAN`` are those of a Serf agent.

    What makes Sora's both faster and calmer than an agent's is that a probe is several attempts instead of
    one, and that members who hear of a suspicion probe the suspect next, which tells it of the suspicion and
    confirms it or not. Figures in ``cluster/README.md``.
    """

    probe_interval_s: float = 0.8
    probe_timeout_s: float = 0.25  # then others are asked to ping, and a stream is tried
    ping_again_s: tuple[float, ...] = (0.1, 0.25, 0.5)  # after the start of a probe that nothing answered yet
    nack_after_s: float = 0.2  # as a helper, so that the nack comes while the probe runs
    indirect_checks: int = 3
    chases_suspects: bool = True  # tell it to its face at once, and probe first whom others suspect
    suspicion_mult: int = 3
    suspicion_max_mult: int = 6
    suspicion_confirmations: int = 2  # that bring the time down to its minimum
    awareness_max: int = 8
    retransmit_mult: int = 4
    retransmit_extra: int = 4  # without it one event in 15 misses a node at eight or nine nodes
    gossip_interval_s: float = 0.1
    gossip_nodes: int = 3
    gossip_to_the_dead_s: float = 30.0
    reclaim_after_s: float = 5.0  # a dead member's name may come back with another address
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
    ping_again_s=(),
    nack_after_s=0.5,
    chases_suspects=False,
    suspicion_mult=4,
    retransmit_extra=0,
    gossip_interval_s=0.2,
    push_pull_interval_small_s=30.0,
)
