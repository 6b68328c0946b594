"""Places for connections, shared out over the processes of a node so that they never pass a limit together.

Theory: a limit of ``most`` is cut into as many equal shares as there are workers, and each worker fills its
own without asking, so what it decides at the door costs no round trip. A worker that needs more asks the
control process, which gives what is free, or has another worker give back what that one does not use. Whoever
has more than its share gives back what it does not use at once; the control process passes that on to those
that have less than theirs.

What a worker may fill is its *budget*. Both ends only ever tell each other differences, over a link that
keeps their order. A place is taken from one budget before it is added to another, so at every moment the sum
of all budgets is at most ``most``. (A reload that lowers a limit takes nothing from anybody who uses it.)
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Protocol

from .link import LinkFault
from .sessions import address_key

# Asked with a server and an address (``sessions.EVERYBODY`` for the server as a whole).
Count = Callable[[str, str], int]
Key = tuple[str, Hashable]

_NO_LIMIT: Final = 1 << 40
ASK_AT_MOST: Final = 10  # times, for one connection


def share(most: int, workers: int) -> int:
    """What each may fill without asking."""
    return most // workers


class Budgets:
    """Of one worker. ``used`` is what it has; ``ask`` asks the control process for more (false when it has
    nothing to give, or does not answer), ``give`` tells it what is given back.

    Nothing may be filled without asking before ``begin``.
    """

    def __init__(
        self,
        share: Count,
        used: Count,
        ask: Callable[[str, str, int], Awaitable[bool]],
        give: Callable[[str, str, int], None],
    ) -> None:
        self._share = share
        self._used = used
        self._ask = ask
        self._give = give
        self._asking: Counter[Key] = Counter()  # what is granted meanwhile is theirs
        self._has_begun = False
        self._budgets: dict[Key, tuple[str, int]] = {}  # address and budget, of those that may not be a share

    def __len__(self) -> int:
        return len(self._budgets)

    def of(self, server: str, ip: str) -> int:
        found = self._budgets.get((server, address_key(ip)))
        return self._default(server, ip) if found is None else found[1]

    def has_room(self, server: str, ip: str) -> bool:
        return self._used(server, ip) < self.of(server, ip)

    async def claim(self, server: str, ip: str) -> bool:
        """Whether there is room for one more, which the caller has to fill at once; then ``settle``."""
        key = (server, address_key(ip))
        self._asking[key] += 1
        try:
            for _ in range(ASK_AT_MOST):
                missing = self._used(server, ip) + 1 - self.of(server, ip)
                is_granted = missing <= 0 or await self._ask(server, ip, missing)
                if self.has_room(server, ip):
                    return True
                if not is_granted:  # else somebody who came later was quicker
                    return False
            return False
        finally:
            self._asking[key] -= 1
            if not self._asking[key]:
                del self._asking[key]

    def granted(self, server: str, ip: str, count: int) -> None:
        """By the control process."""
        self._set(server, ip, self.of(server, ip) + count)

    def give_back(self, server: str, ip: str, wanted: int) -> None:
        """As much of that as is not used."""
        budget = self.of(server, ip)
        used = self._used(server, ip) + self._asking[server, address_key(ip)]
        count = min(wanted, budget - used)
        if count > 0:
            self._set(server, ip, budget - count)
            self._give(server, ip, count)

    def settle(self, server: str, ip: str) -> None:
        """Give back what is neither used nor within the share."""
        if (server, address_key(ip)) in self._budgets:
            self.give_back(server, ip, self.of(server, ip) - self._default(server, ip))

    def settle_all(self, server: str) -> None:
        """Its limits have changed."""
        for (name, _), (ip, budget) in tuple(self._budgets.items()):
            if name == server:
                self.settle(server, ip)
                self._set(server, ip, min(budget, self.of(server, ip)))

    def begin(self) -> None:
        """From now on the control process counts on this worker's having its shares."""
        self._has_begun = True
        for (server, _), (ip, budget) in tuple(self._budgets.items()):
            self._set(server, ip, budget)

    def _default(self, server: str, ip: str) -> int:
        return self._share(server, ip) if self._has_begun else 0

    def _set(self, server: str, ip: str, budget: int) -> None:
        key = (server, address_key(ip))
        if self._has_begun and budget == self._default(server, ip):
            self._budgets.pop(key, None)
        else:
            self._budgets[key] = (ip, budget)


