"""The grammar of RFC 5228 §8.2: from tokens to commands. Knows no command by name; depth is bounded."""

from __future__ import annotations

from collections.abc import Iterator

from .errors import BadScript
from .tokens import Token, number, tokens
from .tree import Argument, Command, Number, Tag, Test, Text, Texts

# Blocks in blocks and tests in tests. RFC 5228 §2.10.5 asks for 15.
MAX_NESTING = 32
# A list longer than this is a mistake or an attack.
MAX_LIST = 10_000


def parse(text: str) -> Iterator[Command]:
    """The commands of the script, each as soon as it is read. Raises BadScript at the first place that is no
    Sieve."""
    return _Parser(text).script()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._next = next(self._tokens)

    def _take(self) -> Token:
        token, self._next = self._next, next(self._tokens, self._next)
        return token

    def _expect(self, kind: str, after: str) -> Token:
        if self._next.kind != kind:
            raise BadScript(
                self._next.offset, f'"{kind}" is missing after {after}, here is {_shown(self._next)}'
            )
        return self._take()

    def script(self) -> Iterator[Command]:
        while self._next.kind == "word":
            yield self._command(0)
        if self._next.kind != "end":
            raise BadScript(self._next.offset, f"a command is expected, not {_shown(self._next)}")

    def _commands(self, depth: int) -> list[Command]:
        found = []
        while self._next.kind == "word":
            found.append(self._command(depth))
        return found

    def _command(self, depth: int) -> Command:
        name = self._take()
        arguments = self._arguments()
        tests, has_list = self._tests(depth)
        if self._next.kind == "{":
            return Command(name.value, name.offset, arguments, tests, has_list, self._block(depth))
        self._expect(";", f'"{name.value}"')
        return Command(name.value, name.offset, arguments, tests, has_list, None)

    def _block(self, depth: int) -> list[Command]:
        opened = self._take()
        _check_depth(depth, opened.offset)
        commands = self._commands(depth + 1)
        if self._next.kind == "end":
            raise BadScript(opened.offset, "the block is not closed")
        if self._next.kind != "}":
            raise BadScript(self._next.offset, f'a command or "}}" is expected, not {_shown(self._next)}')
        self._take()
        return commands

    def _arguments(self) -> list[Argument]:
        found: list[Argument] = []
        while True:
            kind = self._next.kind
            if kind == "string":
                token = self._take()
                found.append(Text(token.value, token.offset))
            elif kind == "tag":
                token = self._take()
                found.append(Tag(token.value, token.offset))
            elif kind == "number":
                token = self._take()
                found.append(Number(number(token), token.offset))
            elif kind == "[":
                found.append(self._list())
            else:
                return found

    def _list(self) -> Texts:
        opened = self._take()
        items: list[Text] = []
        while True:
            if self._next.kind != "string":
                raise BadScript(
                    self._next.offset, f"a string is expected in the list, not {_shown(self._next)}"
                )
            token = self._take()
            items.append(Text(token.value, token.offset))
            if self._next.kind != ",":
                break
            if len(items) >= MAX_LIST:
                raise BadScript(opened.offset, f"a list has at most {MAX_LIST} strings")
            self._take()
        self._expect("]", "the list")
        return Texts(items, opened.offset)

    def _tests(self, depth: int) -> tuple[list[Test], bool]:
        if self._next.kind == "word":
            return [self._test(depth + 1)], False
        if self._next.kind != "(":
            return [], False
        opened = self._take()
        _check_depth(depth, opened.offset)
        found = [self._inner_test(depth + 1)]
        while self._next.kind == ",":
            self._take()
            found.append(self._inner_test(depth + 1))
        self._expect(")", "the tests")
        return found, True

    def _inner_test(self, depth: int) -> Test:
        if self._next.kind != "word":
            raise BadScript(self._next.offset, f"a test is expected, not {_shown(self._next)}")
        return self._test(depth)

    def _test(self, depth: int) -> Test:
        name = self._take()
        _check_depth(depth, name.offset)
        arguments = self._arguments()
        tests, has_list = self._tests(depth)
        return Test(name.value, name.offset, arguments, tests, has_list)


def _check_depth(depth: int, offset: int) -> None:
    if depth > MAX_NESTING:
        raise BadScript(offset, f"nested deeper than {MAX_NESTING} levels")


def _shown(token: Token) -> str:
    if token.kind == "end":
        return "the end of the script"
    if token.kind == "string":
        return "a string"
    return f'"{":" if token.kind == "tag" else ""}{token.value}"'
