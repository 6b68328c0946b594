"""The arguments of one command or test, sorted into the slots and tags of its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import BadScript
from .phrases import Phrase, Phrases
from .skipping import Needs
from .spec import Command, Do, Holds, Kind, Row, Slot, Test
from .tree import Argument, Number, Tag, Text, Texts

if TYPE_CHECKING:
    from .compiling import Compiler

Value = int | Phrase | Phrases | None


class Bound:
    """What ``build`` functions read. Asking for what was not given gives None or an empty value."""

    def __init__(self, compiler: Compiler, name: str, offset: int) -> None:
        self.compiler = compiler
        self.name = name
        self.offset = offset
        self.values: dict[str, Value] = {}
        self.tags: dict[str, tuple[Row, Value, int]] = {}
        self.tests: list[Holds] = []
        self.block: Do | None = None
        self.needs: Needs | None = None  # of the test; None: unknown

    @property
    def line(self) -> int:
        return self.compiler.source.position(self.offset)[0]

    def fail(self, text: str) -> BadScript:
        return BadScript(self.offset, text)

    def warn(self, text: str) -> None:
        self.compiler.warn(self.offset, text)

    def text(self, name: str) -> Phrase:
        value = self.values.get(name)
        assert isinstance(value, Phrase)
        return value

    def texts(self, name: str) -> Phrases:
        value = self.values.get(name)
        assert isinstance(value, Phrases)
        return value

    def number(self, name: str) -> int:
        value = self.values.get(name)
        assert isinstance(value, int)
        return value

    def has(self, key: str) -> bool:
        """Whether the slot was filled or the tag (or one of its group) given."""
        return key in self.values or key in self.tags

    def chosen(self, group: str, default: str = "") -> str:
        """The name of the tag given of a group."""
        found = self.tags.get(group)
        return found[0].name if found else default

    def tag_text(self, key: str) -> Phrase | None:
        value = self.tags[key][1] if key in self.tags else None
        assert value is None or isinstance(value, Phrase)
        return value

    def tag_texts(self, key: str) -> Phrases | None:
        value = self.tags[key][1] if key in self.tags else None
        assert value is None or isinstance(value, Phrases)
        return value

    def tag_number(self, key: str) -> int | None:
        value = self.tags[key][1] if key in self.tags else None
        assert value is None or isinstance(value, int)
        return value

    def tag_constant(self, key: str) -> str | None:
        """Raises BadScript for a value with variables."""
        value = self.tag_text(key)
        return None if value is None else self.constant(value, f":{key}")

    def constant(self, value: Phrase, what: str) -> str:
        if value.constant is None:
            raise self.fail(f"{what} may not contain variables")
        return value.constant


def bind(compiler: Compiler, row: Command | Test, offset: int, arguments: Sequence[Argument]) -> Bound:
    """Raises BadScript."""
    bound = Bound(compiler, row.name, offset)
    positional: list[Argument] = []
    queue = list(reversed(arguments))
    while queue:
        argument = queue.pop()
        if isinstance(argument, Tag):
            _bind_tag(bound, row, argument, queue)
        else:
            positional.append(argument)
    _bind_slots(bound, row.slots, positional)
    return bound


def _bind_tag(bound: Bound, owner: Command | Test, tag: Tag, queue: list[Argument]) -> None:
    row = bound.compiler.rows_of(owner).get(tag.name)
    if row is None:
        raise bound.compiler.unknown_tag(owner, tag)
    if row.key in bound.tags:
        other = bound.tags[row.key][0].name
        text = (
            f":{row.name} is given twice"
            if other == row.name
            else f":{row.name} and :{other} exclude each other"
        )
        raise BadScript(tag.offset, text)
    value: Value = None
    if row.kind is not None:
        if not queue:
            raise BadScript(tag.offset, f":{row.name} needs {row.kind.value}")
        value = _value(bound, row.kind, queue.pop(), f":{row.name}")
    bound.tags[row.key] = (row, value, tag.offset)


def _bind_slots(bound: Bound, slots: Sequence[Slot], arguments: Sequence[Argument]) -> None:
    required = sum(not slot.optional for slot in slots)
    if not required <= len(arguments) <= len(slots):
        wanted = f"{required}" if required == len(slots) else f"{required} to {len(slots)}"
        raise bound.fail(f'"{bound.name}" takes {wanted} arguments, not {len(arguments)}')
    spare, pending = len(arguments) - required, list(arguments)
    for slot in slots:
        if slot.optional:
            if not spare:
                continue
            spare -= 1
        bound.values[slot.name] = _value(bound, slot.kind, pending.pop(0), f'"{bound.name}"')


def _value(bound: Bound, kind: Kind, argument: Argument, what: str) -> Value:
    compiler = bound.compiler
    if kind is Kind.NUMBER and isinstance(argument, Number):
        return argument.value
    if kind is Kind.STRING and isinstance(argument, Text):
        return compiler.phrase(argument)
    if kind is Kind.STRINGS and isinstance(argument, Text):
        return Phrases((compiler.phrase(argument),))
    if kind is Kind.STRINGS and isinstance(argument, Texts):
        return Phrases([compiler.phrase(item) for item in argument.items])
    raise BadScript(argument.offset, f"{what} takes {kind.value} here, not {_KINDS[type(argument)]}")


_KINDS = {Tag: "a tag", Number: "a number", Text: "a string", Texts: "a string list"}
