"""foreverypart, mime, extracttext, replace, enclose (RFC 5703)."""

from __future__ import annotations

from email.utils import format_datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from storage.mime.headers import split_header
from storage.mime.text import part_text

from ..bound import Bound
from ..control import Break
from ..errors import Misplaced
from ..parts import PartView, boundary, walk
from ..scopes import MIME_HEADER_TAGS, MIME_TAGS
from ..spec import NUMBER, STRING, STRINGS, Command, Do, Extension, Row, Slot
from .actions import check_sender
from .edits import render_field
from .variables import MODIFIER_ROWS, modifiers, variable_name

if TYPE_CHECKING:
    from ..run import Run

# RFC 5703 §3: loops in loops; each is a walk over all parts of the one around.
MAX_LOOPS = 4
_PLAIN = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
# Fields that describe the body go with it when it is put into another message or part.
_DESCRIBING = "content-"
# They tell the way of the mail and stay when a message is enclosed in another.
_TRACE = frozenset({"received", "return-path", "delivered-to"})
_OF_ENCLOSURE = _TRACE | {"subject", "mime-version", "content-type"}


def _foreverypart(bound: Bound) -> Do:
    name = bound.tag_constant("name")
    block = bound.block
    assert block is not None
    if len(bound.compiler.loops) >= MAX_LOOPS:
        raise bound.fail(f"loops are nested deeper than {MAX_LOOPS}")

    def loop(run: Run) -> None:
        outer = run.parts[-1] if run.parts else None
        data, root = run.content() if outer is None else (outer.data, outer.part)
        parts = walk(root)
        if outer is not None:
            next(parts)  # a loop inside another goes over what its part contains
        depth = len(run.parts)
        try:
            for part in parts:
                run.budget.spend(4)
                run.parts.append(PartView(data, part))
                block(run)
                run.parts.pop()
        except Break as leaving:
            if leaving.name not in (None, name):
                raise
        finally:
            del run.parts[depth:]

    return loop


def _break(bound: Bound) -> Do:
    """RFC 5703 §3: of a loop around it in this text, not of a script that includes this one."""
    name, loops = bound.tag_constant("name"), bound.compiler.loops
    if not loops:
        raise Misplaced(bound.offset, '"break" without "foreverypart"')
    if name is not None and name not in loops:
        raise Misplaced(bound.offset, f'no "foreverypart" around this "break" has the name "{name[:60]}"')

    def leave(_run: Run) -> None:
        raise Break(name)

    return leave


def _extracttext(bound: Bound) -> Do:
    """RFC 5703 §7."""
    compiler, name, changes = bound.compiler, variable_name(bound, "name"), modifiers(bound)
    first = bound.tag_number("first")
    if not compiler.has("variables") or not compiler.has("foreverypart") or not compiler.loops:
        raise bound.fail('"extracttext" works inside "foreverypart" and needs require "variables"')

    def extract(run: Run) -> None:
        view = run.parts[-1]
        limit = run.budget.limits.value_chars
        text = part_text(view.part, view.data, 4 * limit) if view.part.is_text else ""
        text = text[: limit if first is None else min(first, limit)]
        for change in changes:
            text = change(text)
        run.set_variable(name, text)

    return extract


def _replace(bound: Bound) -> Do:
    """RFC 5703 §5: of the part of the loop, outside of loops of the message."""
    line, text, is_mime = bound.line, bound.text("text"), bound.has("mime")
    subject, sender = bound.tag_text("subject"), bound.tag_text("from")
    if is_mime and (subject is not None or sender is not None):
        raise bound.fail(":mime brings its own header, so :subject and :from have no use")

    def replace(run: Run) -> None:
        data, root = run.content()
        part = run.parts[-1].part if run.parts else root
        head, body = _entity(text.value(run), is_mime=is_mime)
        run.budget.hold(len(data) + len(body))
        run.tell(line, "replace")
        if part is not root:
            run.edits.replace(data, root, part, head, body)
            return
        run.edits.body = body
        _describe(run, head)
        if subject is not None:
            _supersede(run, "Subject", subject.value(run))
        if sender is not None:
            _supersede(run, "From", check_sender(sender.value(run)))

    return replace


