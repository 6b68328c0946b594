"""POSIX extended regular expressions (IEEE 1003.1 §9.4, as draft-ietf-sieve-regex wants them): from the
pattern to a program for ``regexmachine``.

Taken: ``. [] ^ $ * + ? {m,n} | ()``, bracket expressions with ranges and classes, backslash before any
character that is special. Refused, as they cannot be matched in linear time: back-references.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

# RE_DUP_MAX of POSIX.
MAX_REPEATS = 255
# {255} in {255} would be 65,025 copies.
MAX_PROGRAM = 5_000
# Nodes that repetitions visit when they are written out, also such that leave no instruction: ``a{0}{255}``.
MAX_VISITS = 50_000
MAX_GROUPS = 99
MAX_DEPTH = 50


class BadPattern(ValueError):
    """The message is for the author of the script."""


@dataclass(frozen=True, slots=True)
class CharSet:
    """``ranges`` are pairs of characters, both included."""

    ranges: tuple[tuple[str, str], ...]
    is_negated: bool = False

    def has(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) is not self.is_negated


ANY = CharSet((), is_negated=True)


# --- the program ---


@dataclass(frozen=True, slots=True)
class Take:
    """One character of the set, then the next instruction."""

    chars: CharSet


@dataclass(frozen=True, slots=True)
class Split:
    """On at ``first``, or if that leads nowhere at ``second``."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Save:
    """The position is the beginning (even) or end (odd) of a group."""

    slot: int


@dataclass(frozen=True, slots=True)
class AtEdge:
    """On only at the beginning of the value (else: at its end)."""

    is_start: bool


@dataclass(frozen=True, slots=True)
class Accept:
    pass


Instruction: TypeAlias = Take | Split | Save | AtEdge | Accept

# --- the tree ---


@dataclass(frozen=True, slots=True)
class _Chars:
    chars: CharSet


@dataclass(frozen=True, slots=True)
class _Edge:
    is_start: bool


@dataclass(frozen=True, slots=True)
class _Sequence:
    items: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    branches: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    number: int
    inner: _Node


@dataclass(frozen=True, slots=True)
class _Repeat:
    inner: _Node
    low: int
    high: int | None


_Node: TypeAlias = _Chars | _Edge | _Sequence | _Choice | _Group | _Repeat

_CLASSES: dict[str, tuple[tuple[str, str], ...]] = {
    "alpha": (("A", "Z"), ("a", "z")),
    "digit": (("0", "9"),),
    "alnum": (("0", "9"), ("A", "Z"), ("a", "z")),
    "upper": (("A", "Z"),),
    "lower": (("a", "z"),),
    "space": (("\t", "\r"), (" ", " ")),
    "blank": (("\t", "\t"), (" ", " ")),
    "punct": (("!", "/"), (":", "@"), ("[", "`"), ("{", "~")),
    "print": ((" ", "~"),),
    "graph": (("!", "~"),),
    "cntrl": (("\0", "\x1f"), ("\x7f", "\x7f")),
    "xdigit": (("0", "9"), ("A", "F"), ("a", "f")),
}
_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class Program:
    forward: tuple[Instruction, ...]
    backward: tuple[Instruction, ...]  # matches the reversed value; without groups
    groups: int
    cost: int  # nodes that were visited to make it, one for each instruction and more


def compile_pattern(pattern: str, *, ignore_case: bool) -> Program:
    """Raises BadPattern."""
    parser = _Parser(pattern, ignore_case)
    tree = parser.parse()
    forward, backward = _Assembler(is_reversed=False), _Assembler(is_reversed=True)
    forward.add(_Group(0, tree))
    backward.add(tree)
    cost = forward.visits + backward.visits
    return Program(forward.finished(), backward.finished(), parser.groups, cost)


