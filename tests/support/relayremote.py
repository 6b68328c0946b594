"""A relay that is only a ledger: what it took, in which order, and what it is told to say."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from protocols.relay.transport import RelayDown, verdict_of
from storage.dsn import NO_REQUEST, DsnRequest
from storage.relayfile import Fate, Verdict


class Ledger:
    """``protocols.relay.transport.Transport``. ``replies`` of a recipient are given one after the other,
    the last for ever; without any it is taken. ``failures`` are raised first, one for each transaction."""

    remote = "remote.test"

    def __init__(self) -> None:
        self.taken: Counter[tuple[str, str, bytes]] = Counter()  # sender, recipient, message
        self.replies: dict[str, deque[str]] = {}
        self.failures: deque[RelayDown | Exception] = deque()
        self.transactions: list[tuple[str, ...]] = []
        self.requests: list[DsnRequest] = []
        self.has_dsn = False
        self.on_send: Callable[[], None] = lambda: None
        self.is_closed = False

    def will_say(self, recipient: str, *replies: str) -> None:
        self.replies[recipient] = deque(replies)

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
    ) -> list[Verdict]:
        self.on_send()
        self.transactions.append(tuple(recipients))
        self.requests.append(dsn)
        if self.failures:
            raise self.failures.popleft()
        verdicts = [replace(self._answer(each), has_dsn=self.has_dsn and bool(dsn)) for each in recipients]
        for recipient, verdict in zip(recipients, verdicts, strict=True):
            self.taken[sender, recipient, message] += verdict.fate is Fate.TAKEN
        return verdicts

    async def close(self) -> None:
        self.is_closed = True

    def copies(self, recipient: str) -> int:
        return sum(count for (_, to, _), count in self.taken.items() if to == recipient)

    def _answer(self, recipient: str) -> Verdict:
        replies = self.replies.get(recipient)
        if not replies:
            return verdict_of(250, "2.0.0 Ok", self.remote)
        reply = replies.popleft() if len(replies) > 1 else replies[0]
        return verdict_of(int(reply[:3]), reply[4:], self.remote)