def _enclose(bound: Bound) -> Do:
    """RFC 5703 §6: the message becomes an attachment of one that says why, and that is new but for the fields
    that :headers names."""
    line, text = bound.line, bound.text("text")
    subject, copied = bound.tag_text("subject"), bound.tag_texts("headers")

    def enclose(run: Run) -> None:
        data, root = run.content()
        inner = run.edits.body
        note = text.value(run).encode("utf-8", "replace")
        run.budget.hold((len(data) if inner is None else len(inner)) + len(note))
        original = (
            run.fields.render() + b"\r\n" + (data[root.body_start : len(data)] if inner is None else inner)
        )
        run.tell(line, "enclose")
        mark = boundary(original, note)
        run.edits.body = b"".join(
            (
                b"--" + mark + b"\r\n" + _PLAIN + b"\r\n" + note + b"\r\n--" + mark,
                b"\r\nContent-Type: message/rfc822\r\n\r\n" + original + b"\r\n--" + mark + b"--\r\n",
            )
        )
        head = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="' + mark + b'"\r\n'
        _describe(run, head)
        wanted = {name.lower() for name in copied.values(run)} if copied else set()
        run.fields.remove(lambda field: field.name not in wanted | _OF_ENCLOSURE)
        owner = run.mail.recipient or run.environment.get("imap.email", "")
        host = run.environment.get("host", "localhost")
        for name, value in (
            ("From", f"<{owner}>"),
            ("Date", format_datetime(run.now)),
            ("Message-ID", f"<{sha256(original + note).hexdigest()[:32]}.enclosed@{host}>"),
        ):
            if name.lower() not in wanted:
                run.fields.add(render_field(name, value), is_last=True)
        if subject is not None:
            _put(run, "Subject", subject.value(run))

    return enclose


def _entity(text: str, *, is_mime: bool) -> tuple[bytes, bytes]:
    """Header and body of a replacement; ``is_mime``: the text brings its own fields."""
    raw = text.encode("utf-8", "replace")
    if not is_mime:
        return _PLAIN, raw
    at = split_header(raw)
    return raw[:at].rstrip(b"\r\n") + b"\r\n", raw[at:]


def _describe(run: Run, head: bytes) -> None:
    """The new body's fields in place of the old one's."""
    run.fields.remove(lambda field: field.name.startswith(_DESCRIBING) or field.name == "mime-version")
    run.fields.add(b"MIME-Version: 1.0\r\n" + head if b"MIME-Version" not in head else head, is_last=True)


def _put(run: Run, name: str, value: str) -> None:
    run.fields.remove(lambda field: field.name == name.lower())
    run.fields.add(render_field(name, value), is_last=True)


def _supersede(run: Run, name: str, value: str) -> None:
    """RFC 5703 §5: what was there stays as Original-Subject or Original-From."""
    for field in run.fields.named(name):
        run.fields.add(b"Original-" + field.raw, is_last=True)
    _put(run, name, value)


_NAME_TAG = (Row("name", STRING),)

EXTENSIONS = (
    Extension(
        "foreverypart",
        commands=(
            Command("foreverypart", _foreverypart, tags=_NAME_TAG, has_block=True),
            Command("break", _break, tags=_NAME_TAG),
        ),
    ),
    Extension("mime", tags={"header": MIME_HEADER_TAGS, "address": MIME_TAGS, "exists": MIME_TAGS}),
    Extension(
        "extracttext",
        commands=(
            Command(
                "extracttext", _extracttext, (Slot("name", STRING),), (Row("first", NUMBER), *MODIFIER_ROWS)
            ),
        ),
    ),
    Extension(
        "replace",
        commands=(
            Command(
                "replace",
                _replace,
                (Slot("text", STRING),),
                (Row("mime"), Row("subject", STRING), Row("from", STRING)),
            ),
        ),
    ),
    Extension(
        "enclose",
        commands=(
            Command(
                "enclose",
                _enclose,
                (Slot("text", STRING),),
                (Row("subject", STRING), Row("headers", STRINGS)),
            ),
        ),
    ),
)
