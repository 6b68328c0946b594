"""Windows on a shared mailbox: a table of pending changes, and clients that must not lose count."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import PeerError
from protocols.imap import view as view_module
from protocols.imap.seqset import SAVED, SeqSet, UidSet, parse_parts
from protocols.imap.view import SessionView, SharedView
from storage.flags import changed
from storage.model import FlagChange, Flags, FlagsStored, MailboxChanges, SystemFlag, Uid
from tests.support.imap import MemoryMail, done

SEEN = Flags(SystemFlag.SEEN)
FLAGGED = Flags(SystemFlag.FLAGGED)
LABEL = Flags(SystemFlag.NONE, frozenset({"$Label"}))


class Lab:
    def __init__(self, messages: int = 0) -> None:
        self.mail = MemoryMail()
        for _ in range(messages):
            self.mail.deliver()
        self.inbox = self.mail.mailbox().id
        self.shared = SharedView(done(self.mail.store.load_view(self.inbox)))

    def open(self, *, recent_from: int = 1_000_000) -> SessionView:
        return SessionView(self.shared, read_only=False, recent_from=Uid(recent_from), condstore=False)

    def changes(self) -> MailboxChanges:
        return done(self.mail.store.changes_since(self.inbox, self.shared.version))

    def refresh(self) -> None:
        self.shared.apply(self.changes())

    def expunge(self, *uids: int) -> None:
        self.mail.expunge(*uids)

    def flag(self, uid: int, flags: Flags = SEEN) -> None:
        self.mail.flag(uid, flags)

    def store(self, uids: list[Uid], change: FlagChange, flags: Flags) -> FlagsStored:
        return done(self.mail.store.store_flags(self.inbox, uids, change, flags))


# --- the tracker table: what happened, what sync says, what the numbers are then ---

TRACKER = [
    # delivered, expunged, flagged, allowed -> expunged seqs, exists, changed seqs, uids announced
    (0, [], [], True, (), None, [], [1, 2, 3, 4]),
    (2, [], [], True, (), 6, [], [1, 2, 3, 4, 5, 6]),
    (0, [2], [], True, (2,), None, [], [1, 3, 4]),
    (0, [1, 2, 4], [], True, (4, 2, 1), None, [], [3]),
    (1, [2], [], True, (2,), 4, [], [1, 3, 4, 5]),
    (1, [2], [], False, (), None, [], [1, 2, 3, 4]),  # growth is withheld with the expunge
    (1, [], [], False, (), 5, [], [1, 2, 3, 4, 5]),
    (1, [5], [], True, (), None, [], [1, 2, 3, 4]),  # came and went: never announced
    (2, [5], [], True, (), 5, [], [1, 2, 3, 4, 6]),
    (1, [5], [], False, (), None, [], [1, 2, 3, 4]),
    (0, [], [3], True, (), None, [3], [1, 2, 3, 4]),
    (0, [1], [3], True, (1,), None, [2], [2, 3, 4]),
    (0, [1], [3], False, (), None, [3], [1, 2, 3, 4]),
    (0, [3], [3], True, (3,), None, [], [1, 2, 4]),
    (0, [3], [3], False, (), None, [], [1, 2, 3, 4]),
    (1, [], [5], True, (), 5, [], [1, 2, 3, 4, 5]),  # the client will fetch what is new
]


@pytest.mark.parametrize("row", TRACKER)
def test_tracker(
    row: tuple[int, list[int], list[int], bool, tuple[int, ...], Any, list[int], list[int]],
) -> None:
    delivered, expunged, flagged, allowed, seqs, exists, told, uids = row
    lab = Lab(4)
    view = lab.open()
    for _ in range(delivered):
        lab.mail.deliver()
    lab.refresh()
    for uid in flagged:
        lab.flag(uid)
    lab.expunge(*expunged)
    lab.refresh()
    before = [view.uid_at(seq) for seq in range(1, view.count + 1)]
    assert before == [1, 2, 3, 4]  # nothing moves until it is told
    updates = view.sync(expunge_allowed=allowed)
    assert updates.expunged == seqs
    assert updates.exists == exists
    assert [seq for seq, _ in updates.changed] == told
    assert list(view.uids()) == uids
    assert [view.seq_of(uid) for uid in uids] == list(range(1, len(uids) + 1))


def test_withheld_news_come_with_the_next_permitted_sync() -> None:
    lab = Lab(3)
    view = lab.open()
    lab.mail.deliver()
    lab.expunge(1)
    lab.refresh()
    assert not view.sync(expunge_allowed=False)
    assert view.pending
    updates = view.sync(expunge_allowed=True)
    assert (updates.expunged, updates.exists) == ((1,), 3)
    assert not view.pending


def test_expunged_message_has_no_row_but_keeps_its_number_until_told() -> None:
    lab = Lab(3)
    view = lab.open()
    lab.expunge(2)
    lab.refresh()
    assert view.row(2) is None
    assert view.uid_at(2) == 2
    assert view.resolve(SeqSet(((1, 3),))) == [(1, 1), (2, 2), (3, 3)]
    view.sync(expunge_allowed=True)
    assert view.resolve(SeqSet(((1, 2),))) == [(1, 1), (2, 3)]


# --- reading ---


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (SeqSet, b"1:*", [(1, 1), (2, 3), (3, 5)]),
        (SeqSet, b"*", [(3, 5)]),
        (SeqSet, b"3,1", [(1, 1), (3, 5)]),
        (SeqSet, b"2:9", [(2, 3), (3, 5)]),
        (UidSet, b"1:*", [(1, 1), (2, 3), (3, 5)]),
        (UidSet, b"2,4", []),
        (UidSet, b"2:4", [(2, 3)]),
        (UidSet, b"9:*", [(3, 5)]),  # RFC 9051 §6.4.8: * is always in it
        (UidSet, b"4294967295", []),
        (UidSet, b"5:4294967295", [(3, 5)]),
    ],
)
def test_resolve(kind: Any, text: bytes, expected: list[tuple[int, int]]) -> None:
    lab = Lab(5)
    lab.expunge(2, 4)
    lab.refresh()
    view = lab.open()
    assert view.resolve(kind(parse_parts(text))) == expected


def test_resolve_refuses_a_number_that_is_not_there() -> None:
    view = Lab(2).open()
    with pytest.raises(PeerError):
        view.resolve(SeqSet(((3, 3),)))
    assert Lab(0).open().resolve(SeqSet(((1, 0),))) == []


def test_resolve_sees_announced_messages_only() -> None:
    lab = Lab(2)
    view = lab.open()
    lab.mail.deliver()
    lab.refresh()
    assert view.resolve(UidSet(((1, 0),))) == [(1, 1), (2, 2)]
    assert view.resolve(UidSet(((3, 3),))) == []


def test_saved_result_forgets_what_was_expunged() -> None:
    lab = Lab(4)
    view = lab.open()
    view.saved_result = (Uid(2), Uid(3), Uid(4))
    lab.expunge(3)
    lab.refresh()
    view.sync(expunge_allowed=True)
    assert view.resolve(SAVED) == [(2, 2), (3, 4)]


def test_recent_and_first_unseen() -> None:
    lab = Lab(5)
    for uid in (1, 2, 5):
        lab.flag(uid)
    lab.refresh()
    view = lab.open(recent_from=4)
    assert view.recent == 2
    assert [view.is_recent(uid) for uid in (3, 4)] == [False, True]
    assert lab.shared.first_unseen() == 2
    assert lab.shared.deleted_uids() == []


def test_windows_share_one_array_when_they_are_up_to_date() -> None:
    lab = Lab(3)
    fresh, late = lab.open(), lab.open()
    lab.expunge(2)
    lab.refresh()
    fresh.sync(expunge_allowed=True)
    assert fresh._uids is lab.shared.uids
    assert late._uids == array("I", [1, 2, 3])


# --- shared changes ---


def test_apply_is_idempotent_and_order_does_not_matter() -> None:
    lab = Lab(2)
    view = lab.open()
    lab.mail.deliver()
    early = lab.changes()
    lab.expunge(3, 1)
    late = lab.changes()
    for changes in (late, early, late):  # answers that overtook each other
        lab.shared.apply(changes)
    assert list(lab.shared.uids) == [2]
    updates = view.sync(expunge_allowed=True)
    assert (updates.expunged, updates.exists) == ((1,), None)  # no phantom of uid 3
    assert lab.shared.version == late.mailbox.highestmodseq


def test_own_write_is_applied_without_reading_back() -> None:
    lab = Lab(2)
    view = lab.open()
    stored = lab.store([Uid(1)], FlagChange.ADD, SEEN)
    lab.shared.apply_own(stored.changed, (), stored.highestmodseq, view)
    assert lab.shared.version == stored.highestmodseq
    assert not view.pending


def test_own_write_behind_a_foreign_one_leaves_the_version_for_a_refresh() -> None:
    lab = Lab(2)
    view = lab.open()
    lab.flag(2)
    stored = lab.store([Uid(1)], FlagChange.ADD, SEEN)
    lab.shared.apply_own(stored.changed, (), stored.highestmodseq, view)
    assert lab.shared.version < stored.highestmodseq
    lab.refresh()
    assert [seq for seq, _ in view.sync(expunge_allowed=True).changed] == [2]


def test_foreign_change_hidden_in_the_answer_to_a_silent_store_is_told() -> None:
    lab = Lab(1)
    view = lab.open()
    lab.flag(1, FLAGGED)  # not yet heard of
    before = view.believed([Uid(1)])
    stored = lab.store([Uid(1)], FlagChange.ADD, SEEN)
    lab.shared.apply_own(stored.changed, (), stored.highestmodseq, view)
    view.settle(stored.changed, before, FlagChange.ADD, SEEN)
    [(_, state)] = view.sync(expunge_allowed=False).changed
    assert state.flags.system == SystemFlag.SEEN | SystemFlag.FLAGGED


def test_silent_store_is_not_echoed_even_if_a_refresh_was_faster() -> None:
    lab = Lab(1)
    view, other = lab.open(), lab.open()
    before = view.believed([Uid(1)])
    stored = lab.store([Uid(1)], FlagChange.ADD, SEEN)
    lab.refresh()
    lab.shared.apply_own(stored.changed, (), stored.highestmodseq, view)
    view.settle(stored.changed, before, FlagChange.ADD, SEEN)
    assert not view.sync(expunge_allowed=True)
    assert other.sync(expunge_allowed=True).changed


def test_keywords_are_shared_between_messages_and_collected() -> None:
    lab = Lab(0)
    for _ in range(3):
        lab.mail.deliver(flags=Flags(SystemFlag.NONE, frozenset({"b", "a"})))
    lab.refresh()
    assert list(lab.shared.keyword_names.values()) == ["a", "b"]
    assert len({id(names) for names in lab.shared.keywords.values()}) == 1


def test_made_up_keywords_do_not_grow_the_list_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "MAX_KEYWORD_NAMES", 2)
    monkeypatch.setattr(view_module, "_MAX_INTERNED", 2)
    lab = Lab(1)
    for number in range(5):
        lab.flag(1, Flags(SystemFlag.NONE, frozenset({f"k{number}"})))
        lab.refresh()
    assert list(lab.shared.keyword_names) == ["k0", "k1"]
    assert len(lab.shared.keywords[1]) == 5
    assert len(lab.shared._interned) <= 2


# --- several sessions, any interleaving ---


class Client:
    """Knows only what it was told."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.view = lab.open()
        self.uids: list[int] = []
        self.flags: dict[int, Flags] = {}
        self._grow(self.view.count)

    def _grow(self, count: int) -> None:
        assert count >= len(self.uids), "EXISTS never shrinks"
        for seq in range(len(self.uids) + 1, count + 1):  # and fetches what is new
            uid = self.view.uid_at(seq)
            state = self.view.row(uid)
            self.uids.append(uid)
            if state is not None:
                self.flags[uid] = state.flags

    def sync(self, *, expunge_allowed: bool) -> None:
        updates = self.view.sync(expunge_allowed=expunge_allowed)
        assert expunge_allowed or not updates.expunged
        for seq in updates.expunged:
            assert 1 <= seq <= len(self.uids), "phantom"
            del self.flags[self.uids.pop(seq - 1)]
        if updates.exists is not None:
            assert updates.exists != len(self.uids), "EXISTS without news"
            self._grow(updates.exists)
        for seq, state in updates.changed:
            assert self.uids[seq - 1] == state.uid, "wrong message"
            self.flags[state.uid] = state.flags
        assert list(self.view.uids()) == self.uids

    def store(self, change: FlagChange, flags: Flags, *, silent: bool, refresh_between: bool) -> None:
        uids = [Uid(uid) for uid in self.uids[::2]]
        believed = self.view.believed(uids)
        stored = self.lab.store(uids, change, flags)
        if refresh_between:
            self.lab.refresh()
        if stored.changed:
            self.lab.shared.apply_own(stored.changed, (), stored.highestmodseq, self.view)
        if silent:
            self.view.settle(stored.changed, believed, change, flags)
            for uid in uids:
                self.flags[uid] = changed(self.flags[uid], change, flags)
            return
        for uid in uids:
            state = self.view.row(uid)
            if state is not None:
                self.flags[uid] = state.flags
                self.view.told([state])

    def expunge(self, uid: int) -> None:
        self.lab.expunge(uid)
        self.lab.shared.apply_own((), [Uid(uid)], self.lab.mail.mailbox().highestmodseq, self.view)


