"""Removing what has long been over and nobody asks for: from the bucket by the leader, under the lease; from
its mirror by every node.

A clock that is wrong would make valid certificates look old, so the database's has to say the same.
"""

from __future__ import annotations

import logging

from storage.errors import Unavailable

from ..ports import BucketUnavailable, IssuingFailed
from ..vault.layout import ca_id
from ..vault.relics import Relic
from .hold import holding
from .plan import Plan
from .tools import Tools

log = logging.getLogger("sora.tls.renewing")


class Forgetting:
    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self, plan: Plan, *, leads: bool) -> None:
        """What cannot be removed now is left for the next time. Never raises for what is away."""
        try:
            await self._clear_mirror(plan)
            if leads:
                await self._clear_bucket(plan)
        except (BucketUnavailable, Unavailable, IssuingFailed) as error:
            log.info("certificates that nobody asks for stay for now: %s", error)

    async def _clear_mirror(self, plan: Plan) -> None:
        relics = self._tools.vault.local_relics
        found = await relics.find(_asked(plan), self._tools.now())
        for relic in await self._confirmed(found):
            await relics.discard(relic)
            log.info("removed from this node's mirror: %s", relic.text)

    async def _clear_bucket(self, plan: Plan) -> None:
        tools, relics = self._tools, self._tools.vault.relics
        found = await self._confirmed(await relics.find(_asked(plan), tools.now()))
        if not found:
            return
        async with holding(tools.leases, tools.company.name, tools.clock) as hold:
            if hold is None:
                return  # somebody orders, or clears: there is time
            for relic in found:
                await hold.check()
                await relics.discard(relic)
                log.info("removed from the bucket, as nobody asks for it: %s", relic.text)

    async def _confirmed(self, found: list[Relic]) -> list[Relic]:
        """Also by the database's clock."""
        if not found:
            return []
        now = await self._tools.leases.clock()
        return [relic for relic in found if relic.may_go(now)]


def _asked(plan: Plan) -> set[tuple[str, str]]:
    return {(ca_id(ca.directory), wanted.id) for ca in plan.cas for wanted in plan.wanted}
