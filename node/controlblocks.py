"""The ``blocks.*`` commands of the control socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from protocols.ports import Peer

from .control import Arguments, ControlRefused, Handler, seconds_argument, text_argument
from .ratelimit import (
    Address,
    BadSubject,
    Block,
    Subject,
    TooManyBlocks,
    parse_address,
    parse_subject,
    render,
)
from .ratelimit.blocks import FOREVER
from .ratelimit.subjects import network_of, subject_of
from .ratelimit.words import exemption_hint, explain_block, explain_counts

if TYPE_CHECKING:
    from .loginguard import Guards, LoginGuard

USUAL_IPV6_PREFIX = 64
MAX_LISTED = 10_000  # some megabytes of JSON


def block_commands(guards: Guards, wall_clock: Callable[[], float] = time.time) -> dict[str, Handler]:
    commands = BlockCommands(guards, wall_clock)
    return {
        "blocks.list": commands.latest,
        "blocks.why": commands.why,
        "blocks.add": commands.add,
        "blocks.remove": commands.remove,
    }


class BlockCommands:
    def __init__(self, guards: Guards, wall_clock: Callable[[], float]) -> None:
        self._guards = guards
        self._wall_clock = wall_clock

    async def latest(self, _arguments: Arguments) -> object:
        """The latest blocks in force, and how many there are."""
        blocks = self._guards.limiter.blocks(self._guards.clock())
        ahead_s = self._wall_ahead_s()
        return {
            "now": self._wall_clock(),
            "total": len(blocks),
            "blocks": [_plain(each.moved(ahead_s)) for each in blocks[:MAX_LISTED]],
        }

    def _wall_ahead_s(self) -> float:
        """What the wall clock, which people read, was moved by since the start."""
        return self._wall_clock() - self._guards.clock()

    async def why(self, arguments: Arguments) -> object:
        """``address``: everything that is known of it, as data and as sentences per server."""
        text = text_argument(arguments, "address")
        address = parse_address(text)
        if address is None:
            raise ControlRefused("usage", f"{text!r} is no IP address")
        blocks = self._blocks_on(address)
        return {
            "address": text,
            "blocks": [_plain(block) for block in blocks],
            "servers": {
                name: {
                    "is_refused_at_connect": guard.refuses(Peer(text, 0)),
                    **self._seen_by(guard, address, blocks),
                }
                for name, guard in self._guards
            },
        }

    def _seen_by(self, guard: LoginGuard, address: Address, blocks: list[Block]) -> dict[str, object]:
        limiter, now = self._guards.limiter, self._wall_clock()
        subject = subject_of(address, guard.rules.ipv6_prefix)
        counts = limiter.counts(guard.rules, address, self._guards.clock()).moved(self._wall_ahead_s())
        exempt = guard.exemptions.why(address)
        return {
            "counted_as": render(subject),
            "exempt": exempt,
            "is_enabled": guard.rules.is_enabled,
            "counts": asdict(counts),
            "words": list(_words(guard, exempt, blocks, explain_counts(counts, guard.rules, now), now)),
            "hint": "" if exempt else exemption_hint(render(subject)),
        }

    async def add(self, arguments: Arguments) -> object:
        """``subject``, an address or network; ``lasts_s``, absent for ever; ``reason``."""
        subject = self._subject(arguments)
        lasts_s = seconds_argument(arguments, "lasts_s")
        reason = text_argument(arguments, "reason", "")
        try:
            block = self._guards.add(subject, lasts_s=lasts_s, reason=reason)
        except TooManyBlocks as error:
            raise ControlRefused("exists", str(error)) from error
        exempt_by = [name for name, guard in self._guards if self._is_exempt(guard, subject)]
        return {**self._plain_now(block), "exempt_on": exempt_by}

    async def remove(self, arguments: Arguments) -> object:
        """``subject``, and ``user`` to end the block of that pair only."""
        subject = self._subject(arguments)
        user = arguments.get("user")
        ended = self._guards.remove(subject, user=None if user is None else text_argument(arguments, "user"))
        if not ended:
            raise ControlRefused("not_found", self._not_blocked(subject))
        return {"removed": [self._plain_now(block) for block in ended]}

    def _plain_now(self, block: Block) -> dict[str, object]:
        return _plain(block.moved(self._wall_ahead_s()))

    def _blocks_on(self, address: Address) -> list[Block]:
        """By the wall clock."""
        ahead_s = self._wall_ahead_s()
        blocks = self._guards.limiter.blocks_on(address, self._guards.clock())
        return [block.moved(ahead_s) for block in blocks]

    def _not_blocked(self, subject: Subject) -> str:
        first = parse_address(str(network_of(subject).network_address))
        around = self._blocks_on(first) if first else []
        wider = {render(block.subject) for block in around} - {render(subject)}
        hint = f"; {', '.join(sorted(wider))} is: remove that" if wider else ""
        return f"{render(subject)} is not blocked itself{hint}"

    def _subject(self, arguments: Arguments) -> Subject:
        text = text_argument(arguments, "subject")
        address = parse_address(text)
        try:
            if address is None:
                return parse_subject(text, USUAL_IPV6_PREFIX)
        except BadSubject as error:
            raise ControlRefused("usage", str(error)) from error
        prefixes = {guard.rules.ipv6_prefix for _, guard in self._guards}
        return subject_of(address, max(prefixes, default=USUAL_IPV6_PREFIX))

    def _is_exempt(self, guard: LoginGuard, subject: Subject) -> bool:
        first = parse_address(str(network_of(subject).network_address))
        return first is not None and guard.exemptions.why(first) is not None


def _words(
    guard: LoginGuard, exempt: str | None, blocks: list[Block], counted: list[str], now: float
) -> Iterator[str]:
    if exempt is not None:
        yield f"It is exempt here, because {exempt}: nothing counts, and no block holds."
        return
    held = [block for block in blocks if guard.rules.is_enabled or block.rule == "admin"]
    yield from (explain_block(block, guard.rules, now) for block in held)
    if not guard.rules.is_enabled:
        yield "auth_rate_limit is off here: failures do not count, and only blocks by operators hold."
        return
    yield from counted
    if not held and not counted:
        yield "Nothing counts against it."


def _plain(block: Block) -> dict[str, object]:
    return {
        "subject": render(block.subject),
        "is_network": network_of(block.subject).num_addresses > 1,
        "user": block.user,
        "rule": block.rule,
        "origin": block.origin,
        "since": block.since,
        "until": None if block.until >= FOREVER else block.until,
        "count": block.count,
        "level": block.level,
        "last_user": block.last_user,
        "reason": block.reason,
    }
