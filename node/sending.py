"""What scripts send, as this node sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.sending.means import Means, SendingLimits
from protocols.sending.sending import Sending
from protocols.sending.srs import Srs

if TYPE_CHECKING:
    from protocols.ports import Outbox

    from .config import Server, Sieve
    from .core import Core


def sending_of(core: Core, server: Server, outbox: Outbox | None) -> Sending:
    """For the sessions of a server. ``outbox`` None: there is no relay, and redirected mail is kept."""
    limits = server.limits
    means = Means(
        outbox=outbox,
        handovers=core.send_log,
        redirect_log=core.send_log,
        answers=core.send_log,
        accounts=core.accounts,
        limits=SendingLimits(
            redirect_hops=limits.max_redirect_hops,
            redirects=limits.redirect_rate_limit,
            redirects_window_s=limits.redirect_rate_limit_window_s,
            answers=limits.vacation_rate_limit,
            answers_window_s=limits.vacation_rate_limit_window_s,
            notifications=limits.notify_rate_limit,
            notifications_window_s=limits.notify_rate_limit_window_s,
        ),
        srs=sender_rewriting(core.config.sieve),
    )
    return Sending(means)


def sender_rewriting(options: Sieve) -> Srs | None:
    """None: senders of redirected mail stay as they are."""
    if not options.srs_domain:
        return None
    old = options.srs_secret_old.reveal().encode()
    secret = options.srs_secret.reveal().encode()
    return Srs(options.srs_domain.lower(), secret, (old,) if old else ())
