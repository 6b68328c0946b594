"""The model: failures in, verdicts and blocks out.

Theory: failures are counted for the pair of an address and a user, and for the address; neither for a user
alone, because whoever knows a name could lock its owner out. A pair or address with too many is blocked for
a while, the next time for twice as long. What is gentle, and why:

* The same wrong password of a user from an address counts once: a telephone with an old one is no attack.
* A user who logged in before from the neighbourhood is familiar there: a larger budget, no effect on the
  address, and a rule block of the address does not stop him. An address with any such user is not refused
  at the door, only at the password.

Invariants: one key for counting and checking; the answer depends on arguments and earlier calls alone, so
that equal calls give equal deltas; every table is bounded, and the least recently touched goes first.

``now`` is seconds of the epoch by a clock that never steps; what other nodes say has been moved to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from .blocks import (
    BY_ADDRESS,
    BY_ADMIN,
    BY_FAST,
    BY_USER,
    FOREVER,
    KEEP_LIFTED_S,
    MAX_AGE_ERROR_S,
    MAX_TEXT_CHARS,
    Block,
    BlockTable,
    Delta,
    Failures,
    Key,
    Lifted,
    Word,
)
from .counters import MARK_BYTES, Counter, Recent, failures_within, unpack
from .facts import NOTHING, Attempt, Capacity, Counted, Counts, Due, TooManyBlocks, Verdict
from .rules import FAST_WINDOW_S, Rules
from .subjects import Address, Subject, covering, neighbourhood_of, subject_of

# How long a wrong password is known as a repetition, counted from its last use.
REMEMBER_WRONG_S = 86_400.0
REMEMBER_FAMILIAR_S = 30 * 86_400.0
# Offences are forgotten when none follows for this long after the end of a block.
REMEMBER_OFFENCE_S = 86_400.0
REMEMBER_COUNTS_S = 86_400.0  # at least the longest window
SWEPT_AT_ONCE = 5_000  # of each table
MAX_MARKS = 8
MAX_FAST_MARKS = 64
MAX_ORIGINS = 64


class Limiter:
    """All counts and blocks of one node.

    ``secret``, 16 bytes, keys the digests; the same secret makes everything repeatable.
    """

    def __init__(self, *, secret: bytes, node: str, capacity: Capacity | None = None) -> None:
        capacity = capacity or Capacity()
        self.node = node
        self._secret = secret
        self._pairs: Recent[bytes] = Recent(capacity.pairs)
        self._addresses: Recent[bytes] = Recent(capacity.addresses)
        self._users: Recent[bytes] = Recent(capacity.users)
        self._homes: Recent[int] = Recent(capacity.pairs)  # last success of a user in a neighbourhood
        self._good: Recent[int] = Recent(capacity.addresses)  # last success of anybody from an address
        self._pair_offences: Recent[tuple[int, float]] = Recent(capacity.pairs)  # level, end of the last
        self._address_offences: Recent[tuple[int, float]] = Recent(capacity.addresses)
        self._others: Recent[dict[str, Failures]] = Recent(capacity.addresses)
        self._blocks = BlockTable()

    # --- before and after a login ------------------------------------------------------------------

    def attempt(self, rules: Rules, address: Address, user: str, password: bytes) -> Attempt:
        """``user`` is canonical: equal users are spelled equally."""
        subject = subject_of(address, rules.ipv6_prefix)
        name = self._name(user)
        pair = hash((name, subject))
        mark = blake2b(
            password, digest_size=MARK_BYTES, salt=self._secret, person=pair.to_bytes(16, "big", signed=True)
        )
        return Attempt(
            address, subject, user, pair, hash((name, neighbourhood_of(address))), name, mark.digest()
        )

    def _name(self, user: str) -> int:
        """A secret number for each user: nobody outside can choose names whose keys collide."""
        raw_user = user.encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(raw_user, digest_size=8, salt=self._secret).digest(), "big")

    def judge(self, rules: Rules, attempt: Attempt, now: float) -> Verdict:
        is_familiar = self._is_familiar(attempt, now)
        block = self._block_of(rules, attempt, now, is_familiar=is_familiar)
        if block is not None or not rules.is_enabled:
            return Verdict(block, 0.0)
        pair = failures_within(self._pairs.get(attempt.pair), rules.user_window_s, now)
        address = failures_within(self._addresses.get(attempt.subject), rules.address_window_s, now)
        address += self._counted_elsewhere(rules, attempt.subject, now)
        if not pair and not address:
            return Verdict(None, 0.0)
        return Verdict(None, rules.delay_s(pair, address, is_familiar=is_familiar))

    def failed(self, rules: Rules, attempt: Attempt, now: float) -> Counted:
        """Count a wrong password."""
        if not rules.is_enabled:
            return NOTHING
        known = unpack(self._pairs.get(attempt.pair))
        if known.has_mark(attempt.mark) and 0 <= now - known.touched < REMEMBER_WRONG_S:
            self._pairs.put(attempt.pair, known._replace(touched=int(now)).pack())
            return NOTHING
        is_familiar = self._is_familiar(attempt, now)
        blocks = self._count_pair(rules, attempt, known, now, is_familiar=is_familiar)
        deltas = [] if is_familiar else self._count_address(rules, attempt, now)
        blocks += [delta for delta in deltas if isinstance(delta, Block)]
        return Counted(deltas, blocks, self._count_user(rules, attempt, now))

    def succeeded(self, rules: Rules, attempt: Attempt, now: float) -> None:
        """The pair starts afresh and is familiar from now on. The address keeps its count: an attacker may
        have an account of his own."""
        if not rules.is_enabled:
            return
        self._homes.put(attempt.home, int(now))
        self._good.put(attempt.subject, int(now))
        self._pairs.drop(attempt.pair)
        record = self._addresses.get(attempt.subject)
        if record is not None:
            self._addresses.put(attempt.subject, unpack(record)._replace(marks=b"").pack())

    def _count_user(self, rules: Rules, attempt: Attempt, now: float) -> bool:
        """Whether this failure is the one that should be reported."""
        counter = unpack(self._users.get(attempt.name)).within(rules.reported_window_s, now)
        counter = counter._replace(failures=counter.failures + 1)
        self._users.put(attempt.name, counter.pack())
        return counter.failures == rules.reported_failures

    def _is_familiar(self, attempt: Attempt, now: float) -> bool:
        last = self._homes.get(attempt.home)
        return last is not None and now - last < REMEMBER_FAMILIAR_S

    def _count_pair(
        self, rules: Rules, attempt: Attempt, known: Counter, now: float, *, is_familiar: bool
    ) -> list[Block]:
        blocks = []
        counter = known.within(rules.user_window_s, now)
        count = counter.failures + 1
        budget = rules.user_budget(is_familiar=is_familiar)
        if budget and count >= budget and not self._is_held(attempt.subject, attempt.user, now):
            level = 0 if is_familiar else self._offend(self._pair_offences, attempt.pair, now)
            until = now + rules.block_s(rules.user_block_s, level)
            self._pair_offences.put(attempt.pair, (level, until))
            user = _cut(attempt.user)
            blocks.append(self._put(attempt.subject, user, BY_USER, now, until, count=count, level=level))
            count = 0
        marks = (attempt.mark + counter.marks)[: MAX_MARKS * MARK_BYTES]
        self._pairs.put(attempt.pair, Counter(count, counter.start, int(now), marks).pack())
        return blocks

    def _count_address(self, rules: Rules, attempt: Attempt, now: float) -> list[Delta]:
        counter = self._address(rules, attempt.subject, now)
        counter = counter._replace(failures=counter.failures + 1)
        run_start, marks = counter.touched, counter.marks
        if not marks or not 0 <= now - run_start < FAST_WINDOW_S:
            run_start, marks = int(now), b""
        mark = (attempt.name & 0xFFFFFFFF).to_bytes(MARK_BYTES, "big")
        if not Counter(marks=marks).has_mark(mark):
            marks = (mark + marks)[: MAX_FAST_MARKS * MARK_BYTES]
        counter = counter._replace(touched=run_start, marks=marks)
        start = counter.start
        deltas: list[Delta] = [Failures(attempt.subject, self.node, start, float(start), counter.failures)]
        total = counter.failures + self._counted_elsewhere(rules, attempt.subject, now)
        due = _due(rules, total, len(marks) // MARK_BYTES)
        if due is not None and not self._is_held(attempt.subject, "", now):
            deltas.append(self._block_address(rules, attempt, due, now))
            counter = counter._replace(marks=b"")
        self._addresses.put(attempt.subject, counter.pack())
        return deltas

    def _is_held(self, subject: Subject, user: str, now: float) -> bool:
        """Blocked already: what was on its way then is counted, but is no new offence."""
        return self._blocks.of(subject, _cut(user), now, is_admin=False) is not None

    def _address(self, rules: Rules, subject: Subject, now: float) -> Counter:
        return unpack(self._addresses.get(subject)).within(rules.address_window_s, now)

    def _block_address(self, rules: Rules, attempt: Attempt, due: Due, now: float) -> Block:
        level = self._offend(self._address_offences, attempt.subject, now)
        until = now + rules.block_s(due.first_s, level)
        self._address_offences.put(attempt.subject, (level, until))
        user = _cut(attempt.user)
        return self._put(
            attempt.subject, "", due.rule, now, until, count=due.count, level=level, last_user=user
        )

    def _offend(self, offences: Recent[tuple[int, float]], key: int, now: float) -> int:
        """How many blocks of this key are not forgotten."""
        found = offences.get(key)
        if found is None or now >= found[1] + REMEMBER_OFFENCE_S:
            return 0
        return min(found[0] + 1, 255)

    # --- blocks ------------------------------------------------------------------------------------

    def refuses(self, rules: Rules, address: Address, now: float) -> Block | None:
        """The block that turns this address away at the door, before it has said who it is."""
        for subject in covering(address, self._blocks.kinds):
            found = self._blocks.of(subject, "", now, is_admin=True)
            if found is not None:
                return found
            found = self._blocks.of(subject, "", now, is_admin=False) if rules.is_enabled else None
            if found is not None and self._good.get(subject_of(address, rules.ipv6_prefix)) is None:
                return found
        return None

    def _block_of(self, rules: Rules, attempt: Attempt, now: float, *, is_familiar: bool) -> Block | None:
        for subject in covering(attempt.address, self._blocks.kinds):
            found = self._blocks.of(subject, "", now, is_admin=True)
            if found is None and rules.is_enabled and not is_familiar:
                found = self._blocks.of(subject, "", now, is_admin=False)
            if found is not None:
                return found
        if not rules.is_enabled or not self._blocks.kinds:
            return None
        return self._blocks.of(attempt.subject, _cut(attempt.user), now, is_admin=False)

    def is_blocked(self, subject: Subject, now: float) -> bool:
        """By a rule, whoever logs in."""
        return self._is_held(subject, "", now)

    def is_welcome(self, subject: Subject) -> bool:
        """Somebody has logged in from there."""
        return self._good.get(subject) is not None

    def welcome(self, subject: Subject, now: float) -> None:
        """Another process of this node says that somebody has logged in from there."""
        self._good.put(subject, int(now))

    def add(self, subject: Subject, now: float, *, lasts_s: float | None, reason: str) -> Block:
        """An operator's block, or a new end of it; None lasts for ever. Raises TooManyBlocks."""
        until = FOREVER if lasts_s is None else min(now + lasts_s, FOREVER)
        block = self._put(subject, "", BY_ADMIN, now, until, reason=_cut(reason))
        if self._blocks.latest(block.key) is not block:
            raise TooManyBlocks("too many blocks of addresses: block networks instead, or use a firewall")
        return block

    def _put(
        self,
        subject: Subject,
        user: str,
        rule: str,
        now: float,
        until: float,
        *,
        count: int = 0,
        level: int = 0,
        last_user: str = "",
        reason: str = "",
    ) -> Block:
        """A word of this node, from now on the latest one, if there is room."""
        key: Key = (subject, user, rule == BY_ADMIN)
        stamp, covers = self._blocks.next_stamp(key, now), self._blocks.covered(key, now)
        about = (count, level, last_user, reason)
        block = Block(subject, user, rule, self.node, stamp, now, until, covers, *about)
        self._blocks.merge(block, now)
        return block

    def remove(self, subject: Subject, now: float, *, user: str | None = None) -> list[tuple[Block, Lifted]]:
        """End the blocks of a subject, or only that of ``user``; their counts and offences are forgotten.

        Answers what ended, and the words for it.
        """
        ended = [
            block
            for block in self._blocks.active(now)
            if block.subject == subject and user in (None, block.user)
        ]
        words = [(block, self._lift(block, now)) for block in ended]
        for block in ended:
            if block.user:
                pair = hash((self._name(block.user), subject))
                self._pairs.drop(pair)
                self._pair_offences.drop(pair)
        if user is None:
            self._addresses.drop(subject)
            self._address_offences.drop(subject)
            self._others.drop(subject)
        return words

    def _lift(self, block: Block, now: float) -> Lifted:
        covers = max(self._blocks.covered(block.key, now), now + KEEP_LIFTED_S)
        word = Lifted(block.subject, block.user, block.rule == BY_ADMIN, self.node, block.stamp, covers)
        self._blocks.merge(word, now)
        return word

    def count_blocks(self, now: float) -> int:
        """O(blocks)."""
        return sum(1 for _ in self._blocks.active(now))

    def blocks(self, now: float) -> list[Block]:
        """All that are in force, the latest first."""
        return sorted(self._blocks.active(now), key=lambda each: each.since, reverse=True)

    def blocks_on(self, address: Address, now: float) -> list[Block]:
        subjects = set(covering(address, self._blocks.kinds))
        return [block for block in self.blocks(now) if block.subject in subjects]

    def counts(self, rules: Rules, address: Address, now: float) -> Counts:
        subject = subject_of(address, rules.ipv6_prefix)
        counter = self._address(rules, subject, now)
        is_run = 0 <= now - counter.touched < FAST_WINDOW_S
        return Counts(
            failures=counter.failures,
            since=counter.start,
            others=self._counted_elsewhere(rules, subject, now),
            different_users=len(counter.marks) // MARK_BYTES if is_run else 0,
            level=self._offend(self._address_offences, subject, now),
            last_success=self._good.get(subject),
        )

    # --- other nodes -------------------------------------------------------------------------------

    def absorb(self, delta: Delta, now: float) -> bool:
        """Take what another node says; whether it was news. In any order, any number of times."""
        if isinstance(delta, Failures):
            return self._absorb_failures(delta, now)
        return delta.matters_until > now and self._blocks.merge(delta, now)

    def _absorb_failures(self, delta: Failures, now: float) -> bool:
        age = now - delta.since
        if delta.origin == self.node or not -MAX_AGE_ERROR_S <= age < REMEMBER_COUNTS_S:
            return False
        known = self._others.get(delta.subject) or {}
        held = known.get(delta.origin)
        if held is not None and (held.stamp, held.count) >= (delta.stamp, delta.count):
            return False
        if held is None and len(known) >= MAX_ORIGINS:
            return False
        self._others.put(delta.subject, {**known, delta.origin: delta})
        return True

    def forget(self, subject: Subject, origin: str) -> None:
        """What ``origin`` counted is over, or the node is gone."""
        known = self._others.get(subject)
        if known is None or origin not in known:
            return
        if len(known) == 1:
            self._others.drop(subject)
        else:
            self._others.put(subject, {name: told for name, told in known.items() if name != origin})

    def _counted_elsewhere(self, rules: Rules, subject: Subject, now: float) -> int:
        known = self._others.get(subject)
        if known is None:
            return 0
        return sum(told.count for told in known.values() if now - told.since < rules.address_window_s)

    def latest(self, key: Key) -> Word | None:
        return self._blocks.latest(key)

    def words(self, now: float) -> Iterable[Word]:
        """The blocks of addresses in force, for a process that has just begun."""
        return (block for block in self._blocks.active(now) if not block.user)

    # --- memory ------------------------------------------------------------------------------------

    @property
    def sizes(self) -> dict[str, int]:
        return {
            "pairs": len(self._pairs),
            "addresses": len(self._addresses),
            "users": len(self._users),
            "familiar": len(self._homes),
            "block words": len(self._blocks),
        }

    def sweep(self, now: float) -> bool:
        """Free what is over, but no more than takes some 20 ms; whether there may be more. O(blocks)."""
        freed = [
            self._pairs.sweep(lambda record: now - unpack(record).touched >= REMEMBER_WRONG_S, SWEPT_AT_ONCE),
            *(
                table.sweep(lambda record: now - unpack(record).start >= REMEMBER_COUNTS_S, SWEPT_AT_ONCE)
                for table in (self._addresses, self._users)
            ),
            *(
                table.sweep(lambda last: now - last >= REMEMBER_FAMILIAR_S, SWEPT_AT_ONCE)
                for table in (self._homes, self._good)
            ),
            *(
                table.sweep(lambda record: now >= record[1] + REMEMBER_OFFENCE_S, SWEPT_AT_ONCE)
                for table in (self._pair_offences, self._address_offences)
            ),
            self._others.sweep(
                lambda known: all(now - told.since >= REMEMBER_COUNTS_S for told in known.values()),
                SWEPT_AT_ONCE,
            ),
        ]
        self._blocks.sweep(now)
        return max(freed) == SWEPT_AT_ONCE


def _due(rules: Rules, failures: int, users: int) -> Due | None:
    """What an address has deserved."""
    if rules.address_failures and failures >= rules.address_failures:
        return Due(BY_ADDRESS, rules.address_block_s, failures)
    if rules.fast_users and users >= min(rules.fast_users, MAX_FAST_MARKS):
        return Due(BY_FAST, rules.fast_block_s, users)
    return None


def _cut(text: str) -> str:
    return text[:MAX_TEXT_CHARS]
