"""Certificate work as a part of a node, whatever processes that has: opened, run, reloaded, shown.

A node whose certificates come from files has the part, too: it does nothing, and says so when asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cluster.thread import GossipUnavailable
from node.certificates import has_table
from node.startfaults import StartFailed
from storage.postgres.leases import PostgresAttemptRecord, PostgresLeases
from tls.acme.authority import AcmeAuthority
from tls.names import folded
from tls.observing import STARTTLS
from tls.renewing.company import Alone, Company
from tls.renewing.memory import LastingRecord
from tls.renewing.rounds import Rounds
from tls.renewing.shelf import Offer, Shelf
from tls.renewing.tools import Tools

from . import setup
from .answers import PortAnswers
from .commands import certificate_commands
from .figures import read_renewal
from .gossip import GossipCompany
from .health import judge_renewal
from .preflight import Preflight
from .seen import Door, Seen

if TYPE_CHECKING:
    from node.challengepart import ChallengePart
    from node.clustering.part import ClusterPart
    from node.config import Config
    from node.config.server import Server
    from node.control import Handler
    from node.core import Core
    from node.health import Finding
    from node.monitoring import Monitoring
    from node.workers import Workers
    from tls.ports import Generation
    from tls.vault.mirror import Mirror
    from tls.vault.vault import SealedVault
    from tls.wanted import Wanted

log = logging.getLogger("sora.tls.renewing")

FIRST_SYNC_WITHIN_S: Final = 5.0  # then the doors open with what the mirror had


def _now() -> datetime:
    return datetime.now(UTC)


class RenewalPart:
    """``rounds`` is None before ``open``, and in a node whose certificates come from files. ``since``: when
    the node started."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.since = _now()
        self.rounds: Rounds | None = None
        self.tools: Tools | None = None
        self.vault: SealedVault | None = None
        self.mirror: Mirror | None = None
        self.cluster: ClusterPart | None = None
        self.seen: Seen | None = None
        self._hearing: set[asyncio.Task[None]] = set()

    async def open(
        self, core: Core, cluster: ClusterPart, challenges: ChallengePart, exit_stack: AsyncExitStack
    ) -> None:
        """Before the doors, so that they have certificates to show. Raises StartFailed for a configuration
        that cannot work; that something is away is no fault."""
        if not has_table(self._config):
            return
        plan = setup.plan_of(self._config)
        try:
            self.vault, bucket, self.mirror = setup.vault_of(self._config, plan)
            dns = setup.dns_of(self._config)
        except setup.RenewalUnusable as error:
            raise StartFailed(str(error)) from error
        exit_stack.push_async_callback(bucket.close)
        self.cluster = cluster
        answers = PortAnswers(challenges, is_stateless=self._config.tls.letsencrypt.stateless_challenge)
        challenges.store = self.vault.challenge
        company = self._company(cluster, answers)
        acme = self._config.tls.letsencrypt
        self.tools = Tools(
            leases=PostgresLeases(core.database),
            record=LastingRecord(PostgresAttemptRecord(core.database), _now),
            vault=self.vault,
            shelf=Shelf(self.vault, self._shower(core), _now, core.certificates.retain),
            answers=answers,
            company=company,
            authority=AcmeAuthority,
            now=_now,
            clock=time.monotonic,
            chance=random.random,
            preflight=Preflight(self._others, own_port=acme.challenge_listen.port or 80),
            dns=dns,
        )
        self.rounds = Rounds(self.tools, plan)
        await self._first_look(company)

    def _company(self, cluster: ClusterPart, answers: PortAnswers) -> Company:
        if cluster.clustering is None:
            return Alone(self._config.hostname or socket.gethostname())
        self.seen = Seen(cluster.clustering)
        self._choose_sights()
        return GossipCompany(
            cluster.clustering,
            answers,
            published=self._published,
            handed=self._handed,
            wanted=self.asked_for,
            turned=self.wake,
        )

    def _shower(self, core: Core) -> Offer:
        def show(generations: Sequence[Generation]) -> Mapping[str, str]:
            if self.seen is not None:
                self._choose_sights()  # the names of what is shown may be others
                self.seen.swapped()
            return core.certificates.offer(generations)

        return show

    def _others(self) -> tuple[str, ...]:
        clustering = self.cluster.clustering if self.cluster is not None else None
        if clustering is None:
            return ()
        others = set(clustering.roster.others)
        return tuple(each.address.ip for each in clustering.roster if each.name in others)

    async def _first_look(self, company: Company) -> None:
        assert self.rounds is not None
        assert self.tools is not None
        await self.tools.shelf.load(self.rounds.plan.wanted)
        try:
            if isinstance(company, GossipCompany):
                await company.catch_up()
            async with asyncio.timeout(FIRST_SYNC_WITHIN_S):
                await self.tools.shelf.sync(self.rounds.plan.wanted)
        except TimeoutError:
            log.warning("the bucket of certificates is slow; the node starts with what its mirror had")
        except GossipUnavailable as error:
            log.warning("gossip does not answer yet: %s", error)
        missing = [each.label for each in self.rounds.plan.wanted if not self.tools.shelf.bundle(each.id)]
        if missing:
            log.warning("no certificate yet for %s", "; ".join(missing))

    # --- events ---

    def wake(self) -> None:
        """Look at everything now."""
        if self.rounds is not None:
            self.rounds.wake()

    def client_waits(self, name: str) -> None:
        """For a certificate that is configured and not there: whoever leads should look."""
        if self.tools is not None:
            self.tools.company.ask_for(folded(name))
            self.asked_for(name)

    def asked_for(self, name: str) -> None:
        if self.rounds is None or self.tools is None:
            return
        wanted = self.rounds.plan.for_name(folded(name))
        if any(self.tools.shelf.bundle(each.id) is None for each in wanted):
            self.rounds.wake()

    def _published(self, wanted_id: str, fence: int) -> None:
        if self.rounds is not None:
            if self.seen is not None:
                self.seen.swapped()
            self._hear(self.rounds.heard(wanted_id, fence))

    def _handed(self, key: str, sealed: bytes) -> None:
        if self.rounds is not None:
            self._hear(self.rounds.handed(key, sealed))

    def _hear(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._hearing.add(task)
        task.add_done_callback(self._hearing.discard)

    # --- life ---

    def start(self, workers: Workers) -> None:
        """After the doors."""
        if self.rounds is not None:
            workers.start("renewal", self.rounds.run)
        if self.seen is not None:
            workers.start("certificates seen", self.seen.run)

    def monitor(self, monitoring: Monitoring) -> None:
        if self.rounds is not None:
            monitoring.registry.add(lambda: read_renewal(self))
            monitoring.checker.add("renewal", self._check, is_critical=True)

    def reload(self, config: Config) -> None:
        """What may change without a restart: names, key types, rules of time."""
        self._config = config
        if self.rounds is not None and has_table(config):
            plan = setup.plan_of(config)
            if plan != self.rounds.plan:
                self.rounds.replan(plan)
            self._choose_sights()

    def _choose_sights(self) -> None:
        """What is looked at on the other nodes."""
        if self.seen is None:
            return
        wanted = setup.plan_of(self._config).wanted
        self.seen.doors = [_door(each) for each in self._config.servers if _shows_issued(each)]
        self.seen.names = list(dict.fromkeys(map(self._asked, wanted)))

    def _asked(self, wanted: Wanted) -> str:
        """A name to look at it by: what there is need not be for all of them."""
        copy = self.tools.shelf.copies.get(wanted.id) if self.tools is not None else None
        return _askable(copy.generation.names or wanted.names if copy is not None else wanted.names)

    def _fingerprints(self) -> dict[str, list[str]]:
        """Of what this node shows, by the name that is asked for."""
        found: dict[str, list[str]] = {}
        if self.rounds is not None and self.tools is not None:
            for wanted in self.rounds.plan.wanted:
                bundle = self.tools.shelf.bundle(wanted.id)
                if bundle is not None:
                    found.setdefault(self._asked(wanted), []).append(bundle.fingerprint)
        return found

    def shown(self) -> list[dict[str, Any]]:
        """What every node really shows, as the nodes saw each other."""
        return [] if self.seen is None else self.seen.rows(self._fingerprints())

    def disagreeing(self) -> int:
        return 0 if self.seen is None else self.seen.disagreeing(self._fingerprints())

    def commands(self) -> dict[str, Handler]:
        return certificate_commands(self)

    async def _check(self) -> Finding:
        return judge_renewal(self, _now())


def _shows_issued(server: Server) -> bool:
    """At a port that is known, and to who comes without a PROXY header."""
    is_open = server.start and bool(server.addr.port) and not server.proxy_protocol.enabled
    return is_open and not server.tls_cert_file and (server.tls or server.type in STARTTLS)


def _door(server: Server) -> Door:
    return Door(server.addr.port, "" if server.tls and not server.tls_use_starttls else server.type)


def _askable(names: Sequence[str]) -> str:
    """A name that a client may ask for: of a wildcard any below it."""
    return next((name for name in names if not name.startswith("*.")), names[0].replace("*", "check", 1))
