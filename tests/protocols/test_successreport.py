"""Confirmations of delivery: each recipient is told of once, whatever attempts there were."""

from __future__ import annotations

import pytest

from protocols.envelope import Destination, Envelope
from protocols.successreport import report_deliveries
from storage.dsn import Notify, RecipientDsn
from storage.errors import StorageError, Unavailable
from storage.model import AccountId
from tests.support.mailhost import NOW, MailHost, Watched, mail_host
from tests.support.outbox import FakeOutbox

ENVELOPE = Envelope(
    reverse_path="from@far.example",
    helo="mx.far.example",
    client_ip="192.0.2.9",
    hostname="mail.example.test",
    protocol="LMTP",
    session_id="s1",
    received_at=NOW,
)
ANN, ANNIE, BOB = "ann@example.test", "ann+work@example.test", "bob@example.test"


class Killed(BaseException):
    """The process is gone."""


class Office:
    """Nodes that share a database; each has a queue of its own."""

    def __init__(self, host: MailHost) -> None:
        self.host = host
        self.log = Watched(host.send_log)
        host.services.handovers = self.log
        self.told: list[FakeOutbox] = []
        self.node()

    def node(self) -> FakeOutbox:
        """Another one from now on, which relays at once what is due."""
        self.outbox = FakeOutbox()
        self.outbox.is_fast = True
        self.host.services.outbox = self.outbox
        self.told.append(self.outbox)
        return self.outbox

    async def report(self, *addresses: str) -> None:
        wishes = RecipientDsn(frozenset({Notify.SUCCESS}))
        delivered = []
        for address in addresses:
            recipient = await self.host.account_store.recipient(address.replace("+work", ""))
            assert recipient is not None
            delivered.append(Destination(address, "", recipient, wishes))
        await report_deliveries(self.host.services, ENVELOPE, delivered, b"Subject: a\r\n\r\n")

    def reports(self) -> list[list[str]]:
        """Of whom each that went tells."""
        return [
            [
                each
                for each in (ANN, ANNIE, BOB)
                if f"Final-Recipient: rfc822; {each}".encode() in sent.message
            ]
            for outbox in self.told
            for sent in outbox.sent
        ]

    async def end_holds(self) -> None:
        for outbox in self.told:
            await outbox.end_holds(self.host.send_log)


@pytest.fixture
async def office() -> Office:
    return Office(await mail_host())


async def test_one_report_for_all_and_none_for_the_next_attempt(office: Office) -> None:
    """The first is with the remote by then, so the queue knows nothing of it."""
    await office.report(ANN, ANNIE, BOB)
    await office.report(ANN, ANNIE, BOB)
    office.node()
    await office.report(BOB)
    assert office.reports() == [[ANN, ANNIE, BOB]]
    assert not any(outbox.held for outbox in office.told)


async def test_an_attempt_that_reaches_more_tells_of_the_others_only(office: Office) -> None:
    await office.report(ANN)
    await office.report(ANN, BOB)
    await office.report(ANN, ANNIE, BOB)
    assert office.reports() == [[ANN], [BOB], [ANNIE]]


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_node_that_dies_on_the_way_neither_loses_nor_doubles_it(office: Office, nth: int) -> None:
    """At its n-th call of the database; the MTA goes to another node, or comes back to the first."""
    office.log.faults["handed_over"] = [Killed()] if nth == 1 else []
    office.log.faults["claim_handover"] = [Killed()] if nth == 2 else []
    office.log.after["claim_handover"] = [Killed()] if nth == 3 else []
    with pytest.raises(Killed):
        await office.report(ANN)
    office.node()
    await office.report(ANN)
    await office.end_holds()
    assert office.reports() == [[ANN]]


@pytest.mark.parametrize("call", ["handed_over", "claim_handover"])
async def test_a_database_that_fails_just_then_loses_nothing(office: Office, call: str) -> None:
    faults: list[StorageError] = [Unavailable("db")]
    office.log.faults[call] = [*faults]
    await office.report(ANN, BOB)
    await office.end_holds()
    assert office.reports() == [[ANN, BOB]]


async def test_of_two_attempts_at_once_one_tells(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other wins between the question and the claim, and reaches one recipient less."""
    real, first = office.host.send_log, office.outbox

    class Slow(Watched):
        async def claim_handover(self, account_id: AccountId, holders: dict[bytes, str]) -> object:
            if office.host.services.handovers is self:
                office.host.services.handovers = real
                office.node()
                await office.report(ANN)
            return await real.claim_handover(account_id, holders)

    office.host.services.handovers = Slow(real)
    await office.report(ANN, BOB)
    assert sorted(office.reports()) == [[ANN], [BOB]]
    assert first.held == {}
