"""Helpers to write expected trees, and the invariants every tree keeps."""

from __future__ import annotations

from storage.mime.structure import MAX_DEPTH, MAX_PARTS, Part
from tests.support.messages import Built


def shape(part: Part) -> object:
    """``"type/subtype"`` of a leaf, ``("type/subtype", child, ...)`` of others."""
    name = f"{part.type.decode()}/{part.subtype.decode()}".lower()
    return (name, *map(shape, part.children)) if part.children else name


def bodies(part: Part, data: bytes) -> list[bytes]:
    """Bodies of all leaves in order."""
    if not part.children:
        return [data[part.body_start : part.body_end]]
    return [body for child in part.children for body in bodies(child, data)]


def every(root: Part) -> list[Part]:
    return [root, *(part for child in root.children for part in every(child))]


def depth(root: Part) -> int:
    return 1 + max(map(depth, root.children), default=0)


def multipart(boundary: bytes, *children: bytes, subtype: bytes = b"mixed") -> bytes:
    """A part with the given parts (header and body each) in it, well formed."""
    mark = b"--" + boundary
    inside = b"".join(mark + b"\r\n" + child + b"\r\n" for child in children)
    head = b'Content-Type: multipart/%s; boundary="%s"\r\n\r\n' % (subtype, boundary)
    return head + inside + mark + b"--\r\n"


def assert_as_built(part: Part, built: Built, data: bytes) -> None:
    assert f"{part.type.decode()}/{part.subtype.decode()}".lower() == built.type
    assert data[part.header_start : part.body_start] == built.header
    assert data[part.body_start : part.body_end] == built.body
    assert len(part.children) == len(built.children)
    for child, expected in zip(part.children, built.children, strict=True):
        assert_as_built(child, expected, data)


def assert_invariants(root: Part, data: bytes) -> None:
    """What ``structure`` promises of any tree."""
    parts = every(root)
    assert root.header_start == 0
    assert root.body_end == len(data)
    assert len(parts) <= 2 * MAX_PARTS  # multiparts without parts get one each
    assert depth(root) <= MAX_DEPTH
    for part in parts:
        assert_part(part, data)


def assert_part(part: Part, data: bytes) -> None:
    assert 0 <= part.header_start <= part.body_start <= part.body_end <= len(data)
    at = part.body_start
    for child in part.children:  # in order, disjoint, inside
        assert at <= child.header_start
        assert child.body_end <= part.body_end
        at = child.body_end
    assert bool(part.children) == (part.is_multipart or part.is_message)
    assert part.is_message == (part.type == b"MESSAGE" and part.subtype in (b"RFC822", b"GLOBAL"))
    if part.is_message:
        assert len(part.children) == 1
        assert (part.children[0].header_start, part.children[0].body_end) == (part.body_start, part.body_end)
    body = data[part.body_start : part.body_end]
    assert part.lines == (body.count(b"\n") if part.is_text or part.is_message else 0)
    assert part.type.isupper()
    values = [part.content_id, part.description, part.encoding, part.md5, part.location, *part.language]
    values += [text for pair in part.params for text in pair]
    assert not any(bad in value for value in values if value for bad in (b"\r", b"\n", b"\0"))