class _Parser:
    def __init__(self, pattern: str, ignore_case: bool) -> None:
        self._pattern = pattern
        self._pos = 0
        self._ignore_case = ignore_case
        self.groups = 0

    def _peek(self) -> str:
        return self._pattern[self._pos : self._pos + 1]

    def parse(self) -> _Node:
        tree = self._choice(0)
        if self._peek():
            raise BadPattern('")" without "("')
        return tree

    def _choice(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise BadPattern(f"groups nested deeper than {MAX_DEPTH}")
        branches = [self._sequence(depth)]
        while self._peek() == "|":
            self._pos += 1
            branches.append(self._sequence(depth))
        return branches[0] if len(branches) == 1 else _Choice(tuple(branches))

    def _sequence(self, depth: int) -> _Node:
        items: list[_Node] = []
        while (char := self._peek()) and char not in "|)":
            items.append(self._repeated(self._atom(depth)))
        return items[0] if len(items) == 1 else _Sequence(tuple(items))

    def _atom(self, depth: int) -> _Node:
        char = self._peek()
        self._pos += 1
        if char == "(":
            return self._group(depth)
        if char == "[":
            return _Chars(self._bracket())
        if char == ".":
            return _Chars(ANY)
        if char in "^$":
            return _Edge(char == "^")
        if char == "\\":
            return self._escaped()
        if char in "*+?" or (char == "{" and self._bounds_follow()):
            raise BadPattern(f'nothing stands before "{char}" that could be repeated')
        return _Chars(self._single(char))

    def _group(self, depth: int) -> _Node:
        self.groups += 1
        number = self.groups
        if number > MAX_GROUPS:
            raise BadPattern(f"more than {MAX_GROUPS} groups")
        inner = self._choice(depth + 1)
        if self._peek() != ")":
            raise BadPattern('"(" without ")"')
        self._pos += 1
        return _Group(number, inner)

    def _escaped(self) -> _Node:
        char = self._peek()
        if not char:
            raise BadPattern("a backslash at the end")
        if char.isdigit():
            raise BadPattern("back-references are not supported")
        self._pos += 1
        return _Chars(self._single(char))

    def _single(self, char: str) -> CharSet:
        return CharSet(tuple((each, each) for each in self._cases(char)))

    def _cases(self, char: str) -> list[str]:
        if not self._ignore_case:
            return [char]
        return sorted({each for each in (char, char.lower(), char.upper()) if len(each) == 1})

    def _bounds_follow(self) -> bool:
        return self._peek().isdigit() or self._peek() == ","

    def _repeated(self, node: _Node) -> _Node:
        levels = 0
        while char := self._peek():
            if char in _REPEATS:
                self._pos += 1
                low, high = _REPEATS[char]
            elif char == "{":
                self._pos += 1
                low, high = self._bounds()
            else:
                break
            if isinstance(node, _Repeat) and (low, high, node.low, node.high) == (0, None, 0, None):
                continue  # a** is a*
            node = _Repeat(node, low, high)
            levels += 1
            if levels > MAX_DEPTH:
                raise BadPattern(f"more than {MAX_DEPTH} repetitions of one another")
        return node

    def _bounds(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self._pos)
        low_text, comma, high_text = self._pattern[self._pos : max(end, self._pos)].partition(",")
        if (
            end < 0
            or not _is_count(low_text or "0")
            or not _is_count(high_text or "0")
            or not (low_text or comma)
        ):
            raise BadPattern('after "{" come one or two numbers and "}"')
        self._pos = end + 1
        low = int(low_text or "0")
        high = low if not comma else int(high_text) if high_text else None
        if max(low, high or 0) > MAX_REPEATS:
            raise BadPattern(f"more than {MAX_REPEATS} repetitions")
        if high is not None and high < low:
            raise BadPattern("the numbers of a repetition are in the wrong order")
        return low, high

    # --- bracket expressions ---

    def _bracket(self) -> CharSet:
        is_negated = self._peek() == "^"
        self._pos += is_negated
        ranges: list[tuple[str, str]] = []
        is_first = True
        while is_first or self._peek() != "]":
            ranges += self._bracket_item()
            is_first = False
        self._pos += 1
        if self._ignore_case:
            ranges = _both_cases(ranges)
        return CharSet(tuple(ranges), is_negated)

    def _bracket_item(self) -> list[tuple[str, str]]:
        if self._pattern.startswith("[:", self._pos):
            return self._class()
        low = self._bracket_char()
        if self._peek() != "-" or self._pattern[self._pos + 1 : self._pos + 2] == "]":
            return [(low, low)]
        self._pos += 1
        high = self._bracket_char()
        if high < low:
            raise BadPattern(f"the range {low}-{high} is empty")
        return [(low, high)]

    def _bracket_char(self) -> str:
        for opening, closing in (("[.", ".]"), ("[=", "=]")):
            if self._pattern.startswith(opening, self._pos):
                end = self._pattern.find(closing, self._pos + 2)
                if end != self._pos + 3:
                    raise BadPattern("only single characters can be collated")
                self._pos = end + 2
                return self._pattern[end - 1]
        char = self._peek()
        if not char:
            raise BadPattern('"[" without "]"')
        self._pos += 1
        return char

    def _class(self) -> list[tuple[str, str]]:
        end = self._pattern.find(":]", self._pos)
        name = self._pattern[self._pos + 2 : max(end, 0)]
        if name not in _CLASSES:
            raise BadPattern(f'there is no character class "{name[:20]}"')
        self._pos = end + 2
        return list(_CLASSES[name])


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4


def _both_cases(ranges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    more = list(ranges)
    for low, high in ranges:
        for first, last, change in (("a", "z", str.upper), ("A", "Z", str.lower)):
            start, stop = max(low, first), min(high, last)
            if start <= stop:
                more.append((change(start), change(stop)))
        if low == high and low > "\x7f":
            more += [(each, each) for each in (low.lower(), low.upper()) if len(each) == 1]
    return more


@dataclass(slots=True)
class _Assembler:
    is_reversed: bool
    code: list[Instruction] = field(default_factory=list)
    visits: int = 0

    def finished(self) -> tuple[Instruction, ...]:
        self._emit(Accept())
        return tuple(self.code)

    def _emit(self, instruction: Instruction) -> int:
        if len(self.code) >= MAX_PROGRAM:
            raise BadPattern("the pattern is too large once its repetitions are written out")
        self.code.append(instruction)
        return len(self.code) - 1

    def add(self, node: _Node) -> None:
        self.visits += 1
        if self.visits > MAX_VISITS:
            raise BadPattern("the pattern is too large once its repetitions are written out")
        if isinstance(node, _Chars):
            self._emit(Take(node.chars))
        elif isinstance(node, _Edge):
            self._emit(AtEdge(node.is_start is not self.is_reversed))
        elif isinstance(node, _Sequence):
            for item in reversed(node.items) if self.is_reversed else node.items:
                self.add(item)
        elif isinstance(node, _Group):
            self._group(node)
        elif isinstance(node, _Choice):
            self._choice(node)
        else:
            self._repeat(node)

    def _group(self, node: _Group) -> None:
        if self.is_reversed:
            self.add(node.inner)
            return
        self._emit(Save(2 * node.number))
        self.add(node.inner)
        self._emit(Save(2 * node.number + 1))

    def _choice(self, node: _Choice) -> None:
        jumps = []
        for branch in node.branches[:-1]:
            split = self._emit(Split(0, 0))
            self.add(branch)
            jumps.append(self._emit(Split(0, 0)))
            self.code[split] = Split(split + 1, len(self.code))
        self.add(node.branches[-1])
        for jump in jumps:
            self.code[jump] = Split(len(self.code), len(self.code))

    def _repeat(self, node: _Repeat) -> None:
        for _ in range(node.low):
            self.add(node.inner)
        if node.high is None:
            split = self._emit(Split(0, 0))
            self.add(node.inner)
            self._emit(Split(split, split))
            self.code[split] = Split(split + 1, len(self.code))
            return
        splits = []
        for _ in range(node.high - node.low):
            splits.append(self._emit(Split(0, 0)))
            self.add(node.inner)
        for split in splits:
            self.code[split] = Split(split + 1, len(self.code))
