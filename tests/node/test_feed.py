from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from node.feed import EVERY_S, HostFeed, LocalFeed, announce
from protocols.ports import SETTINGS, MailboxChanged
from protocols.settings import settings_changed
from storage.model import AccountId, MailboxId, ModSeq
from tests.support.waiting import until


def change(mailbox: int, modseq: int) -> MailboxChanged:
    return MailboxChanged(AccountId(7), MailboxId(mailbox), ModSeq(modseq))


def test_listeners_hear_their_mailbox_only_and_stop_when_unsubscribed() -> None:
    feed = LocalFeed()
    heard: list[MailboxChanged] = []
    unsubscribe = feed.subscribe(MailboxId(1), heard.append)
    feed.publish(change(1, 5))
    feed.publish(change(2, 6))
    unsubscribe()
    unsubscribe()
    feed.publish(change(1, 7))
    assert heard == [change(1, 5)]


async def test_changes_reach_other_processes_and_the_dead_are_forgotten(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)  # far beyond what a socket address holds
    deep.mkdir(parents=True)
    feeds = [HostFeed(deep) for _ in range(3)]
    heard = asyncio.Event()
    arrived: list[tuple[int, MailboxChanged]] = []

    def listener(n: int) -> None:
        def hear(got: MailboxChanged) -> None:
            arrived.append((n, got))
            if len(arrived) >= 3:
                heard.set()

        feeds[n].subscribe(MailboxId(1), hear)

    for n, feed in enumerate(feeds):
        listener(n)
        feed.start(asyncio.get_running_loop())
    try:
        feeds[0].publish(change(1, 9))
        await asyncio.wait_for(heard.wait(), 60)
        assert sorted(arrived, key=lambda item: item[0]) == [(n, change(1, 9)) for n in range(3)]
        # a process that is killed leaves its socket behind
        feeds[2]._loop = None
        asyncio.get_running_loop().remove_reader(feeds[2]._socket.fileno())
        feeds[2]._socket.close()
        assert len(list(deep.iterdir())) == 3
        feeds[0].publish(change(1, 10))
        await until(lambda: len(list(deep.iterdir())) == 2)
    finally:
        feeds[0].close()
        feeds[1].close()
    assert list(deep.iterdir()) == []


async def test_a_full_queue_drops_hints_and_never_blocks(tmp_path: Path) -> None:
    sender, deaf = HostFeed(tmp_path), HostFeed(tmp_path)
    try:
        for n in range(20_000):
            sender.publish(change(1, n))
        assert sender.dropped > 0
    finally:
        sender.close()
        deaf.close()


async def test_a_command_beside_the_node_tells_it_of_changed_settings(tmp_path: Path) -> None:
    announce(tmp_path / "never", AccountId(7))  # no node ran here
    node, told = HostFeed(tmp_path), asyncio.Event()
    beyond: list[MailboxChanged] = []
    node.beyond = beyond.append
    node.subscribe(SETTINGS, lambda _change: told.set())
    node.start(asyncio.get_running_loop())
    try:
        announce(tmp_path, AccountId(7))
        await asyncio.wait_for(told.wait(), 60)
        assert beyond == [settings_changed(AccountId(7))]  # and so do the other nodes
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        node.close()


async def test_changes_of_one_turn_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver = HostFeed(tmp_path), HostFeed(tmp_path)
    heard: list[MailboxChanged] = []
    done = asyncio.Event()
    packets: list[bytes] = []
    send = sender._send

    def noted(name: str, packet: bytes) -> None:
        packets.append(packet)
        send(name, packet)

    def hear(got: MailboxChanged) -> None:
        heard.append(got)
        if len(heard) == 250:
            done.set()

    monkeypatch.setattr(sender, "_send", noted)
    receiver.subscribe(MailboxId(1), hear)
    for feed in (sender, receiver):
        feed.start(asyncio.get_running_loop())
    try:
        for n in range(250):
            sender.publish(change(1, n))
        await asyncio.wait_for(done.wait(), 60)
        assert heard == [change(1, n) for n in range(250)]
        assert len(packets) == 3
        sender.publish(change(1, 250))
        sender.close()  # says what it has to say
        assert len(packets) == 4
    finally:
        receiver.close()


class _Loop:
    """Notes what is to be called, and when."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.due.append((self.now, call))

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        self.due.append((max(when, self.now), call))

    def add_reader(self, _number: int, _call: Callable[[], None]) -> None:
        """Nobody sends anything here."""

    def remove_reader(self, _number: int) -> None:
        """There was none."""

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [call for when, call in self.due if when <= self.now]
        self.due = [each for each in self.due if each[0] > self.now]
        for call in due:
            call()


def test_a_lone_change_goes_at_once_and_those_that_follow_soon_go_together(tmp_path: Path) -> None:
    sender, receiver, loop = HostFeed(tmp_path), HostFeed(tmp_path), _Loop()
    packets: list[int] = []

    def pass_time(seconds: float) -> list[int]:
        """Changes in each of the packets that were sent meanwhile."""
        packets.clear()
        loop.pass_time(seconds)
        return packets

    sender._send = lambda _name, packet: packets.append(len(packet) // 24)  # type: ignore[method-assign]
    sender.start(cast("asyncio.AbstractEventLoop", loop))
    try:
        sender.publish(change(1, 1))
        assert pass_time(0) == [1]
        for n in range(5):
            sender.publish(change(1, n))
            assert pass_time(EVERY_S / 10) == []
        sender.publish(settings_changed(AccountId(7)))  # and nobody acts on the old ones
        assert pass_time(0) == [6]
        sender.publish(change(1, 9))
        assert pass_time(EVERY_S / 10) == []
        assert pass_time(EVERY_S) == [1]
        loop.pass_time(EVERY_S)
        sender.publish(change(1, 10))
        assert pass_time(0) == [1]
    finally:
        sender.close()
        receiver.close()
