"""Runs compiled patterns. Time is linear in the value for a given pattern, whatever both are.

Theory: deterministic states are made when they are first needed, from the set of instructions that the
value so far may have led to. Three passes answer where the leftmost longest match is: backward over the
value, noting where matches may begin; forward from the first such place, noting where they may end; and only
when groups are wanted a third over the match, in the order of the program, that never looks at the same
instruction and position twice.

Bounds: states are thrown away when there are more than MAX_TRANSITIONS; new ones are paid from the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .budget import Budget
from .errors import OverBudget
from .regexsyntax import Accept, AtEdge, Instruction, Program, Save, Split, Take, compile_pattern

MAX_TRANSITIONS = 20_000
# Instructions times positions of one match whose groups are wanted; each costs an octet.
MAX_GROUP_CELLS = 8_000_000
CHARS_PER_STEP = 64


class _State:
    __slots__ = ("accepts", "accepts_at_end", "next", "takes")

    def __init__(self, takes: tuple[int, ...], accepts: bool, accepts_at_end: bool) -> None:
        self.takes = takes  # the instructions that wait for a character
        self.accepts = accepts
        self.accepts_at_end = accepts_at_end
        self.next: dict[str, _State] = {}


class _Automaton:
    """One direction of a pattern. ``is_search``: a match may begin anywhere."""

    def __init__(self, code: Sequence[Instruction], *, is_search: bool) -> None:
        self._code = code
        self._is_search = is_search
        self._states: dict[tuple[tuple[int, ...], bool, bool], _State] = {}
        self._transitions = 0
        self.start = self._state([0], at_start=True)

    def _closure(self, roots: list[int], *, at_start: bool, at_end: bool) -> tuple[list[int], bool]:
        """Instructions that take a character, and whether the end of the program is reached."""
        code, seen, stack = self._code, set(), list(reversed(roots))
        takes, accepts = [], False
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            instruction = code[at]
            if isinstance(instruction, Take):
                takes.append(at)
            elif isinstance(instruction, Split):
                stack += (instruction.second, instruction.first)
            elif isinstance(instruction, Accept):
                accepts = True
            elif isinstance(instruction, Save) or (at_start if instruction.is_start else at_end):
                stack.append(at + 1)
        return takes, accepts

    def _state(self, roots: list[int], *, at_start: bool) -> _State:
        takes, accepts = self._closure(roots, at_start=at_start, at_end=False)
        _, accepts_at_end = self._closure(roots, at_start=at_start, at_end=True)
        key = (tuple(sorted(takes)), accepts, accepts_at_end)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State(*key)
        return state

    def step(self, state: _State, char: str, budget: Budget) -> _State:
        """What comes after ``char``, remembered for the next time."""
        budget.spend(1 + len(state.takes))
        roots = [at + 1 for at in state.takes if self._code[at].chars.has(char)]  # type: ignore[union-attr]
        if self._is_search:
            roots.append(0)
        budget.spend(len(roots))
        self._transitions += 1
        if self._transitions > MAX_TRANSITIONS:
            self._forget()
        following = self._state(roots, at_start=False)
        state.next[char] = following
        return following

    def _forget(self) -> None:
        for state in self._states.values():
            state.next = {}
        self._states = {}
        self._transitions = 0
        self.start = self._state([0], at_start=True)

    def reaches(self, value: str, budget: Budget) -> bool:
        """Whether any prefix is accepted."""
        budget.spend(len(value) // CHARS_PER_STEP)
        state = self.start
        if state.accepts:
            return True
        for char in value:
            state = state.next.get(char) or self.step(state, char, budget)
            if state.accepts:
                return True
        return state.accepts_at_end

    def longest(self, value: str, start: int, budget: Budget) -> int:
        """The last position at which what was read from ``start`` on is accepted, or -1."""
        budget.spend((len(value) - start) // CHARS_PER_STEP)
        state = self.start if start == 0 else self._state([0], at_start=False)
        found = start if state.accepts else -1
        for pos in range(start, len(value)):
            state = state.next.get(value[pos]) or self.step(state, value[pos], budget)
            if state.accepts:
                found = pos + 1
            elif not (state.takes or self._is_search) and pos + 1 < len(value):
                return found
        return len(value) if state.accepts_at_end else found


@dataclass(frozen=True, slots=True)
class Match:
    """Spans of the whole match and its groups; (-1, -1) for a group that took no part."""

    spans: tuple[tuple[int, int], ...]


class Regex:
    """A pattern, ready to search. May be shared by threads: what they add is the same. Raises BadPattern."""

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        self._program: Program = compile_pattern(pattern, ignore_case=ignore_case)
        self.cost = self._program.cost
        self._search = _Automaton(self._program.forward, is_search=True)
        self._backward: _Automaton | None = None
        self._forward: _Automaton | None = None

    def found(self, value: str, budget: Budget) -> bool:
        """Whether a part of the value matches."""
        return self._search.reaches(value, budget)

    def search(self, value: str, budget: Budget) -> Match | None:
        """The leftmost match, of those the longest."""
        if not self.found(value, budget):
            return None
        self._backward = self._backward or _Automaton(self._program.backward, is_search=True)
        self._forward = self._forward or _Automaton(self._program.forward, is_search=False)
        start = len(value) - self._backward.longest(value[::-1], 0, budget)
        stop = self._forward.longest(value, start, budget)
        if not self._program.groups:
            return Match(((start, stop),))
        return self._groups(value, start, stop, budget)

    def _groups(self, value: str, start: int, stop: int, budget: Budget) -> Match:
        code, width = self._program.forward, stop - start + 1
        if len(code) * width > MAX_GROUP_CELLS:
            raise OverBudget("the groups of a regular expression match too long a text")
        budget.hold(len(code) * width // 4)
        seen = bytearray(len(code) * width)
        slots = [-1] * (2 * self._program.groups + 2)
        # (instruction, position), or (-1 - slot, what it was before)
        stack = [(0, start)]
        while stack:
            at, pos = stack.pop()
            if at < 0:
                slots[-1 - at] = pos
                continue
            cell = at * width + pos - start
            if seen[cell]:
                continue
            seen[cell] = 1
            budget.spend(1)
            instruction = code[at]
            if isinstance(instruction, Take):
                if pos < stop and instruction.chars.has(value[pos]):
                    stack.append((at + 1, pos + 1))
            elif isinstance(instruction, Split):
                stack += ((instruction.second, pos), (instruction.first, pos))
            elif isinstance(instruction, Save):
                stack.append((-1 - instruction.slot, slots[instruction.slot]))
                slots[instruction.slot] = pos
                stack.append((at + 1, pos))
            elif isinstance(instruction, AtEdge):
                if pos == (0 if instruction.is_start else len(value)):
                    stack.append((at + 1, pos))
            elif pos == stop:
                break
        return Match(tuple(zip(slots[::2], slots[1::2], strict=True)))
