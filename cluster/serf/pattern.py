"""Regular expressions in time linear in the text: those of tag filters come from other nodes.

Theory: Thompson's construction, run by keeping the set of states. No backtracking, so no expression is slow;
what it costs is bounded by states times characters, and both have limits.
Syntax: that of RE2 as far as it is of use for tags: literals, ``.``, ``[...]`` with ranges, negation and
``[:alpha:]``, ``\\d \\w \\s`` and their negations, ``\\t \\n \\xHH``, groups, ``|``, ``* + ? {n} {n,} {n,m}``
(lazy ones too, which match the same texts), ``^ $ \\A \\z``, and ``(?i)`` at the beginning.
Deviation: ``\\b``, ``\\p{...}``, other flags and named groups raise ValueError; a filter with them matches
nothing.

References: Russ Cox, Regular Expression Matching Can Be Simple And Fast (2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

MAX_PATTERN_CHARS: Final = 512
MAX_STATES: Final = 300
MAX_TEXT_CHARS: Final = 512  # all tags of a node have 512 bytes
_MAX_REPEATS: Final = 100
_MAX_DEPTH: Final = 50

Accepts = Callable[[str], bool]


def _is_word(c: str) -> bool:
    return c.isascii() and (c.isalnum() or c == "_")


_CLASSES: Final[dict[str, Accepts]] = {
    "d": lambda c: c.isascii() and c.isdigit(),
    "w": _is_word,
    "s": lambda c: c in "\t\n\f\r ",
}
_POSIX: Final[dict[str, Accepts]] = {
    "alnum": lambda c: c.isascii() and c.isalnum(),
    "alpha": lambda c: c.isascii() and c.isalpha(),
    "digit": _CLASSES["d"],
    "lower": lambda c: "a" <= c <= "z",
    "punct": lambda c: "!" <= c <= "~" and not c.isalnum(),
    "space": lambda c: c in "\t\n\v\f\r ",
    "upper": lambda c: "A" <= c <= "Z",
    "word": _is_word,
    "xdigit": lambda c: c in "0123456789abcdefABCDEF",
}
_ESCAPES: Final = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}


@dataclass(slots=True)
class _State:
    """One of: a character (``accepts``), an assertion (``is_start``, ``is_end``), or a fork; then ``out``."""

    accepts: Accepts | None = None
    is_start: bool = False
    is_end: bool = False
    out: list[int] = field(default_factory=list)


class Pattern:
    """Raises ValueError for what is not understood or too large."""

    def __init__(self, expression: str) -> None:
        parser = _Parser(expression)
        self._start, self._final = parser.parse()
        self._states = parser.states

    def search(self, text: str) -> bool:
        """Whether it matches anywhere in the first 512 characters."""
        return self._run(text[:MAX_TEXT_CHARS], is_whole=False)

    def fullmatch(self, text: str) -> bool:
        """Whether it matches the whole text; False for a longer one."""
        return len(text) <= MAX_TEXT_CHARS and self._run(text, is_whole=True)

    def _run(self, text: str, *, is_whole: bool) -> bool:
        current: set[int] = set()
        for at in range(len(text) + 1):
            if at == 0 or not is_whole:
                self._follow([self._start], current, is_start=at == 0, is_end=at == len(text))
            if self._final in current and (not is_whole or at == len(text)):
                return True
            if at < len(text):
                current = self._after(text[at], current, is_end=at + 1 == len(text))
        return False

    def _after(self, c: str, current: set[int], *, is_end: bool) -> set[int]:
        found: set[int] = set()
        for number in current:
            state = self._states[number]
            if state.accepts is not None and state.accepts(c):
                self._follow(state.out, found, is_start=False, is_end=is_end)
        return found

    def _follow(self, numbers: list[int], into: set[int], *, is_start: bool, is_end: bool) -> None:
        """All that is reached from ``numbers`` without a character."""
        stack = list(numbers)
        while stack:
            number = stack.pop()
            if number in into:
                continue
            state = self._states[number]
            if (state.is_start and not is_start) or (state.is_end and not is_end):
                continue
            into.add(number)
            if state.accepts is None:
                stack += state.out


_Part = tuple[int, int]  # its first state, and its last, whose ``out`` is still to be set


class _Parser:
    def __init__(self, expression: str) -> None:
        if len(expression) > MAX_PATTERN_CHARS:
            raise ValueError(f"longer than {MAX_PATTERN_CHARS} characters")
        self._ignores_case = expression.startswith("(?i)")
        self._text = expression[4:] if self._ignores_case else expression
        self._at = 0
        self._depth = 0
        self.states: list[_State] = []

    def parse(self) -> _Part:
        part = self._alternatives()
        if self._at < len(self._text):
            raise ValueError("unbalanced )")
        return self._join(part, self._empty())

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise ValueError("ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    # --- states ---

    def _new(self, state: _State) -> int:
        if len(self.states) >= MAX_STATES:
            raise ValueError(f"more than {MAX_STATES} states")
        self.states.append(state)
        return len(self.states) - 1

    def _one(self, state: _State) -> _Part:
        number = self._new(state)
        return number, number

    def _empty(self) -> _Part:
        return self._one(_State())

    def _join(self, first: _Part, second: _Part) -> _Part:
        self.states[first[1]].out.append(second[0])
        return first[0], second[1]

    # --- grammar ---

    def _alternatives(self) -> _Part:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} groups inside each other")
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        self._depth -= 1
        if len(branches) == 1:
            return branches[0]
        end = self._new(_State())
        for _, last in branches:
            self.states[last].out.append(end)
        return self._new(_State(out=[first for first, _ in branches])), end

    def _sequence(self) -> _Part:
        part = self._empty()
        while self._peek() not in ("", "|", ")"):
            part = self._join(part, self._repeated())
        return part

    def _repeated(self) -> _Part:
        begin = self._at
        part = self._atom()
        end = self._at
        while (times := self._quantifier()) is not None:
            after = self._at
            part = self._times(part, begin, end, *times)
            self._at = end = after
        return part

    def _quantifier(self) -> tuple[int, int | None] | None:
        """How often, at least and at most (None: no limit)."""
        times: tuple[int, int | None] | None = None
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                times = bounds
                break
        if times is None and self._peek() == "{":
            times = self._counted()
        if times is not None:
            self._take("?")  # lazy: the same texts match
        return times

    def _counted(self) -> tuple[int, int | None] | None:
        """``{n}``, ``{n,}``, ``{n,m}``; anything else after a brace is text."""
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not low.isdecimal() or (high and not high.isdecimal()):
            return None
        most = int(high) if high else (None if comma else int(low))
        if max(int(low), most or 0) > _MAX_REPEATS or (most is not None and most < int(low)):
            raise ValueError("repeated too often")
        self._at = end + 1
        return int(low), most

    def _times(self, part: _Part, begin: int, end: int, least: int, most: int | None) -> _Part:
        """``part``, which stands at ``begin`` to ``end`` of the text and is read again for each copy."""
        if least == 0 and most == 0:
            return self._empty()
        whole = self._empty()
        copies = max(least, 1) if most is None else most
        for n in range(copies):
            one = part if n == 0 else self._copy(begin, end)
            if most is None and n == copies - 1:
                one = self._looped(one, is_optional=least == 0)
            elif n >= least:
                one = self._optional(one)
            whole = self._join(whole, one)
        return whole

    def _copy(self, begin: int, end: int) -> _Part:
        inner = _Parser("")
        inner._text, inner._at, inner._depth = self._text[:end], begin, self._depth
        inner._ignores_case, inner.states = self._ignores_case, self.states
        return inner._repeated()

    def _optional(self, part: _Part) -> _Part:
        end = self._new(_State())
        self.states[part[1]].out.append(end)
        return self._new(_State(out=[part[0], end])), end

    def _looped(self, part: _Part, *, is_optional: bool) -> _Part:
        end = self._new(_State())
        self.states[part[1]].out += [part[0], end]
        return (self._new(_State(out=[part[0], end])) if is_optional else part[0]), end

    def _atom(self) -> _Part:
        c = self._next()
        if c == "(":
            return self._group()
        if c in "*+?":
            raise ValueError(f"nothing to repeat before {c}")
        if c in ("^", "$"):
            return self._one(_State(is_start=c == "^", is_end=c == "$"))
        if c == "\\" and self._peek() in ("A", "z"):
            is_start = self._next() == "A"
            return self._one(_State(is_start=is_start, is_end=not is_start))
        return self._one(_State(accepts=self._cased(self._character(c))))

    def _group(self) -> _Part:
        if self._peek() == "?" and not self._take("?:"):
            raise ValueError("flags and names of groups are not supported")
        part = self._alternatives()
        if self._next() != ")":
            raise ValueError("missing )")
        return part

    def _character(self, c: str) -> Accepts:
        if c == ".":
            return lambda given: given != "\n"
        if c == "[":
            return self._class()
        return self._escape() if c == "\\" else _only(c)

    def _cased(self, accepts: Accepts) -> Accepts:
        if not self._ignores_case:
            return accepts
        return lambda c: accepts(c) or accepts(c.lower()) or accepts(c.upper())

    def _escape(self) -> Accepts:
        c = self._next()
        accepts = _CLASSES.get(c.lower())
        if accepts is not None:
            return accepts if c.islower() else _no(accepts)
        return _only(self._escaped(c))

    def _escaped(self, c: str) -> str:
        if c == "x":
            return self._hexadecimal()
        if c in _ESCAPES:
            return _ESCAPES[c]
        if c.isascii() and c.isalnum():
            raise ValueError(f"\\{c} is not supported")
        return c

    def _hexadecimal(self) -> str:
        digits = self._next()
        if digits == "{":
            end = self._text.find("}", self._at)
            digits = self._text[self._at : max(end, self._at)]
            self._at += len(digits) + 1
        else:
            digits += self._next()
        value = int(digits, 16)
        if value > 0x10FFFF:
            raise ValueError("no such character")
        return chr(value)

    def _class(self) -> Accepts:
        is_negated = self._take("^")
        parts: list[Accepts] = []
        while not parts or self._peek() != "]":
            parts.append(self._class_part())
        self._at += 1
        return _no(_any(parts)) if is_negated else _any(parts)

    def _class_part(self) -> Accepts:
        c = self._next()
        if c == "[" and self._peek() == ":":
            return self._posix()
        if c == "\\":
            if self._peek().lower() in _CLASSES:
                return self._escape()
            c = self._escaped(self._next())
        if self._peek() != "-" or self._text.startswith("-]", self._at):
            return _only(c)
        self._at += 1
        last = self._next()
        if last == "\\":
            last = self._escaped(self._next())
        if last < c:
            raise ValueError(f"range {c}-{last}")
        return lambda given: c <= given <= last

    def _posix(self) -> Accepts:
        end = self._text.find(":]", self._at)
        name = self._text[self._at + 1 : end].removeprefix("^") if end > 0 else ""
        if name not in _POSIX:
            raise ValueError("unknown class of characters")
        is_negated = self._text[self._at + 1] == "^"
        self._at = end + 2
        return _no(_POSIX[name]) if is_negated else _POSIX[name]


def _only(c: str) -> Accepts:
    return c.__eq__


def _no(accepts: Accepts) -> Accepts:
    return lambda c: not accepts(c)


def _any(parts: list[Accepts]) -> Accepts:
    return lambda c: any(accepts(c) for accepts in parts)


@lru_cache(maxsize=256)
def compiled(expression: str) -> Pattern:
    """Raises ValueError."""
    return Pattern(expression)
