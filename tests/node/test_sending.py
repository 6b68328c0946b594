"""Options of sending as the node uses them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from node.config import Config, Limits, Secret, Server, Sieve
from node.core import Core
from node.sending import sender_rewriting, sending_of
from protocols.sending.means import SendingLimits
from tests.support.outbox import FakeOutbox

OLD, NEW = "o" * 16, "n" * 16


def test_senders_are_rewritten_when_a_domain_is_set() -> None:
    assert sender_rewriting(Sieve()) is None
    before = sender_rewriting(Sieve(srs_domain="Example.TEST", srs_secret=Secret(OLD)))
    after = sender_rewriting(
        Sieve(srs_domain="example.test", srs_secret=Secret(NEW), srs_secret_old=Secret(OLD))
    )
    assert before is not None
    assert after is not None
    assert before.domain == "example.test"
    rewritten = before.forward("bob@away.test", 5)
    assert after.reverse(rewritten, 6) == "bob@away.test"
    assert after.forward("bob@away.test", 5) != rewritten


def test_limits_are_those_of_the_server() -> None:
    core = cast("Core", SimpleNamespace(config=Config(), send_log=object(), accounts=object()))
    outbox = FakeOutbox()
    limits = Limits(
        max_redirect_hops=7,
        redirect_rate_limit=3,
        redirect_rate_limit_window_s=60.0,
        vacation_rate_limit=4,
        vacation_rate_limit_window_s=61.0,
        notify_rate_limit=5,
        notify_rate_limit_window_s=62.0,
    )
    means = sending_of(core, Server(type="lmtp", limits=limits), outbox).means
    assert means.limits == SendingLimits(7, 3, 60.0, 4, 61.0, 5, 62.0)
    assert (means.outbox, means.handovers, means.redirect_log) == (outbox, core.send_log, core.send_log)
    assert means.srs is None
    assert sending_of(core, Server(type="lmtp"), None).means.limits == SendingLimits()
