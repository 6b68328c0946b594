"""Which bytes a section of FETCH BODY[...] means.

References: RFC 9051 §6.4.5.1 (sections and part numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from .structure import Part

SectionText: TypeAlias = Literal["HEADER", "TEXT", "MIME", "HEADER.FIELDS", "HEADER.FIELDS.NOT"]


@dataclass(frozen=True, slots=True)
class Section:
    """``BODY[1.2.HEADER.FIELDS (To)]`` is ``Section((1, 2), "HEADER.FIELDS", (b"to",))``."""

    part: tuple[int, ...] = ()  # numbers from 1
    text: SectionText | None = None
    fields: tuple[bytes, ...] = ()  # lower case


class Span(NamedTuple):
    """start..stop in content coordinates."""

    start: int
    stop: int


def locate(root: Part, section: Section) -> Span | None:
    """The bytes of a section; None when the message has no such section.

    Offsets count from the start of the *content*. A message as stored is a prefix (trace fields) and the
    content: the caller puts the prefix before ``BODY[]`` and before the top-level ``BODY[HEADER]`` (also when
    fields are selected from it), and before nothing else. HEADER.FIELDS and HEADER.FIELDS.NOT are located as
    HEADER; the caller cuts them with ``headers.cut_fields``.
    """
    node = find_part(root, section.part)
    if node is None:
        return None
    if section.text is None:
        return Span(node.body_start, node.body_end) if section.part else Span(0, root.body_end)
    if section.text == "MIME":
        return Span(node.header_start, node.body_start) if section.part else None
    if section.part:  # HEADER and TEXT of a part are those of the message it embeds
        if not node.is_message:
            return None
        node = node.children[0]
    if section.text == "TEXT":
        return Span(node.body_start, node.body_end)
    return Span(node.header_start, node.body_start)


def find_part(root: Part, path: tuple[int, ...]) -> Part | None:
    """The part of that number: a message that is no multipart has itself as part 1."""
    node, message = root, True  # message: node stands for a whole message, not for a numbered part
    for number in path:
        if node.is_message and not message:
            node, message = node.children[0], True
        if node.is_multipart:
            if not 1 <= number <= len(node.children):
                return None
            node = node.children[number - 1]
        elif number != 1 or not message:
            return None
        message = False
    return node
