"""body (RFC 5173)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from storage.mime.structure import Part
from storage.mime.text import decode_charset, decode_transfer, part_text, strip_tags

from ..bound import Bound
from ..matching import MATCH_TAGS, Matching
from ..parts import Data, walk
from ..spec import STRINGS, Extension, Holds, Row, Slot, Test

if TYPE_CHECKING:
    from ..run import Run

# What one test reads of a message.
MAX_TEXT_CHARS = 4_000_000


def _body(bound: Bound) -> Holds:
    matching = Matching(bound, bound.texts("keys"))
    transform, types = bound.chosen("transform", "text"), bound.tag_texts("transform")

    def holds(run: Run) -> bool:
        data, root = run.content()
        if transform == "raw":
            values = iter([_raw(data, root)])
        else:
            wanted = ["text"] if types is None else [each.lower() for each in types.values(run)]
            values = _contents(run, data, root, wanted, plain_only=types is None)
        return matching.holds(run, values)

    return holds


def _raw(data: Data, root: Part) -> str:
    """The whole body, transfer encodings as they are."""
    return decode_charset(data[root.body_start : root.body_start + MAX_TEXT_CHARS], "utf-8")


def _contents(run: Run, data: Data, root: Part, wanted: list[str], *, plain_only: bool) -> Iterator[str]:
    """Decoded parts whose type is wanted. ``plain_only``: HTML loses its tags (RFC 5173 §5.3)."""
    left = MAX_TEXT_CHARS
    for part in walk(root):
        run.budget.spend(2)
        if left <= 0 or not _is_wanted(part, wanted):
            continue
        for text in _around(data, part, left) if part.is_multipart else (_text(data, part, left),):
            run.budget.spend(len(text) // 256)
            left -= len(text)
            yield strip_tags(text) if plain_only and part.subtype == b"HTML" else text


def _around(data: Data, part: Part, limit: int) -> Iterator[str]:
    """Prologue and epilogue (RFC 5173 §5.2): what stands before the first delimiter line and behind the
    last."""
    before = data[part.body_start : part.children[0].header_start]
    after = data[part.children[-1].body_end : part.body_end]
    yield decode_charset(before[: before.rfind(b"\n--") + 1][:limit], None)
    end = after.find(b"\n", after.find(b"--") + 1)
    yield decode_charset(after[end + 1 :][:limit] if end >= 0 else b"", None)


def _text(data: Data, part: Part, limit: int) -> str:
    if part.is_message:  # the header of the message inside
        inner = part.children[0]
        return decode_charset(data[inner.header_start : inner.body_start][:limit], None)
    if part.is_text:
        return part_text(part, data, limit)
    return decode_charset(decode_transfer(data[part.body_start : part.body_end][:limit], part.encoding), None)


def _is_wanted(part: Part, wanted: list[str]) -> bool:
    media, subtype = (
        part.type.decode("ascii", "replace").lower(),
        part.subtype.decode("ascii", "replace").lower(),
    )
    for each in wanted:
        if not each:
            return True
        if each.count("/") > 1 or each.startswith("/") or each.endswith("/"):
            continue
        if each in (media, f"{media}/{subtype}"):
            return True
    return False


EXTENSIONS = (
    Extension(
        "body",
        tests=(
            Test(
                "body",
                _body,
                (Slot("keys", STRINGS),),
                (
                    *MATCH_TAGS,
                    Row("raw", group="transform"),
                    Row("text", group="transform"),
                    Row("content", STRINGS, group="transform"),
                ),
            ),
        ),
    ),
)
