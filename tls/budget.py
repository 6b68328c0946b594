"""What may be asked of a CA in which time: below Let's Encrypt's limits, so they are never met. Pure.

Notes of what happened are in ``storage.leases.AttemptRecord``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from .wanted import Wanted

FAILURE, CERTIFICATE, ORDER, DOMAIN = "failure", "certificate", "order", "domain"
HOUR_S, WEEK_S = 3600.0, 7 * 86_400.0
SAME_MAX = 3
REVOKED = "revoked"  # no budget: a certificate that was, for as long as notes are kept
ACCOUNT = "account"  # the subject of what counts for all names together


@dataclass(frozen=True, slots=True)
class Limit:
    """``spares_emergency``: a certificate that is about to expire is ordered all the same.
    ``spares_renewal``: so is one that the CA asked to renew."""

    what: str
    subject: str
    within_s: float
    most: int
    spares_emergency: bool = False
    spares_renewal: bool = False


def limits(wanted: Wanted, lifetime_s: float) -> tuple[Limit, ...]:
    """Their limits are 5 failed validations of a name in an hour, 5 certificates for the same names and 50
    for a registered domain in a week, 300 orders in three hours.

    ``lifetime_s`` of the certificate that there is, 0 for none: a CA that gives certificates for hours has
    other limits, and must be asked more often than thrice a week.
    """
    same = max(SAME_MAX, ceil(2 * WEEK_S / lifetime_s)) if lifetime_s > 0 else SAME_MAX
    return (
        *(Limit(FAILURE, name, HOUR_S, 3) for name in wanted.names),
        Limit(CERTIFICATE, wanted.id, WEEK_S, same, spares_emergency=True),
        *(
            Limit(DOMAIN, domain, WEEK_S, max(40, same * 8), spares_emergency=True, spares_renewal=True)
            for domain in domains(wanted)
        ),
        Limit(ORDER, ACCOUNT, 3 * HOUR_S, 200),
    )


def domains(wanted: Wanted) -> tuple[str, ...]:
    """Of the names, the last two labels. The registered domain may be longer (co.uk): then more is counted
    together than the CA does, which errs on the side of ordering less."""
    return tuple(dict.fromkeys(".".join(name.split(".")[-2:]) for name in wanted.names))


def spent(
    counts: Mapping[Limit, int], *, is_emergency: bool = False, is_renewal_by_ca: bool = False
) -> Limit | None:
    """The first limit that forbids another order now."""
    for limit, count in counts.items():
        is_spared = (limit.spares_emergency and is_emergency) or (limit.spares_renewal and is_renewal_by_ca)
        if count >= limit.most and not is_spared:
            return limit
    return None


def explained(limit: Limit, ca: str) -> str:
    texts = {
        FAILURE: f"{limit.most} failed validations of {limit.subject}",
        CERTIFICATE: f"{limit.most} certificates for the same names",
        DOMAIN: f"{limit.most} certificates below {limit.subject}",
        ORDER: f"{limit.most} orders",
    }
    return f"our own budget at {ca} is spent: {texts[limit.what]} within {limit.within_s / HOUR_S:g} h"
