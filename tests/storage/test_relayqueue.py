"""The relay queue: states, times, operators, adoption."""

from __future__ import annotations

import errno
import math
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.relaylook import count_messages, list_messages
from storage.errors import InvalidName, NotFound, NotPermitted, Unavailable
from storage.relayadopt import Adoption, interrupted
from storage.relayfile import Fate, Hold, Record, Verdict
from storage.relaylayout import SHOWN_STRAYS, find_strays
from storage.relayqueue import STALE_TEMPORARY_S, RelayQueue, SpoolTaken
from storage.relayspool import RelaySpool
from storage.relaywindow import DueWindow
from tests.support.relaydisk import UnsyncedSpoolDisk

REFUSED = Verdict(Fate.REFUSED, "5.1.1", "550 nobody", "mx")
TAKEN = Verdict(Fate.TAKEN, "2.0.0", "250 ok", "mx")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[RelayQueue]:
    queue = RelayQueue(tmp_path / "relay", clock, UnsyncedSpoolDisk(), owner="here")
    queue.open()
    yield queue
    queue.close()


def submit(queue: RelaySpool, *recipients: str, key: bytes = b"", sender: str = "ann@example.test") -> str:
    to = recipients or ("bob@example.org",)
    return queue.submit(sender, to, b"Subject: x\r\n\r\nhello\r\n", kind="redirect", account=7, key=key)


def states(queue: RelayQueue) -> dict[str, list[str]]:
    return {state: sorted(queue.ids(state)) for state in ("pending", "processing", "failed")}


def test_a_message_goes_its_way(queue: RelayQueue) -> None:
    message_id = submit(queue)
    (message,) = queue.take([message_id])
    assert states(queue) == {"pending": [], "processing": [message_id], "failed": []}
    assert queue.body(message) == b"Subject: x\r\n\r\nhello\r\n"
    assert queue.body(message, limit_bytes=7) == b"Subject"
    queue.finish(message_id)
    queue.finish(message_id)
    assert states(queue) == {"pending": [], "processing": [], "failed": []}


def test_what_is_held_waits_for_its_release(queue: RelayQueue, clock: Clock) -> None:
    envelope = ("ann@example.test", ["bob@example.org"], b"Subject: x\r\n\r\nhello\r\n")
    held, other = (
        queue.submit(*envelope, kind="redirect", account=7, key=key, held_s=60) for key in (b"a", b"b")
    )
    due = {name: due_at for due_at, name in queue.entries()}
    until = math.ceil(clock.now + 60)
    assert due == {held: until, other: until}
    clock.now += 1
    again = queue.submit(*envelope, kind="redirect", account=7, key=b"a", held_s=60)
    assert again != held, "each attempt has a copy of its own"
    queue.withdraw(again)
    queue.withdraw(again)
    assert queue.let_go(held)
    due = {name: due_at for due_at, name in queue.entries()}
    assert due == {held: clock.now, other: until}
    (released,) = queue.take([held])
    assert released.unreleased is None
    clock.now = until
    (over,) = queue.take([other])
    assert over.unreleased == Hold(b"b", until)
    queue.record(over, Record(clock.now, {0: Verdict(Fate.DEFERRED, "4.0.0", "later")}, is_attempt=True))
    queue.postpone(other, clock.now + 5)
    assert queue.look(other)[2].unreleased is None, "it was claimed before it was tried"
    queue.delete(other)
    assert not queue.let_go(held)
    assert not queue.let_go("nobody")
    assert states(queue)["processing"] == [held]


def test_what_is_held_is_not_released_by_a_copy_or_by_an_operator(queue: RelayQueue, clock: Clock) -> None:
    envelope = ("ann@example.test", ["bob@example.org"], b"Subject: x\r\n\r\nhello\r\n")
    held = queue.submit(*envelope, kind="redirect", account=7, key=b"a", held_s=60)
    until = math.ceil(clock.now + 60)
    queue.retry(held)
    assert [due_at for due_at, _ in queue.entries()] == [until]
    clock.now += 7200
    os.utime(queue.place_of("pending", held), (clock.now, clock.now))  # as a copy without times
    (message,) = queue.take([held])
    assert message.unreleased == Hold(b"a", until)


