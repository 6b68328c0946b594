"""Several clients in one mailbox, over the wire: whatever they do and whenever, nobody loses count.

Each client keeps a list of messages from untagged responses alone, as real clients do. The invariant: a
number always means the message it meant when it was told, and at the end every list is the mailbox.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.flags import changed
from storage.model import FlagChange, Flags, SystemFlag
from tests.support.imap import ImapLab
from tests.support.wire import Wire

FETCH = re.compile(r"\* (\d+) FETCH \((?:UID (\d+) )?FLAGS \(([^)]*)\)(?: UID (\d+))?(?: MODSEQ \(\d+\))?\)")
COUNT = re.compile(r"\* (\d+) (EXISTS|EXPUNGE)")
CHANGES = {"FLAGS": FlagChange.REPLACE, "+FLAGS": FlagChange.ADD, "-FLAGS": FlagChange.REMOVE}
FLAG_SETS = ("\\Seen", "\\Flagged", "\\Deleted", "$Work", "\\Seen $Work")
COMMANDS = (
    "NOOP", "EXPUNGE", "UID EXPUNGE 1:*", "FETCH 1:* (FLAGS UID)", "UID FETCH 1:* (FLAGS)", "SEARCH ALL",
    "APPEND INBOX {3+}\r\nabc", "COPY 1 INBOX", "MOVE 1 Trash", "STORE", "STORE", "STORE", "UID STORE",
    "IDLE",
)  # fmt: skip


def parse_flags(text: str) -> Flags:
    system, keywords = SystemFlag.NONE, set()
    for word in text.split():
        if word == "\\Recent":
            continue
        if word.startswith("\\"):
            system |= SystemFlag[word[1:].upper()]
        else:
            keywords.add(word)
    return Flags(system, frozenset(keywords))


@dataclass
class Known:
    uid: int | None = None
    flags: Flags | None = None


class Client:
    def __init__(self, lab: ImapLab, wire: Wire, count: int) -> None:
        self.lab = lab
        self.wire = wire
        self.messages = [Known() for _ in range(count)]
        self.is_idling = False

    def hear(self, answer: bytes, *, may_expunge: bool = True) -> None:
        for line in answer.decode().split("\r\n"):
            if match := FETCH.fullmatch(line):
                known = self.messages[int(match[1]) - 1]
                uid = match[2] or match[4]
                assert uid is None or known.uid in (None, int(uid)), f"another message: {line}"
                known.uid = int(uid) if uid else known.uid
                known.flags = parse_flags(match[3])
            elif match := COUNT.fullmatch(line):
                number = int(match[1])
                if match[2] == "EXPUNGE":
                    assert may_expunge, "EXPUNGE while numbers are in use"
                    del self.messages[number - 1]
                else:
                    assert number > len(self.messages), f"not news: {line}"
                    self.messages += [Known() for _ in range(number - len(self.messages))]

    async def act(self, rng: random.Random) -> None:
        if self.is_idling:
            self.is_idling = False
            self.hear(await self.wire.send(b"DONE\r\n"))
            return
        command = rng.choice(COMMANDS)
        if command.endswith("STORE"):
            await self._store(rng, command)
            return
        self.is_idling = command == "IDLE"
        may_expunge = not command.startswith(("FETCH", "SEARCH", "COPY"))
        self.hear(
            await self.wire.send(f"t {command}\r\n".encode()), may_expunge=may_expunge or "COPY" in command
        )

    async def _store(self, rng: random.Random, command: str) -> None:
        """A silent STORE changes what the client knows; the server says so only if it differs."""
        if not self.messages:
            return
        number, action, flags = (
            rng.randint(1, len(self.messages)),
            rng.choice(list(CHANGES)),
            rng.choice(FLAG_SETS),
        )
        target = self.messages[number - 1]
        if command == "UID STORE" and target.uid is None:
            return
        if target.uid in self.lab.mail.rows() and rng.random() < 0.4:  # another node was faster
            self.lab.mail.flag(target.uid or 0, parse_flags(rng.choice(FLAG_SETS)))
        is_silent = rng.random() < 0.6
        if is_silent and target.flags is not None:
            target.flags = changed(target.flags, CHANGES[action], parse_flags(flags))
        where = target.uid if command == "UID STORE" else number
        suffix = ".SILENT" if is_silent else ""
        answer = await self.wire.send(f"t {command} {where} {action}{suffix} ({flags})\r\n".encode())
        self.hear(answer, may_expunge=command == "UID STORE")


def disturb(lab: ImapLab, rng: random.Random) -> None:
    """What other nodes do, with and without the hint arriving."""
    uids = list(lab.mail.rows())
    what = rng.choice(["deliver", "flag", "expunge", "announce", "announce"])
    if what == "deliver":
        lab.mail.deliver()
    elif what == "flag" and uids:
        lab.mail.flag(rng.choice(uids), parse_flags(rng.choice(FLAG_SETS)))
    elif what == "expunge" and uids:
        lab.mail.expunge(rng.choice(uids))
    else:
        lab.announce()


async def finish(lab: ImapLab, clients: list[Client]) -> None:
    await lab.views.step()
    for client in clients:
        await client.wire.settle()
        client.hear(client.wire.received())
        if client.is_idling:
            client.hear(await client.wire.send(b"DONE\r\n"))
        client.hear(await client.wire.send(b"t NOOP\r\n"))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
async def test_nobody_loses_count(seed: int) -> None:
    rng = random.Random(seed)
    lab = ImapLab()
    for _ in range(rng.randrange(6)):
        lab.mail.deliver()
    count = len(lab.mail.rows())
    clients = [Client(lab, await lab.log_in("INBOX"), count) for _ in range(3)]
    for _ in range(40):
        client = rng.choice(clients)
        if rng.random() < 0.4:
            disturb(lab, rng)
        await client.act(rng)
        if rng.random() < 0.5:
            await client.wire.settle()
            client.hear(client.wire.received())
    await finish(lab, clients)
    truth = lab.mail.rows()
    for client in clients:
        assert len(client.messages) == len(truth)
        for known, (uid, flags) in zip(client.messages, truth.items(), strict=True):
            assert known.uid in (None, uid)
            assert known.flags in (None, flags)
        assert client.wire.live.counts.bugs == 0
    await lab.views.close_all()