_WORDS = "deliver expunge own_expunge flag flag store store refresh capture late sync hold"
STEPS = _WORDS.split()


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(60, 120))
def test_every_client_ends_with_the_truth(seed: int, length: int) -> None:
    rng = random.Random(f"{seed} {length}")  # neighbours in hypothesis' eyes shall not be alike
    lab = Lab(rng.randrange(8))
    clients = [Client(lab) for _ in range(3)]
    captured: list[MailboxChanges] = []
    for step in rng.choices(STEPS, k=length):
        client, uid = rng.choice(clients), rng.choice(list(lab.mail.rows()) or [0])
        flags = rng.choice([SEEN, FLAGGED, LABEL])
        if step == "deliver":
            lab.mail.deliver()
        elif step == "expunge" and uid:
            lab.expunge(uid)
        elif step == "own_expunge" and uid:
            client.expunge(uid)
        elif step == "flag" and uid:
            lab.flag(uid, flags)
        elif step == "store":
            change = rng.choice(list(FlagChange))
            client.store(change, flags, silent=rng.random() < 0.5, refresh_between=rng.random() < 0.3)
        elif step == "refresh":
            lab.refresh()
        elif step == "capture":
            captured.append(lab.changes())
        elif step == "late" and captured:
            lab.shared.apply(captured.pop(rng.randrange(len(captured))))
        elif step in ("sync", "hold"):
            client.sync(expunge_allowed=step == "sync")
    for changes in captured:
        lab.shared.apply(changes)
    lab.refresh()
    for client in clients:
        client.sync(expunge_allowed=True)
        assert client.uids == list(lab.mail.rows())
        assert client.flags == lab.mail.rows()
        assert not client.view.pending
