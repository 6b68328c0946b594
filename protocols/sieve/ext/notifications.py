"""enotify (RFC 5435) with the mailto method (RFC 5436)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from storage.addresses import BadAddress, canonical

from ..bound import Bound
from ..errors import RunFault
from ..matching import MATCH_TAGS, Matching
from ..outcome import Notify
from ..phrases import Phrase
from ..spec import STRING, STRINGS, Command, Do, Extension, Holds, Row, Slot, Test
from .actions import check_sender, place_of

if TYPE_CHECKING:
    from ..run import Run

MAX_METHOD_CHARS = 2000
IMPORTANCES = ("1", "2", "3")


def mailto_recipients(uri: str) -> list[str] | None:
    """The addresses of a mailto URI (RFC 6068 §2); None when it is none."""
    if len(uri) > MAX_METHOD_CHARS or uri[:7].lower() != "mailto:":
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    listed = parts.path.split(",")
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if name.lower() == "to":
            listed += value.split(",")
    found = [unquote(each).strip() for each in listed if each.strip()]
    try:
        for each in found:
            canonical(each)
    except BadAddress:
        return None
    return found or None


def _is_valid(method: str) -> bool:
    return mailto_recipients(method) is not None


def _notify(bound: Bound) -> Do:
    line, method = bound.line, bound.text("method")
    if method.constant is not None and not _is_valid(method.constant):
        raise bound.fail(f"{method.constant[:60]!r} is no way to notify: only mailto is there")
    message, sender = bound.tag_text("message"), bound.tag_text("from")
    importance, options = bound.tag_text("importance"), bound.tag_texts("options")
    if importance is not None and importance.constant not in (None, *IMPORTANCES):
        raise bound.fail(':importance takes "1", "2" or "3"')
    fcc, place = bound.tag_text("fcc"), place_of(bound)

    def notify(run: Run) -> None:
        target = method.value(run)
        if not _is_valid(target):
            raise RunFault(f"{target[:60]!r} is no way to notify")
        action = Notify(
            run.rule(line),
            target,
            message.value(run) if message else "",
            check_sender(sender.value(run)) if sender else "",
            _importance(run, importance),
            tuple(options.values(run)) if options else (),
            place(run, fcc.value(run)) if fcc else None,
        )
        run.tell(line, f"notify {target}")
        run.act(action, keeps=True)

    return notify


def _importance(run: Run, importance: Phrase | None) -> int:
    value = importance.value(run) if importance else "2"
    if value not in IMPORTANCES:
        raise RunFault(f"{value[:20]!r} is no importance")
    return int(value)


def _valid_notify_method(bound: Bound) -> Holds:
    methods = bound.texts("methods")
    return lambda run: all(map(_is_valid, methods.values(run)))


def _capability(bound: Bound) -> Holds:
    """RFC 5435 §5; of mailto nothing is known (RFC 5436 §2.2)."""
    method, name = bound.text("method"), bound.text("capability")
    matching = Matching(bound, bound.texts("keys"))

    def holds(run: Run) -> bool:
        if not _is_valid(method.value(run)):
            return False
        values: Sequence[str] = ["maybe"] if name.value(run).lower() == "online" else []
        return matching.holds(run, values)

    return holds


EXTENSIONS = (
    Extension(
        "enotify",
        commands=(
            Command(
                "notify",
                _notify,
                (Slot("method", STRING),),
                (
                    Row("from", STRING),
                    Row("importance", STRING),
                    Row("options", STRINGS),
                    Row("message", STRING),
                ),
            ),
        ),
        tests=(
            Test("valid_notify_method", _valid_notify_method, (Slot("methods", STRINGS),)),
            Test(
                "notify_method_capability",
                _capability,
                (Slot("method", STRING), Slot("capability", STRING), Slot("keys", STRINGS)),
                MATCH_TAGS,
            ),
        ),
    ),
)
