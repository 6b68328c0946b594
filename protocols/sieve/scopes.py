"""Which header fields a test looks at: all, one by its index (RFC 5260 §6), those of parts (RFC 5703 §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from storage.mime.headers import parameter, parse_parameters, unfold
from storage.mime.text import decode_charset

from .fields import Field, Fields, Mailbox, decoded, mailboxes
from .parts import PartView
from .phrases import Phrases
from .spec import NUMBER, STRINGS, Row

if TYPE_CHECKING:
    from .bound import Bound
    from .run import Run

Scope: TypeAlias = "Callable[[Run], Iterable[Fields]]"
Choice: TypeAlias = Callable[[Sequence[Field]], Sequence[Field]]

INDEX_TAGS = (Row("index", NUMBER), Row("last"))
MIME_TAGS = (Row("mime"), Row("anychild"))
MIME_HEADER_TAGS = (
    *MIME_TAGS,
    Row("type", group="mimeopts"),
    Row("subtype", group="mimeopts"),
    Row("contenttype", group="mimeopts"),
    Row("param", STRINGS, group="mimeopts"),
)


def scope(bound: Bound) -> Scope:
    """The header blocks that a test looks at."""
    if not bound.has("mime"):
        if bound.has("anychild") or bound.has("mimeopts"):
            raise bound.fail(":anychild and what looks into MIME fields need :mime")
        return lambda run: (run.fields,)
    if bound.has("anychild"):
        return _with_children
    return lambda run: (_current(run).fields,)


def _current(run: Run) -> PartView:
    """The part at which the innermost loop stands, outside of loops the message."""
    return run.parts[-1] if run.parts else PartView(*run.content())


def _with_children(run: Run) -> Iterator[Fields]:
    current = _current(run)
    for view in chain((current,), current.descendants()):
        run.budget.spend(4)
        yield view.fields


def _choice(bound: Bound) -> Choice | None:
    index = bound.tag_number("index")
    if index is None:
        if bound.has("last"):
            raise bound.fail(":last needs :index")
        return None
    if index < 1:
        raise bound.fail(":index counts from 1")
    place = -index if bound.has("last") else index - 1

    def choose(fields: Sequence[Field]) -> Sequence[Field]:
        return [fields[place]] if index <= len(fields) else []

    return choose


def _plain_values(run: Run, names: Sequence[str]) -> Sequence[str]:
    values = run.fields.values
    return values(names[0]) if len(names) == 1 else [each for name in names for each in values(name)]


def header_values(bound: Bound) -> Callable[[Run, Sequence[str]], Iterable[str]]:
    """Of fields of the given names."""
    blocks, choose, reader = scope(bound), _choice(bound), _mime_reader(bound)
    if choose is None and reader is None and not bound.has("mime"):
        return _plain_values

    def values(run: Run, names: Sequence[str]) -> Iterator[str]:
        for fields in blocks(run):
            for name in names:
                if choose is None and reader is None:
                    yield from fields.values(name)
                    continue
                found = fields.named(name)
                for field in choose(found) if choose else found:
                    yield from reader(run, field) if reader else (decoded(field.raw_value),)

    return values


def field_choice(bound: Bound) -> Callable[[Run, str], Iterator[Field]]:
    """Fields of a name."""
    blocks, choose = scope(bound), _choice(bound)

    def fields_named(run: Run, name: str) -> Iterator[Field]:
        for fields in blocks(run):
            found = fields.named(name)
            yield from choose(found) if choose else found

    return fields_named


def address_values(
    bound: Bound, part: str, reader: Callable[[Mailbox], str | None]
) -> Callable[[Run, Sequence[str]], Iterable[str]]:
    """``part`` (which ``reader`` takes out) of the addresses in fields of the given names."""
    if not bound.has("mime") and not bound.has("index"):
        scope(bound)  # it checks the tags

        def plain(run: Run, names: Sequence[str]) -> Iterable[str]:
            return [each for name in names for each in run.fields.address_parts(name, part, reader)]

        return plain
    boxes = _address_boxes(bound)

    def values(run: Run, names: Sequence[str]) -> Iterable[str]:
        return (value for value in map(reader, boxes(run, names)) if value is not None)

    return values


def _address_boxes(bound: Bound) -> Callable[[Run, Sequence[str]], Iterator[Mailbox]]:
    blocks, choose = scope(bound), _choice(bound)

    def boxes(run: Run, names: Sequence[str]) -> Iterator[Mailbox]:
        for fields in blocks(run):
            for name in names:
                if choose is None:
                    yield from fields.addresses(name)
                else:
                    for field in choose(fields.named(name)):
                        yield from mailboxes(field.raw_value)

    return boxes


# --- what stands inside a MIME field ---


def _mime_reader(bound: Bound) -> Callable[[Run, Field], Iterable[str]] | None:
    what = bound.chosen("mimeopts")
    if what == "param":
        names = bound.tag_texts("mimeopts")
        assert names is not None
        wanted: Phrases = names
        return lambda run, field: _parameters(field, wanted.values(run))
    return (lambda _run, field: _HEADS[what](_head(field))) if what else None


def _head(field: Field) -> str:
    head, _ = parse_parameters(unfold(field.raw_value))
    return decode_charset(head.strip(), None)


_HEADS: dict[str, Callable[[str], list[str]]] = {
    "type": lambda head: [head.partition("/")[0].strip()],
    "subtype": lambda head: [head.partition("/")[2].strip()] if "/" in head else [],
    "contenttype": lambda head: [head],
}


def _parameters(field: Field, names: Sequence[str]) -> list[str]:
    _, pairs = parse_parameters(unfold(field.raw_value))
    found = (parameter(pairs, name.upper().encode("utf-8", "replace")) for name in names)
    return [decode_charset(value, None) for value in found if value is not None]
