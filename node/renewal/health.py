"""How certificate work does, for readiness and people."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from node.health import Finding, State, worst
from tls.policy import State as Need

if TYPE_CHECKING:
    from .part import RenewalPart

WARN_SHARE, CRITICAL_SHARE = 4, 10  # of the lifetime is left


def judge_renewal(part: RenewalPart, now: datetime) -> Finding:
    """Expiry itself is the component ``certificates``'s; this is about why nothing comes after."""
    assert part.rounds is not None
    assert part.tools is not None
    shelf, findings = part.tools.shelf, []
    if shelf.bucket_trouble:
        findings.append(Finding(State.DEGRADED, f"the bucket: {shelf.bucket_trouble}"))
    if part.vault is not None and part.vault.sealed_elsewhere:
        findings.append(
            Finding(
                State.DOWN,
                "certificates in the bucket are sealed with another key: set tls.letsencrypt.encryption_key"
                " (or cluster.secret_key) to that of the other nodes",
            )
        )
    for standing in part.rounds.standings.values():
        findings += _of(standing.wanted.label, standing.verdict.state, standing.note)
    for copy in shelf.copies.values():
        lifetime = copy.bundle.not_after - copy.bundle.not_before
        left = copy.bundle.not_after - now
        if left < lifetime / CRITICAL_SHARE:
            text = f"{copy.bundle.names[0]} expires on {copy.bundle.not_after:%Y-%m-%d %H:%M} UTC"
            findings.append(Finding(State.DEGRADED, text))
    return worst(findings)


def _of(label: str, need: Need, note: str) -> list[Finding]:
    if need is Need.OK or (need is Need.DUE and not note):
        return []
    return [Finding(State.DEGRADED, f"{label} is {need.value}{': ' + note if note else ''}")]
