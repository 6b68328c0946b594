"""Engines on one clock that reach each other at once: enough for what an engine does, without a network."""

from __future__ import annotations

import random
from collections.abc import Callable

from cluster.address import Address
from cluster.api import Settings
from cluster.effects import Effect, OpenStream, SendDatagram
from cluster.engine import Engine
from cluster.instant import Instant

KEY = bytes(range(32))
WALL = 1_795_000_000.0
_STEP_S = 0.001


def make_engine(
    name: str, number: int, *, key: bytes = KEY, label: str = "", seed: int = 0, network: str = "10.0.0."
) -> Engine:
    rng = random.Random(f"{name} {seed}")
    address = Address(f"{network}{number}", 7946)
    settings = Settings(name, address, (key,), {"zone": f"z{number}"}, label=label, epoch=int(WALL * 1000))
    return Engine(settings, rng, lambda: rng.randbytes(12))


class Company:
    """``told`` keeps by name what the owner of each was told; ``hears`` decides which datagrams arrive."""

    def __init__(self, *engines: Engine) -> None:
        self.now = 0.0
        self.engines = {engine.settings.advertise: engine for engine in engines}
        self.told: dict[str, list[Effect]] = {engine.settings.name: [] for engine in engines}
        self.hears: Callable[[Engine, SendDatagram], bool] = lambda sender, datagram: True
        self.sent: list[SendDatagram] = []
        for engine in engines:
            engine.start(self.at)

    @property
    def at(self) -> Instant:
        return Instant(self.now, WALL + self.now)

    def join(self) -> None:
        """All to the first one; a second goes by."""
        first, *others = self.engines.values()
        for engine in others:
            engine.join([first.settings.advertise], self.at)
        self.run(1.0)

    def run(self, for_s: float) -> None:
        until = self.now + for_s
        while True:
            while sum(self._deliver(engine) for engine in self.engines.values()):
                pass
            if self.now >= until:
                return
            due = min(engine.next_deadline() for engine in self.engines.values())
            self.now = min(max(self.now + _STEP_S, due), until)
            for engine in self.engines.values():
                engine.tick(self.at)

    def _deliver(self, engine: Engine) -> bool:
        effects = engine.effects()
        for effect in effects:
            if isinstance(effect, SendDatagram):
                self.sent.append(effect)
                there = self.engines.get(effect.to)
                if there is not None and self.hears(engine, effect):
                    there.receive_datagram(effect.data, engine.settings.advertise, self.at)
            elif isinstance(effect, OpenStream):
                self._stream(engine, effect)
            else:
                self.told[engine.settings.name].append(effect)
        return bool(effects)

    def _stream(self, engine: Engine, stream: OpenStream) -> None:
        there = self.engines.get(stream.to)
        reply = None
        if there is not None:
            reply = there.receive_stream(stream.data, engine.settings.advertise, self.at)
            if not stream.wants_reply:
                reply = b""
        engine.receive_stream_reply(stream.ticket, reply, self.at)


def states(engine: Engine) -> dict[str, str]:
    return {member.name: member.state.name.lower() for member in engine.members()}
