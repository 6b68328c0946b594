"""Whether a message gets an automatic answer, and in whose name. Pure.

The rules are those of RFC 5230 §4.5 and §4.6 and of RFC 3834 §2, and what else keeps machines from talking to
each other: one row each, asked in order, the first that speaks against it says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from protocols.sieve.fields import Fields, Mailbox, mailboxes
from protocols.sieve.outcome import Vacation
from protocols.sieve.spamheaders import SPAM_PERCENT, spam_percent, virus_value
from storage.addresses import BadAddress, canonical
from storage.mime.envelope import MAX_LIST_BYTES, parse_addresses
from storage.mime.headers import first_value, iter_fields
from storage.mime.text import decode_charset, decode_words

from .composing import checked_address
from .occasion import Occasion

RECIPIENT_FIELDS: Final = ("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc")
LIST_FIELDS: Final = frozenset({"mailing-list", "x-mailing-list"})  # beside all that begin with List-
BULK: Final = frozenset({"bulk", "list", "junk"})
NO_ANSWERS: Final = frozenset({"all", "oof", "autoreply"})
INFECTED: Final = 4  # of 5, RFC 5235 §2.2
_MACHINES: Final = re.compile(
    r"mailer-daemon|listserv|majordomo|owner-.*|.*-(?:request|owner|bounces?)|bounces?(?:[-+.=_].*)?"
    r"|(?:.*[-+._=])?(?:no[-._]?reply|do[-._]?not[-._]?reply)(?:[-+._=].*)?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Question:
    """May this message be answered with this vacation?"""

    occasion: Occasion
    vacation: Vacation

    @cached_property
    def fields(self) -> Fields:
        return Fields(self.occasion.header)

    def values(self, name: str) -> list[str]:
        """In lower case, without comments behind."""
        return [value.partition("(")[0].strip().lower() for value in self.fields.values(name)]

    @cached_property
    def further(self) -> frozenset[str]:
        """The canonical forms of ``:addresses``."""
        return frozenset(_canonical(self.vacation.addresses))

    def concerns(self, address: str) -> bool:
        """Whether it is an address of the account, or one that its owner says is."""
        if self.occasion.is_own(address):
            return True
        return bool(self.further) and not self.further.isdisjoint(_canonical([address]))

    @cached_property
    def met(self) -> str | None:
        """The first address among the recipients that the account goes by, as it is written there."""
        found = self._addresses(RECIPIENT_FIELDS)
        return next((each.address for each in found if self.concerns(each.address)), None)

    @cached_property
    def authors(self) -> list[Mailbox]:
        return list(self._addresses(("from",)))

    def _addresses(self, names: Sequence[str]) -> Iterator[Mailbox]:
        """Of the first octets of these fields: what is longer is no letter to somebody."""
        left = MAX_LIST_BYTES
        for field in (field for name in names for field in self.fields.named(name)):
            yield from mailboxes(field.raw_value[:left])
            left -= len(field.raw_value)
            if left <= 0:
                return


def _canonical(addresses: tuple[str, ...] | list[str]) -> Iterator[str]:
    for each in addresses:
        try:
            yield canonical(each)
        except BadAddress:
            continue


# --- rules ----------------------------------------------------------------------------------------


def _is_unmailable(question: Question) -> bool:
    try:
        checked_address(question.occasion.sender)
    except BadAddress:
        return True
    return False


def _is_from_machine(question: Question) -> bool:
    locals_ = [question.occasion.sender.rpartition("@")[0]]
    locals_ += [each.local for each in question.authors]
    return any(_MACHINES.fullmatch(local) for local in locals_)


def is_automatic(fields: Fields) -> bool:
    """RFC 3834 §5: any word but ``no``."""
    values = fields.values("auto-submitted")
    return any(value.partition(";")[0].partition("(")[0].strip().lower() != "no" for value in values)


def _is_from_list(question: Question) -> bool:
    names = (each.name.lower().decode("ascii") for each in iter_fields(question.occasion.header))
    return any(name.startswith("list-") or name in LIST_FIELDS for name in names)


def _wants_none(question: Question) -> bool:
    values = question.values("x-auto-response-suppress")
    return any(word.strip() in NO_ANSWERS for value in values for word in value.split(","))


def _is_report(question: Question) -> bool:
    kinds = (value.partition(";")[0].strip() for value in question.values("content-type"))
    return any(kind == "multipart/report" for kind in kinds)


def _is_spam(question: Question) -> bool:
    percent = spam_percent(question.occasion.header)
    return percent is not None and percent >= SPAM_PERCENT


def _is_infected(question: Question) -> bool:
    return (virus_value(question.occasion.header) or 0) >= INFECTED


@dataclass(frozen=True, slots=True)
class Rule:
    """No answer when ``holds``; ``why`` completes "no answer: ..."."""

    why: str
    holds: Callable[[Question], bool]


RULES: Final = (
    Rule("its sender is the null path", lambda question: not question.occasion.sender),
    Rule("its sender has no address to answer to", _is_unmailable),
    Rule("it comes from the account itself", lambda question: question.concerns(question.occasion.sender)),
    Rule("it comes from a machine", _is_from_machine),
    Rule("it was sent automatically", lambda question: is_automatic(question.fields)),
    Rule("it was sent to many", lambda question: not BULK.isdisjoint(question.values("precedence"))),
    Rule("it comes from a mailing list", _is_from_list),
    Rule("its sender wants no automatic answers", _wants_none),
    Rule("it is a report", _is_report),
    Rule("it is spam", _is_spam),
    Rule("it is infected", _is_infected),
    Rule("no address of the account is among its recipients", lambda question: question.met is None),
)


def why_no_answer(question: Question) -> str:
    """Empty: answer it. Linear in the header: some 100 us for a usual one, a second for a megabyte."""
    return next((rule.why for rule in RULES if rule.holds(question)), "")


# --- the answer -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Author:
    """In whose name mail of an account goes."""

    name: str
    address: str
    notes: tuple[str, ...] = ()


def author_of(occasion: Occasion, wanted: str, default: str) -> Author:
    """``wanted`` is what a script says (``:from``), and counts if it is an address of the account: nobody
    writes in the name of others (RFC 5230 §4.3, RFC 5435 §3.3). ``default`` does too."""
    notes: tuple[str, ...] = ()
    if wanted:
        found = _person(wanted)
        if found is not None and occasion.is_own(found[1]):
            return Author(*found)
        notes = (f":from {wanted[:100]!r} is not an address of the account and is not used",)
    return Author("", default if occasion.is_own(default) else occasion.primary_address, notes)


def _person(text: str) -> tuple[str, str] | None:
    """Name and address of a mailbox as a header field has it."""
    found = [each for each in parse_addresses(text.encode("utf-8", "replace")) if each.host]
    if len(found) != 1:
        return None
    (only,) = found
    local, domain = decode_charset(only.mailbox or b"", None), decode_charset(only.host or b"", None)
    return decode_words(only.name or b""), f"{local}@{domain}"


def subject_of(fields: Fields) -> str:
    return next(iter(fields.values("subject")), "")


def thread_of(header: bytes) -> tuple[bytes, bytes]:
    """Raw values of the fields that name the message, and those before it (RFC 5322 §3.6.4)."""
    before = first_value(header, b"references") or first_value(header, b"in-reply-to") or b""
    return first_value(header, b"message-id") or b"", before
