"""The tests of RFC 5228 §5, the subaddress tags (RFC 5233) and stop."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from storage.addresses import DETAIL_SEPARATOR

from ..bound import Bound
from ..control import Stop
from ..errors import RunFault
from ..fields import Mailbox
from ..matching import MATCH_TAGS, Matching
from ..phrases import Phrases
from ..quick import quick_test
from ..scopes import address_values, header_values, scope
from ..skipping import Need, Source, address_source, header_source
from ..spec import NUMBER, STRINGS, Command, Do, Extension, Holds, Row, Slot, Test, Tests

if TYPE_CHECKING:
    from ..run import Run

PARTS = (Row("all", group="part"), Row("localpart", group="part"), Row("domain", group="part"))
DETAIL_PARTS = (Row("user", group="part"), Row("detail", group="part"))
# RFC 5228 §5.1: tests of addresses are for fields that hold addresses.
ADDRESS_FIELDS = frozenset(
    [
        "from",
        "to",
        "cc",
        "bcc",
        "sender",
        "reply-to",
        "resent-from",
        "resent-to",
        "resent-cc",
        "resent-bcc",
        "resent-sender",
        "resent-reply-to",
        "return-path",
        "delivered-to",
        "x-original-to",
        "envelope-to",
        "apparently-to",
        "errors-to",
        "return-receipt-to",
        "disposition-notification-to",
        "mail-followup-to",
        "mail-reply-to",
        "x-forwarded-to",
        "x-envelope-to",
        "x-envelope-from",
        "list-post",
        "approved",
        "original-recipient",
        "final-recipient",
    ]
)
_FIELD_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 §3.6.8


# --- parts of addresses ---


def _user(box: Mailbox) -> str:
    return box.local.partition(DETAIL_SEPARATOR)[0]


def _detail(box: Mailbox) -> str | None:
    """None: there is no separator, so nothing can match (RFC 5233 §4)."""
    _, separator, detail = box.local.partition(DETAIL_SEPARATOR)
    return detail if separator else None


_PART_READERS: dict[str, Callable[[Mailbox], str | None]] = {
    "all": lambda box: box.address,
    "localpart": lambda box: box.local if box.domain or not box.local else None,
    "domain": lambda box: box.domain if box.domain or not box.local else None,
    "user": lambda box: _user(box) if box.domain or not box.local else None,
    "detail": _detail,
}


def part_reader(bound: Bound) -> Callable[[Mailbox], str | None]:
    return _PART_READERS[bound.chosen("part", "all")]


def _read(boxes: Iterable[Mailbox], reader: Callable[[Mailbox], str | None]) -> Iterator[str]:
    return (value for value in map(reader, boxes) if value is not None)


# --- tests ---


def _address(bound: Bound) -> Holds:
    names, reader = bound.texts("headers"), part_reader(bound)
    for name in names.constants or ():
        if name.lower() not in ADDRESS_FIELDS:
            raise bound.fail(f'"{name[:60]}" is no field of addresses')
    matching = Matching(bound, bound.texts("keys"))
    values = address_values(bound, bound.chosen("part", "all"), reader)
    constants = names.constants
    if constants is not None and not _is_special(bound):
        part = bound.chosen("part", "all")
        quick = _quick(bound, [address_source(name, part, reader) for name in constants], matching)
        if quick is not None:
            return quick
    if constants is not None:
        return lambda run: matching.holds(run, values(run, constants))

    def holds(run: Run) -> bool:
        wanted = [name for name in names.values(run) if name.lower() in ADDRESS_FIELDS]
        return matching.holds(run, values(run, wanted))

    return holds


def _envelope(bound: Bound) -> Holds:
    names, reader = bound.texts("parts"), part_reader(bound)
    for name in names.constants or ():
        if name.lower() not in ("from", "to"):
            raise bound.fail(f'the envelope has no part "{name[:60]}"')
    matching = Matching(bound, bound.texts("keys"))

    def holds(run: Run) -> bool:
        if not run.mail.is_delivery:
            raise RunFault("there is no envelope where nothing is delivered")  # RFC 6785 §4.6
        parts = {"from": run.mail.sender, "to": run.mail.recipient}
        boxes = [_path(parts[name.lower()]) for name in names.values(run) if name.lower() in parts]
        return matching.holds(run, _read(boxes, reader))

    return holds


def _path(path: str) -> Mailbox:
    local, at, domain = path.rpartition("@")
    return Mailbox(local, domain) if at else Mailbox(path, "")


def _header(bound: Bound) -> Holds:
    names, values = bound.texts("headers"), header_values(bound)
    _doubt_names(bound, names)
    matching = Matching(bound, bound.texts("keys"))
    if names.constants is not None and not _is_special(bound):
        quick = _quick(bound, list(map(header_source, names.constants)), matching)
        if quick is not None:
            return quick
    return lambda run: matching.holds(run, values(run, names.values(run)))


def _doubt_names(bound: Bound, names: Phrases) -> None:
    for name in names.constants or ():
        if not _FIELD_NAME.fullmatch(name):
            bound.warn(f'"{name[:60]}" is no name of a header field, no message has it')


def _quick(bound: Bound, sources: Sequence[Source], matching: Matching) -> Holds | None:
    """Tells the compiler what the test needs, and makes it where it is simple."""
    needles = matching.needles
    if needles is not None:
        bound.needs = tuple(Need(source, *needles) for source in sources)
    keys = matching.quick_keys
    return None if keys is None else quick_test(sources, keys, is_whole=matching.is_whole)


def _is_special(bound: Bound) -> bool:
    """Looks at one field of several, or into parts."""
    return bound.has("index") or bound.has("mime")


def _exists(bound: Bound) -> Holds:
    names, blocks = bound.texts("headers"), scope(bound)
    _doubt_names(bound, names)
    if names.constants and not bound.has("mime"):
        bound.needs = (Need(header_source(names.constants[0]), (), ("",)),)  # any value at all

    def holds(run: Run) -> bool:
        every = list(blocks(run))
        return all(any(fields.named(name) for fields in every) for name in names.values(run))

    return holds


def _size(bound: Bound) -> Holds:
    limit = bound.number("limit")
    if bound.chosen("relation") == "over":
        return lambda run: run.mail.size_bytes > limit
    if bound.chosen("relation") == "under":
        return lambda run: run.mail.size_bytes < limit
    raise bound.fail('"size" takes :over or :under')


def _all(bound: Bound) -> Holds:
    tests = tuple(bound.tests)
    bound.needs = bound.compiler.needs_of_one(tests)

    def holds(run: Run) -> bool:
        run.budget.spend(len(tests))
        for test in tests:  # noqa: SIM110  (a generator costs twice as much)
            if not test(run):
                return False
        return True

    return holds


def _any(bound: Bound) -> Holds:
    tests = tuple(bound.tests)
    bound.needs = bound.compiler.needs_of_any(tests)

    def holds(run: Run) -> bool:
        run.budget.spend(len(tests))
        for test in tests:  # noqa: SIM110
            if test(run):
                return True
        return False

    return holds


def _not(bound: Bound) -> Holds:
    (test,) = bound.tests
    return lambda run: not test(run)


def _stop(bound: Bound) -> Do:
    line = bound.line

    def stop(run: Run) -> None:
        run.tell(line, "stop")
        raise Stop

    return stop


_HEADERS = Slot("headers", STRINGS)
_KEYS = Slot("keys", STRINGS)

EXTENSIONS = (
    Extension(
        "",
        commands=(Command("stop", _stop),),
        tests=(
            Test("address", _address, (_HEADERS, _KEYS), (*MATCH_TAGS, *PARTS)),
            Test("allof", _all, tests=Tests.MANY),
            Test("anyof", _any, tests=Tests.MANY),
            Test("exists", _exists, (_HEADERS,)),
            Test("false", lambda _bound: lambda _run: False),
            Test("header", _header, (_HEADERS, _KEYS), MATCH_TAGS),
            Test("not", _not, tests=Tests.ONE),
            Test(
                "size",
                _size,
                (Slot("limit", NUMBER),),
                (Row("over", group="relation"), Row("under", group="relation")),
            ),
            Test("true", lambda _bound: lambda _run: True),
        ),
    ),
    Extension(
        "envelope",
        tests=(Test("envelope", _envelope, (Slot("parts", STRINGS), _KEYS), (*MATCH_TAGS, *PARTS)),),
    ),
    Extension("subaddress", tags={"address": DETAIL_PARTS, "envelope": DETAIL_PARTS}),
)
