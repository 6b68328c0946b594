"""The header fields of a message as scripts see, add and remove them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from storage.mime.envelope import MAX_LIST_BYTES, parse_addresses
from storage.mime.text import decode_charset, decode_words

_FOLDING = re.compile(rb"\r?\n[ \t]")
# The fields of ``storage.mime.headers.iter_fields`` in one go: name and what is between it and the value, or
# the empty line that ends the block; then the rest of the logical line. What is no field has neither.
_FIELDS = re.compile(rb"(?:([!-9;-~]++)([ \t]*+:[ \t]*+)|(\r?\n(?![ \t])))?([^\n]*+(?:\n[ \t][^\n]*+)*+\n?+)")
# One address in its usual form, as ``storage.mime.envelope`` would read it.
_WORD = r"[^\x00-\x20\"(),:;<>@\\\[\]]++"
_ONE = re.compile(
    r"[ \t]*+(?:(?:\"[^\"\\\r\n\0]*+\"[ \t]*+|[^\"(),:;<>@\\\[\]\r\n\0]*+)(<))?"
    rf"({_WORD})@({_WORD})(?(1)>)[ \t\r\n]*+"
)
MAX_ONE_BYTES = 1024
_NAME = re.compile(r"[!-9;-~]++")


class Field(NamedTuple):
    """``raw`` is the whole field with its line endings; the value begins at ``value_at``."""

    name: str  # lower case
    raw: bytes
    value_at: int

    @property
    def raw_value(self) -> bytes:
        return self.raw[self.value_at :]


class Mailbox(NamedTuple):
    """One address of a field; ``domain`` is empty where the field has none."""

    local: str
    domain: str

    @property
    def address(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local


def decoded(raw_value: bytes) -> str:
    """The value on one line, its encoded words decoded (RFC 2047), without blanks around. Where it was folded
    with a tab stands a space, as writers of scripts expect."""
    raw = raw_value.strip()
    if raw.isascii() and not (b"\n" in raw or b"\r" in raw or b"=?" in raw):  # as most are
        return raw.decode("ascii").strip()
    return decode_words(_FOLDING.sub(b" ", raw) if b"\n" in raw else raw).strip()


def parse_fields(header: bytes) -> list[Field]:
    found = []
    for name, colon, end, value in _FIELDS.findall(header):
        if name:
            found.append(Field(name.lower().decode("ascii"), name + colon + value, len(name) + len(colon)))
        elif end:
            break
    return found


class Seeker:
    """Reads the fields of some names only, which costs a fifth of reading all. ``names`` in lower case."""

    __slots__ = ("_nothing", "_pattern")

    def __init__(self, names: Sequence[str]) -> None:
        self._nothing: dict[str, Sequence[bytes]] = dict.fromkeys(names, ())
        self._pattern: re.Pattern[bytes] | None = None

    def read(self, header: bytes) -> dict[str, Sequence[bytes]]:
        """The raw values of each name, without the line feeds at their ends."""
        if self._pattern is None:  # made when it is needed: most groups of a long script never ask
            self._pattern = self._compiled()
        found: dict[str, list[bytes]] = {}
        for name, value in self._pattern.findall(b"\n" + header):
            if not name:  # the end of the block
                break
            found.setdefault(name.lower().decode("ascii"), []).append(value)
        return self._nothing | found

    def _compiled(self) -> re.Pattern[bytes]:
        names = b"|".join(re.escape(name.encode()) for name in self._nothing if _NAME.fullmatch(name))
        field = rb"(?i:(%b))[ \t]*+:[ \t]*+([^\n]*+(?:\n[ \t][^\n]*+)*+)" % (names or rb"(?!)")
        return re.compile(rb"\n(?:%b|\r?\n(?![ \t]))" % field)


def _raw_values(header: bytes) -> dict[str, list[bytes]]:
    """By names in lower case."""
    found: dict[str, list[bytes]] = {}
    for name, _, end, value in _FIELDS.findall(header):
        if name:
            key = name.lower().decode("ascii")
            if key in found:
                found[key].append(value)
            else:
                found[key] = [value]
        elif end:
            break
    return found


def _raw_values_of(fields: Sequence[Field]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for field in fields:
        found.setdefault(field.name, []).append(field.raw_value)
    return found


def mailboxes(raw: bytes) -> list[Mailbox]:
    """The addresses in a field value, groups left out; as many as ENVELOPE shows: at most ``MAX_ADDRESSES``,
    and those in the first ``MAX_LIST_BYTES``."""
    if len(raw) <= MAX_ONE_BYTES and raw.isascii():
        one = _ONE.fullmatch(raw.decode("ascii"))
        if one is not None:
            return [Mailbox(one[2], one[3])]
    return [
        Mailbox(decode_charset(each.mailbox or b"", None), decode_charset(each.host, None))
        for each in parse_addresses(raw[:MAX_LIST_BYTES])
        if each.host is not None
    ]


class Fields:
    """A header block. Reading parses it once, and no more of it than is asked for; values are decoded once
    (RFC 2047)."""

    __slots__ = (
        "_addresses",
        "_by_name",
        "_header",
        "_list",
        "_parts",
        "_raw",
        "_sought",
        "_values",
        "is_changed",
        "uppers",
    )

    def __init__(self, header: bytes) -> None:
        self._header = header
        self._list: list[Field] | None = None
        self._forget()
        self.is_changed = False

    def _forget(self) -> None:
        self._by_name: dict[str, list[Field]] | None = None
        self._raw: dict[str, list[bytes]] | None = None
        self._sought: dict[str, Sequence[bytes]] = {}
        self._values: dict[str, Sequence[str]] = {}
        self._addresses: dict[str, Sequence[Mailbox]] = {}
        self._parts: dict[tuple[str, str], Sequence[str]] = {}
        self.uppers: dict[Hashable, tuple[list[str], int]] = {}  # of ``quick``

    def _every(self) -> list[Field]:
        if self._list is None:
            self._list = parse_fields(self._header)
        return self._list

    def named(self, name: str) -> Sequence[Field]:
        """In order. ``name`` in any case."""
        if self._by_name is None:
            self._by_name = {}
            for field in self._every():
                self._by_name.setdefault(field.name, []).append(field)
        return self._by_name.get(name.lower(), ())

    def seek(self, seeker: Seeker) -> None:
        """Some fields will be asked for. Of use before any other was."""
        if not self._sought and self._raw is None and self._list is None:
            self._sought = seeker.read(self._header)

    def raw_values(self, name: str) -> Sequence[bytes]:
        """Of ``named``, for less: fields are made for those only who edit them. ``name`` in lower case. The
        line feed at the end of a value may be there or not."""
        found = self._sought.get(name)
        if found is not None:
            return found
        if self._raw is None:
            self._raw = _raw_values(self._header) if self._list is None else _raw_values_of(self._list)
        return self._raw.get(name, ())

    def values(self, name: str) -> Sequence[str]:
        """Decoded, without blanks around."""
        found = self._values.get(name)
        if found is None:
            found = [decoded(raw) for raw in self.raw_values(name.lower())]
            self._values[name] = found
        return found

    def addresses(self, name: str) -> Sequence[Mailbox]:
        found = self._addresses.get(name)
        if found is None:
            found = [each for raw in self.raw_values(name.lower()) for each in mailboxes(raw)]
            self._addresses[name] = found
        return found

    def address_parts(self, name: str, part: str, reader: Callable[[Mailbox], str | None]) -> Sequence[str]:
        """``part`` names what ``reader`` takes out of an address; None is left out."""
        key = (name, part)
        found = self._parts.get(key)
        if found is None:
            found = [value for value in map(reader, self.addresses(name)) if value is not None]
            self._parts[key] = found
        return found

    # --- editing ---

    def add(self, raw: bytes, *, is_last: bool) -> None:
        """A whole field, behind the others or before them."""
        added = parse_fields(raw)
        every = self._every()
        self._list = [*every, *added] if is_last else [*added, *every]
        self._changed()

    def remove(self, wanted: Callable[[Field], bool]) -> None:
        every = self._every()
        kept = [field for field in every if not wanted(field)]
        if len(kept) != len(every):
            self._list = kept
            self._changed()

    def _changed(self) -> None:
        self._forget()
        self.is_changed = True

    def render(self) -> bytes:
        """Without the empty line. Lines that are no field are gone."""
        return b"".join(
            field.raw if field.raw.endswith(b"\n") else field.raw + b"\r\n" for field in self._every()
        )