def test_a_release_that_fails_is_no_trouble(
    queue: RelayQueue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = queue.submit("", ["b@c.d"], [], kind="reject", account=7, key=b"a", held_s=60)

    def fail(*_arguments: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(os, "utime", fail)
    assert not queue.let_go(held)
    assert [due_at for due_at, _ in queue.entries()] == [math.ceil(clock.now + 60)]


def test_a_withdrawal_that_fails_is_no_trouble(
    queue: RelayQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = queue.submit("", ["b@c.d"], [], kind="reject", account=7, key=b"a", held_s=60)

    def fail(*_arguments: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(os, "unlink", fail)
    queue.withdraw(held)
    assert held in caplog.text
    assert queue.ids("pending") == [held]


def test_pieces_are_joined(queue: RelayQueue) -> None:
    message_id = queue.submit("", ["b@c.d"], [b"a\r\n", b"", b"b\r\n"], kind="vacation", account=None)
    (message,) = queue.take([message_id])
    assert queue.body(message) == b"a\r\nb\r\n"


def test_an_empty_message_is_one(queue: RelayQueue) -> None:
    (message,) = queue.take([queue.submit("", ["b@c.d"], [], kind="vacation", account=None)])
    assert queue.body(message) == b""


@pytest.mark.parametrize(
    ("sender", "recipients"),
    [
        ("", ()),
        ("", ("a b@example.org",)),
        ("", ("a@example.org>\r\nRSET",)),
        ("", ("",)),
        ("", ("\ud800@example.org",)),
        ("x\n@example.org", ("a@example.org",)),
        ("", ("a" * 320 + "@b",)),
        ("", tuple(f"a{n}@b.c" for n in range(1_001))),
    ],
)
def test_addresses_that_no_command_may_carry(
    queue: RelayQueue, sender: str, recipients: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidName):
        queue.submit(sender, recipients, b"", kind="redirect", account=None)
    assert list(queue.entries()) == []


def test_what_is_postponed_is_not_taken_before(queue: RelayQueue, clock: Clock) -> None:
    message_id = submit(queue)
    queue.take([message_id])
    queue.postpone(message_id, clock.now + 60)
    assert queue.take([message_id]) == []
    assert list(queue.entries()) == [(clock.now + 60, message_id)]
    clock.now += 60
    assert [each.id for each in queue.take([message_id])] == [message_id]


def test_a_key_makes_one_message_as_long_as_it_is_queued(queue: RelayQueue) -> None:
    first = submit(queue, key=b"k")
    assert submit(queue, key=b"k") == first
    queue.take([first])
    assert submit(queue, key=b"k") == first
    queue.bury(first)
    assert submit(queue, key=b"k") == first
    assert states(queue) == {"pending": [], "processing": [], "failed": [first]}
    queue.delete(first)
    assert submit(queue, key=b"k") == first
    assert states(queue)["pending"] == [first]


def test_records_are_there_after_a_restart(queue: RelayQueue, tmp_path: Path, clock: Clock) -> None:
    message_id = submit(queue, "a@b.c", "b@b.c")
    (message,) = queue.take([message_id])
    queue.record(message, Record(clock.now, {0: TAKEN}, is_attempt=True))
    queue.close()
    again = RelayQueue(tmp_path / "relay", clock, UnsyncedSpoolDisk())
    assert again.open() == 1
    state, _, found = again.look(message_id)
    assert (state, found.open_positions, found.progress.attempts) == ("pending", [1], 1)
    again.close()


def test_only_one_process_has_the_queue(queue: RelayQueue, tmp_path: Path, clock: Clock) -> None:
    other = RelayQueue(tmp_path / "relay", clock)
    with pytest.raises(SpoolTaken, match="a queue belongs to one node"):
        other.open()
    assert RelaySpool(tmp_path / "relay", clock).submit("", ["a@b.c"], b"", kind="notify", account=None)
    queue.close()
    other.open()
    other.close()


def test_what_nobody_is_busy_with_is_brought_back(queue: RelayQueue) -> None:
    one, two = submit(queue), submit(queue)
    queue.take([one, two])
    assert queue.recover(busy={two}) == 1
    assert states(queue) == {"pending": [one], "processing": [two], "failed": []}


def test_a_damaged_file_is_set_aside(queue: RelayQueue, tmp_path: Path) -> None:
    good, bad = submit(queue), submit(queue)
    (tmp_path / "relay" / "pending" / bad).write_bytes(b"nonsense")
    assert [each.id for each in queue.take([good, bad])] == [good]
    assert states(queue)["failed"] == [bad]


def foreign(directory: Path) -> int:
    """What people and programs leave in directories; how much."""
    before = len(os.listdir(directory))
    (directory / "k0123456789abcdef01234567").mkdir()
    (directory / "lost+found").mkdir()
    (directory / "README").write_text("hello")
    (directory / "k0123456789abcdef01234567.bak").write_bytes(b"x")
    (directory / "k1123456789abcdef01234567").symlink_to("/etc/passwd")
    (directory / "k2123456789abcdef01234567").symlink_to("/nowhere")
    os.mkfifo(directory / "k3123456789abcdef01234567")
    (directory / ".k4123456789abcdef01234567.01234567.tmp").mkdir()
    (directory / ".notes.tmp").write_text("mine")
    return len(os.listdir(directory)) - before


def test_what_is_no_message_stays_where_it_is_and_stops_nothing(
    queue: RelayQueue, clock: Clock, tmp_path: Path, gone: Callable[[], RelayQueue]
) -> None:
    for state in ("pending", "processing", "failed"):
        foreign(tmp_path / "relay" / state)
    clock.now = time.time() + 2 * STALE_TEMPORARY_S
    message_id = submit(queue)
    assert queue.recover() == 0
    assert states(queue) == {"pending": [message_id], "processing": [], "failed": []}
    assert [each.id for each in queue.take([name for _, name in queue.entries()])] == [message_id]
    assert queue.sweep(1.0) == 0

    lost = gone()
    foreign(lost.root / "pending")
    left = set(os.listdir(lost.root / "pending")) - set(lost.ids("pending"))
    (queue.root / "adopting").mkdir()
    alone = foreign(queue.root / "adopting")
    Adoption(queue, lost.root).run()
    assert set(os.listdir(lost.root / "pending")) == left
    assert interrupted(queue) == 0
    assert find_strays(queue.root).count == 4 * alone


def test_strays_are_named_once_and_not_without_end(
    queue: RelayQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        caplog.clear()
        queue.sweep(1.0)
        return [record.getMessage() for record in caplog.records]

    queue.take([submit(queue)])
    submit(queue)
    (queue.root / "pending" / f".{submit(queue)}.0123abcd.tmp").touch()
    assert told() == [], "all of it is the queue's"
    stray = queue.root / "failed" / "saved\nmessage\udcff"
    stray.touch()
    (said,) = told()
    assert said.startswith("failed/saved?message? in the relay queue")
    assert "move it away" in said
    assert told() == []
    for name in range(SHOWN_STRAYS + 5):
        (queue.root / "pending" / f"{name:02}").touch()
    (queue.root / "pending" / ("long" * 60)).touch()
    assert len(told()) == SHOWN_STRAYS, "one of those shown was named before; and how many more"
    assert told() == []
    found = find_strays(queue.root)
    assert (found.count, len(found.paths)) == (SHOWN_STRAYS + 7, SHOWN_STRAYS)
    assert max(map(len, found.paths)) < 150


def test_a_directory_with_the_name_of_a_message_is_not_taken_for_it(queue: RelayQueue) -> None:
    first = submit(queue, key=b"1")
    queue.delete(first)
    (queue.root / "processing" / first).mkdir()
    assert submit(queue, key=b"1") == first
    assert states(queue)["pending"] == [first], "its sender was told that it is queued"


def test_a_file_that_cannot_be_read_stops_no_other(
    queue: RelayQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = submit(queue), submit(queue)
    real = os.open

    def fails(path: os.PathLike[str], *arguments: int) -> int:
        if str(path).endswith(bad):
            raise OSError(errno.EIO, "bad sector")
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", fails)
    assert [each.id for each in queue.take([bad, good])] == [good]
    listed = {each["id"]: each["state"] for each in list_messages(queue, None, 10)["messages"]}
    assert listed == {good: "processing", bad: "damaged"}
    assert count_messages(queue)["kinds"] == {"redirect": 1}
    queue.finish(good)
    queue.recover()
    with pytest.raises(Unavailable):
        queue.take([bad])
    monkeypatch.undo()
    queue.recover()
    assert [each.id for each in queue.take([bad])] == [bad]


def test_mail_of_a_clock_that_was_set_back_does_not_wait_for_years(queue: RelayQueue, clock: Clock) -> None:
    clock.now += 10 * 365 * 86400
    queued, put_off = submit(queue), submit(queue)
    held = queue.submit("a@b.c", ["b@b.c"], b"x", kind="redirect", account=7, key=b"k", held_s=20.0)
    queue.take([put_off])
    queue.postpone(put_off, clock.now + 3600)
    clock.now -= 10 * 365 * 86400
    later = submit(queue)
    queue.take([later])
    queue.postpone(later, clock.now + 3600)
    now, longest_s = clock.now, 86400.0
    assert {name: at for at, name in queue.entries(longest_s)} == {
        queued: now,
        put_off: now,
        held: now,
        later: now + 3600,
    }
    taken = {each.id: each for each in queue.take([queued, put_off, held, later], longest_s)}
    assert taken.keys() == {queued, put_off, held}
    assert taken[held].unreleased  # whether it goes is asked all the same


def test_a_failed_message_is_tried_again_for_those_that_did_not_get_it(
    queue: RelayQueue, clock: Clock
) -> None:
    message_id = submit(queue, "a@b.c", "b@b.c")
    (message,) = queue.take([message_id])
    verdicts = {0: TAKEN, 1: REFUSED}
    queue.record(message, Record(clock.now, verdicts, is_attempt=True, told=frozenset({1})))
    queue.bury(message_id)
    queue.retry(message_id)
    (again,) = queue.take([message_id])
    assert (again.open_positions, again.progress.attempts, again.progress.told) == ([1], 0, set())


def test_retry_makes_a_waiting_message_due(queue: RelayQueue, clock: Clock) -> None:
    message_id = submit(queue)
    queue.take([message_id])
    queue.postpone(message_id, clock.now + 3600)
    queue.retry(message_id)
    assert len(queue.take([message_id])) == 1


def test_delete(queue: RelayQueue) -> None:
    one, two = submit(queue), submit(queue)
    queue.delete(one)
    queue.take([two])
    with pytest.raises(Unavailable, match="delivered now"):
        queue.delete(two)
    for name in (one, "nothing", "../lock", ""):
        with pytest.raises(NotFound):
            queue.delete(name)


def test_the_sweep_takes_old_failures_and_broken_submissions(
    queue: RelayQueue, clock: Clock, tmp_path: Path
) -> None:
    old = submit(queue)
    queue.take([old])
    queue.bury(old)
    left = tmp_path / "relay" / "pending" / f".{old}.0123abcd.tmp"
    left.write_bytes(b"half")
    os.utime(left, (clock.now, clock.now))
    clock.now += STALE_TEMPORARY_S + 1
    new = submit(queue)
    queue.take([new])
    queue.bury(new)
    assert queue.sweep(0.0) == 0
    assert not left.exists()
    assert queue.sweep(STALE_TEMPORARY_S) == 1
    assert states(queue)["failed"] == [new]


def test_depths(queue: RelayQueue, clock: Clock) -> None:
    submit(queue)
    clock.now += 30
    taken, buried = submit(queue), submit(queue)
    queue.take([taken, buried])
    queue.bury(buried)
    assert queue.depths() == type(queue.depths())(1, 1, 1, 30.0)


# --- the window ---


def test_a_window_gives_what_is_due_in_order_and_asks_for_more() -> None:
    window = DueWindow(size=3)
    window.replace(window.earliest((float(n), f"m{n}") for n in (5, 1, 4, 2, 3)))
    assert [name for _, name in window.take(2.5, 10)] == ["m1", "m2"]
    assert not window.must_refill
    window.offer(9.0, "later than what was seen")
    window.offer(0.5, "urgent")
    assert [name for _, name in window.take(10.0, 10)] == ["urgent", "m3"]
    assert window.must_refill
    window.replace(window.earliest([(4.0, "m4"), (5.0, "m5")]))
    assert [name for _, name in window.take(10.0, 1)] == ["m4"]
    assert not window.must_refill
    assert window.next_due() == 5.0


def test_a_window_is_bounded() -> None:
    window = DueWindow(size=10)
    window.replace([])
    for n in range(1_000):
        window.offer(float(n), f"m{n}")
    assert len(window) == 20
    window.take(1e9, 1_000)
    assert window.must_refill


def test_a_long_queue_is_looked_through_in_constant_memory(
    queue: RelayQueue, tmp_path: Path, clock: Clock
) -> None:
    """The names are real, the files empty: nothing is opened. All that a start does, and counting."""
    directory = tmp_path / "relay" / "pending"
    for n in range(20_000):
        os.close(os.open(directory / f"{n:011x}-{n:08x}", os.O_CREAT | os.O_WRONLY))
    window = DueWindow(size=1_000)
    tracemalloc.start()
    try:
        queue.recover()
        queue.sweep(1.0)
        queue.room.count()
        queue.depths()
        window.replace(window.earliest(queue.entries()))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(window) == 1_000
    assert most < 1_000_000, "50 bytes a message would be all of them at once"


# --- adoption ---


@pytest.fixture
def gone(tmp_path: Path, clock: Clock) -> Callable[[], RelayQueue]:
    """A queue whose node died: one pending, one in processing, one failed."""

    def make() -> RelayQueue:
        queue = RelayQueue(tmp_path / "gone", clock, UnsyncedSpoolDisk(), owner="gone")
        queue.open()
        ids = [submit(queue, key=bytes([n])) for n in range(3)]
        queue.take(ids[1:])
        queue.bury(ids[2])
        queue.close()
        return queue

    return make


def test_a_queue_is_adopted(queue: RelayQueue, gone: Callable[[], RelayQueue], tmp_path: Path) -> None:
    old = gone()
    mine = submit(queue)
    adopted = Adoption(queue, tmp_path / "gone", UnsyncedSpoolDisk()).run()
    assert (adopted.pending, adopted.failed) == (2, 1)
    assert [len(each) for each in states(queue).values()] == [3, 0, 1]
    assert not any(states(old).values())
    assert len(queue.take([name for _, name in queue.entries()])) == 3
    assert mine in states(queue)["processing"]


def test_who_adopts_for_a_stopped_node_gives_its_user_the_files(
    queue: RelayQueue, gone: Callable[[], RelayQueue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone()
    given: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(os, "chown", lambda path, *who: given.update({path.name: who}))
    monkeypatch.setattr(os, "geteuid", lambda: queue.root.stat().st_uid + 1)
    assert Adoption(queue, tmp_path / "gone", UnsyncedSpoolDisk()).run().pending == 2
    user = queue.root.stat()
    names = ["adopting", *(f"pending.{name}" for name in states(queue)["pending"])]
    names += [f"failed.{name}" for name in states(queue)["failed"]]
    assert given == dict.fromkeys(names, (user.st_uid, user.st_gid))


def test_adoptions_that_are_refused(
    queue: RelayQueue, gone: Callable[[], RelayQueue], tmp_path: Path
) -> None:
    old = gone()
    with pytest.raises(NotFound):
        Adoption(queue, tmp_path).run()
    with pytest.raises(NotPermitted):
        Adoption(queue, queue.root).run()
    old.open()
    with pytest.raises(SpoolTaken):
        Adoption(queue, old.root).run()
    old.close()


def test_a_message_that_is_here_already_stays_there(
    queue: RelayQueue, gone: Callable[[], RelayQueue], tmp_path: Path
) -> None:
    old = gone()
    submit(queue, key=bytes([0]))
    assert Adoption(queue, tmp_path / "gone", UnsyncedSpoolDisk()).run().pending == 1
    assert len(states(old)["pending"]) == 1
    assert interrupted(queue) == 0


def test_an_operator_holds_a_queue_that_is_stopped(tmp_path: Path, queue: RelayQueue, clock: Clock) -> None:
    left = submit(queue)
    queue.take([left])
    operator = RelayQueue(tmp_path / "relay", clock, UnsyncedSpoolDisk())
    with pytest.raises(SpoolTaken), operator.held():
        raise AssertionError("the node runs")
    queue.close()
    with operator.held():
        assert states(operator) == {"pending": [left], "processing": [], "failed": []}
        with pytest.raises(SpoolTaken):
            queue.open()
        operator.delete(left)
    assert (tmp_path / "relay/owner").read_text() == "here"
    queue.open()


def test_where_no_queue_was_none_is_made(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(NotFound), RelayQueue(tmp_path, clock).held():
        raise AssertionError("there is none")
    assert list(tmp_path.iterdir()) == []


def test_a_spool_whose_disk_is_not_there_is_away(tmp_path: Path, queue: RelayQueue) -> None:
    """Not NotFound, which an MTA would be told as a lasting failure."""
    (tmp_path / "relay/pending").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        submit(queue)
