"""A mail host whose accounts have Sieve scripts that may send; what is sent lies in a fake outbox."""

from __future__ import annotations

from dataclasses import replace

from protocols.delivery import deliver
from protocols.envelope import Destination, Envelope, Outcome, Returned
from protocols.filtering import MailFilter
from protocols.mailboxnames import MailboxNames
from protocols.scriptlibrary import SiteScripts
from protocols.sending.means import Means
from protocols.sending.sending import Sending
from storage.scripts import ScriptQuota

from .mailhost import NOW, FaultPlan, MailHost, Watched, mail_host
from .outbox import FakeOutbox

ANN, BOB = "ann@example.test", "bob@example.test"
FROM = "from@far.example"
ENVELOPE = Envelope(
    reverse_path=FROM,
    helo="mx.far.example",
    client_ip="192.0.2.9",
    hostname="mail.example.test",
    protocol="LMTP",
    session_id="s1",
    received_at=NOW,
)
MESSAGE = b"Subject: hi\r\nMessage-ID: <m1@far.example>\r\n\r\nbody\r\n"
NOTE = b"From: Mail Filter <"


class Killed(BaseException):
    """The process is gone; what was durable stays."""


class KillPlan(FaultPlan):
    def _fire(self, name: str) -> None:
        if self.calls == self.nth and not self.has_fired:
            self.has_fired = True
            raise Killed(name)


class SieveHost:
    def __init__(self, host: MailHost) -> None:
        self.host = host
        self.scripts = Watched(host.scripts)
        self.redirect_log = Watched(host.send_log)
        self.outbox = FakeOutbox()
        self.watched_outbox = Watched(self.outbox)
        services = host.services
        services.outbox = self.watched_outbox
        services.filter = MailFilter(
            self.scripts,
            MailboxNames(host.mail, clock=lambda: 0.0),
            site=SiteScripts(),
            clock=lambda: 0.0,
            now=lambda: NOW,
        )
        self.means = Means(
            outbox=self.watched_outbox,
            handovers=self.redirect_log,
            redirect_log=self.redirect_log,
            answers=self.redirect_log,
            accounts=host.accounts,
            now=lambda: NOW,
        )
        services.sending = Sending(self.means)

    def use(self, means: Means) -> None:
        self.means = means
        self.host.services.outbox = means.outbox
        self.host.services.sending = Sending(means)

    async def put(self, script: str, address: str = ANN) -> None:
        account = (await self.host.account_store.account(address)).id
        await self.host.scripts.put(account, "main", script.encode(), ScriptQuota(script_bytes=10**6))
        await self.host.scripts.activate(account, "main")

    async def send_until_taken(self, message: bytes) -> None:
        """As the sender's server does when it is told to come again."""
        for _ in range(4):
            if await self.send(message=message) == [None]:
                return
        raise AssertionError("the message is refused again and again")

    async def send(
        self,
        *to: str | Destination | Returned,
        message: bytes = MESSAGE,
        sender: str = FROM,
        envelope: Envelope = ENVELOPE,
    ) -> list[Outcome]:
        spool = self.host.intake.spool()
        spool.write(message)
        destinations: list[Destination | Returned] = []
        for each in to or (ANN,):
            found = await self.resolve(each) if isinstance(each, str) else each
            assert found is not None
            destinations.append(found)

        async def sleep(_seconds: float) -> None:
            return

        envelope = replace(envelope, reverse_path=sender)
        outcomes = await deliver(self.host.services, envelope, spool, destinations, self.resolve, sleep=sleep)
        assert self.host.intake.open_spools == 0
        return outcomes

    async def resolve(self, address: str) -> Destination | None:
        user, _, domain = address.partition("@")
        base, _, detail = user.partition("+")
        recipient = await self.host.account_store.recipient(f"{base}@{domain}")
        return recipient and Destination(address, detail, recipient)

    async def stored(self, address: str = ANN) -> dict[str, list[bytes]]:
        """What lies where in the account, but for notes about failing scripts."""
        account = (await self.host.account_store.account(address)).id
        found: dict[str, list[bytes]] = {}
        for box in self.host.tables.mailboxes.values():
            for message in box.messages.values() if box.account_id == account else ():
                octets = message.prefix + b"".join(self.host.tables.contents[message.content_id].frames)
                found.setdefault("notes" if octets.startswith(NOTE) else box.name, []).append(octets)
        return found

    async def count(self, address: str = ANN) -> dict[str, int]:
        return {name: len(messages) for name, messages in (await self.stored(address)).items()}

    def sent_to(self) -> list[str]:
        return [address for each in self.outbox.sent for address in each.recipients]

    async def end_holds(self) -> None:
        await self.outbox.end_holds(self.host.send_log)

    def kill(self, nth: int, *, is_after: bool) -> FaultPlan:
        """From now on the ``nth`` call ends the process, once."""
        return self.set_plan(KillPlan(nth, is_after=is_after))

    def fail(self, nth: int, *, is_after: bool) -> FaultPlan:
        """From now on the ``nth`` call of any store or of the outbox fails, once."""
        return self.set_plan(FaultPlan(nth, is_after=is_after))

    def set_plan(self, plan: FaultPlan) -> FaultPlan:
        for store in (
            self.host.mail,
            self.host.accounts,
            self.scripts,
            self.redirect_log,
            self.watched_outbox,
        ):
            store.plan = plan
        return plan


async def sieve_host() -> SieveHost:
    return SieveHost(await mail_host())