class Holder(Protocol):
    """A worker, as the control process sees it."""

    @property
    def load(self) -> int: ...

    def grant(self, server: str, ip: str, count: int) -> None: ...

    async def give_back(self, server: str, ip: str, wanted: int) -> None:
        """What it can spare has come as ``Leases.returned`` when this ends. Raises LinkFault."""
        ...


@dataclass(slots=True)
class _Lease:
    """Of one server and address, as long as somebody has more or less than a share."""

    server: str
    ip: str
    held: dict[Holder, int] = field(default_factory=dict)
    asking: int = 0


class Leases:
    """What all workers may fill. ``most``: the limit; 0 is none."""

    def __init__(self, most: Count, workers: int) -> None:
        self._most = most
        self._workers = workers
        self._leases: dict[Key, _Lease] = {}
        self._begun: dict[Holder, None] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def begin(self, holder: Holder) -> None:
        """A worker has its shares from now on, or what others have left of them."""
        for lease in self._leases.values():
            lease.held.setdefault(holder, 0)
            lacks = self._share(lease) - lease.held[holder]
            self._grant(lease, holder, max(0, min(lacks, self._free(lease))))
        self._begun[holder] = None

    def end(self, holder: Holder) -> None:
        """It is gone."""
        self._begun.pop(holder, None)
        for lease in tuple(self._leases.values()):
            lease.held.pop(holder, None)
            self._settle(lease)

    async def ask(self, holder: Holder, server: str, ip: str, wanted: int) -> bool:
        """Whether so many were granted; fewer never are."""
        lease = self._lease(server, ip)
        lease.asking += 1
        try:
            for other in sorted(self._begun, key=lambda each: each.load):
                missing = wanted - self._free(lease)
                if missing > 0 and other is not holder:
                    with contextlib.suppress(LinkFault):  # it has nothing to give, then
                        await other.give_back(server, ip, missing)
            if self._free(lease) < wanted:
                return False
            self._grant(lease, holder, wanted)
            return True
        finally:
            lease.asking -= 1
            self._settle(lease)

    def returned(self, holder: Holder, server: str, ip: str, count: int) -> None:
        lease = self._lease(server, ip)
        lease.held[holder] = self._held(lease, holder) - count
        self._settle(lease)

    def settle_all(self) -> None:
        """Limits have changed."""
        for lease in tuple(self._leases.values()):
            self._settle(lease)

    def _lease(self, server: str, ip: str) -> _Lease:
        return self._leases.setdefault((server, address_key(ip)), _Lease(server, ip))

    def _share(self, lease: _Lease) -> int:
        return share(self._most(lease.server, lease.ip), self._workers)

    def _held(self, lease: _Lease, holder: Holder) -> int:
        return lease.held.get(holder, self._share(lease) if holder in self._begun else 0)

    def _free(self, lease: _Lease) -> int:
        most = self._most(lease.server, lease.ip) or _NO_LIMIT
        return most - sum(self._held(lease, each) for each in {**self._begun, **lease.held})

    def _grant(self, lease: _Lease, holder: Holder, count: int) -> None:
        lease.held[holder] = self._held(lease, holder) + count
        holder.grant(lease.server, lease.ip, count)

    def _settle(self, lease: _Lease) -> None:
        """Pass on what is free, and forget the lease when everybody has a share."""
        if lease.asking:
            return
        fair = self._share(lease)
        for holder in self._begun:
            lacks = min(fair - self._held(lease, holder), self._free(lease))
            if lacks > 0:
                self._grant(lease, holder, lacks)
        is_even = all(count == (fair if each in self._begun else 0) for each, count in lease.held.items())
        if is_even:
            self._leases.pop((lease.server, address_key(lease.ip)), None)
