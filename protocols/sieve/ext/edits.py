"""editheader (RFC 5293)."""

from __future__ import annotations

import re
from email.header import Header
from typing import TYPE_CHECKING

from ..bound import Bound
from ..errors import RunFault
from ..fields import Field, decoded
from ..matching import COMPARATOR, MATCH_TYPES, Matching
from ..scopes import INDEX_TAGS
from ..spec import STRING, STRINGS, Command, Do, Extension, Row, Slot

if TYPE_CHECKING:
    from ..run import Run

_NAME = re.compile(r"[!-9;-~]{1,100}")
_BREAK = re.compile(r"(?:\r\n?|\n)[ \t]?")  # also where the script folds the value
MAX_VALUE_CHARS = 16_000
# RFC 5293 §6: loops are found by these.
PROTECTED = frozenset({"received", "auto-submitted", "delivered-to", "return-path"})


def render_field(name: str, value: str) -> bytes:
    """A field with a value on lines that are not too long, not in ASCII as encoded words (RFC 2047)."""
    text = _BREAK.sub(" ", value).strip()
    if text.isascii():
        return f"{name}: {text}\r\n".encode()
    coded = Header(text, "utf-8", header_name=name, maxlinelen=76).encode(linesep="\r\n")
    return f"{name}: {coded}\r\n".encode("ascii", "replace")


def _check_name(name: str) -> str:
    """Raises RunFault."""
    if not _NAME.fullmatch(name):
        raise RunFault(f"{name[:60]!r} is no name of a header field")
    return name


def _addheader(bound: Bound) -> Do:
    line, name, value = bound.line, bound.text("name"), bound.text("value")
    is_last = bound.has("last")
    if name.constant is not None:
        try:
            _check_name(name.constant)
        except RunFault as fault:
            raise bound.fail(str(fault)) from None

    def add(run: Run) -> None:
        field, text = _check_name(name.value(run)), value.value(run)
        if len(text) > MAX_VALUE_CHARS:
            raise RunFault(f"a header field of more than {MAX_VALUE_CHARS} characters")
        run.tell(line, f"addheader {field}")
        run.budget.spend(64)
        run.budget.hold(len(text))
        run.fields.add(render_field(field, text), is_last=is_last)

    return add


def _deleteheader(bound: Bound) -> Do:
    line, name = bound.line, bound.text("name")
    patterns = Matching(bound, bound.texts("values")) if bound.has("values") else None
    index, from_end = bound.tag_number("index"), bound.has("last")
    if index is not None and index < 1:
        raise bound.fail(":index counts from 1")
    if index is None and from_end:
        raise bound.fail(":last needs :index")

    def delete(run: Run) -> None:
        field = _check_name(name.value(run)).lower()
        if field in PROTECTED:
            run.notes.append(f"deleteheader {field}: this field stays")
            return
        run.tell(line, f"deleteheader {field}")
        found = list(run.fields.named(field))
        if index is not None:
            found = found[len(found) - index :][:1] if from_end else found[index - 1 :][:1]
            found = found if index <= len(run.fields.named(field)) else []
        gone = {id(each) for each in found if patterns is None or _fits(run, patterns, each)}
        if gone:
            run.fields.remove(lambda each: id(each) in gone)

    return delete


def _fits(run: Run, patterns: Matching, field: Field) -> bool:
    return patterns.holds(run, [decoded(field.raw_value)])


EXTENSIONS = (
    Extension(
        "editheader",
        commands=(
            Command("addheader", _addheader, (Slot("name", STRING), Slot("value", STRING)), (Row("last"),)),
            Command(
                "deleteheader",
                _deleteheader,
                (Slot("name", STRING), Slot("values", STRINGS, optional=True)),
                (COMPARATOR, *MATCH_TYPES, *INDEX_TAGS),
            ),
        ),
    ),
)
