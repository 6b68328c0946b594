"""The queue against a model, over any sequence of steps and crashes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.relayfile import Fate, Record, RelayMessage, Verdict
from storage.relayqueue import RelayQueue
from tests.support.relaydisk import UnsyncedSpoolDisk

VERDICTS = {fate: Verdict(fate, "x.0.0", fate.value, "") for fate in Fate}
STEPS = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 3)),
    st.tuples(st.just("take"), st.integers(1, 3)),
    st.tuples(st.just("verdict"), st.sampled_from(Fate)),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("wait"), st.just(0)),
    st.tuples(st.just("retry"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
)


@dataclass
class Model:
    """Of each message the fate of each recipient; None: never tried."""

    fates: dict[str, dict[int, Fate | None]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    taken: dict[str, RelayMessage] = field(default_factory=dict)  # in processing


class World:
    def __init__(self, root: Path) -> None:
        self.now = 1_800_000_000.0
        self.root = root
        self.model = Model()
        self.queue = self._open()

    def _open(self) -> RelayQueue:
        queue = RelayQueue(self.root, lambda: self.now, UnsyncedSpoolDisk())
        queue.open()
        return queue

    def submit(self, recipients: int) -> None:
        to = [f"r{n}@example.org" for n in range(recipients)]
        message_id = self.queue.submit("", to, b"x", kind="redirect", account=None)
        self.model.fates[message_id] = dict.fromkeys(range(recipients))

    def take(self, count: int) -> None:
        ids = [name for _, name in sorted(self.queue.entries())][:count]
        for message in self.queue.take(ids):
            assert message.id not in self.model.taken
            assert message.id not in self.model.failed
            self.model.taken[message.id] = message

    def verdict(self, fate: Fate) -> None:
        for message in self.model.taken.values():
            for at in message.open_positions[:1]:
                self.queue.record(message, Record(self.now, {at: VERDICTS[fate]}, is_attempt=True))
                self.model.fates[message.id][at] = fate

    def settle(self, _: int) -> None:
        for message in list(self.model.taken.values()):
            fates = set(self.model.fates[message.id].values())
            if fates == {Fate.TAKEN}:
                self.queue.finish(message.id)
                del self.model.fates[message.id]
            elif fates <= {Fate.TAKEN, Fate.REFUSED}:
                self.queue.bury(message.id)
                self.model.failed.add(message.id)
            else:
                self.queue.postpone(message.id, self.now + 10)
            del self.model.taken[message.id]

    def wait(self, _: int) -> None:
        self.now += 11

    def retry(self, _: int) -> None:
        for message_id in sorted(self.model.failed)[:1]:
            self.queue.retry(message_id)
            self.model.failed.discard(message_id)
            fates = self.model.fates[message_id]
            self.model.fates[message_id] = {at: None if x is Fate.REFUSED else x for at, x in fates.items()}

    def restart(self, _: int) -> None:
        self.queue.close()
        self.queue = self._open()
        self.model.taken.clear()

    def check(self) -> None:
        found = {state: self.queue.ids(state) for state in ("pending", "processing", "failed")}
        assert sorted(name for names in found.values() for name in names) == sorted(self.model.fates)
        assert set(found["processing"]) == set(self.model.taken)
        assert set(found["failed"]) == self.model.failed
        for message_id, fates in self.model.fates.items():
            _, _, message = self.queue.look(message_id)
            verdicts = message.progress.verdicts
            assert {at: verdicts[at].fate if at in verdicts else None for at in fates} == fates


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_every_message_is_where_it_should_be(steps: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory) / "relay")
        for name, argument in steps:
            getattr(world, name)(argument)
            world.check()
        world.queue.close()
