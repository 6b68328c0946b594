"""The kinds of values an option can have: how each is read from TOML and written back.

``parse`` takes what TOML gave (placeholders already expanded) and raises ``UnitError`` with a sentence for
people. ``render`` returns a TOML value that parses to the same value; ``python`` is what a program sees.
To add a kind: one ``Kind`` here, used in a section's table.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from node.units import (
    Address,
    Network,
    UnitError,
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_network,
    parse_size,
)
from storage.errors import InvalidName
from storage.model import DELIMITER, INBOX
from storage.names import checked

from .patterns import is_quick
from .secret import Secret

T = TypeVar("T")
MIN_BYTES_PER_MINUTE = 1024


@dataclass(frozen=True)
class Kind(Generic[T]):
    """``label`` completes the sentence "expected …"."""

    label: str
    parse: Callable[[Any], T]
    render: Callable[[T], object]
    secret: bool = False
    choices: tuple[str, ...] = ()


def _same(value: object) -> object:
    return value


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise UnitError("expected text", f'write "{raw}" in quotes' if isinstance(raw, int | float) else "")
    return raw


def _mailbox(raw: object) -> str:
    """One component; empty: none."""
    name = _text(raw)
    if not name:
        return name
    try:
        name = checked(name)
    except InvalidName as error:
        raise UnitError(str(error)) from error
    if DELIMITER in name or name == INBOX or set(name) & set("*%"):
        raise UnitError("it must be a name of its own at the top, without * and %")
    return name


def _secret_text(raw: object) -> str:
    if not isinstance(raw, str):
        raise UnitError("expected text", "write it in quotes")  # without repeating it
    return raw


def _bool(raw: object) -> bool:
    if raw in ("true", "false"):  # what an environment variable can hold
        return raw == "true"
    if not isinstance(raw, bool):
        raise UnitError("expected true or false", "without quotes")
    return raw


def _int(raw: object) -> int:
    if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,18}", raw):
        return int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise UnitError("expected a whole number")
    return raw


def _float(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise UnitError("expected a number")
    return float(raw)


def _list(raw: object) -> list[object]:
    if not isinstance(raw, list):
        hint = f'write ["{raw}"]' if isinstance(raw, str) and len(raw) < 200 else ""
        raise UnitError("expected a list", hint)
    return raw


def whole(low: int, high: int = 2**31 - 1) -> Kind[int]:
    """A whole number from ``low`` to ``high``, both included."""

    def parse(raw: object) -> int:
        value = _int(raw)
        if not low <= value <= high:
            raise UnitError(f"expected a whole number from {low} to {high}")
        return value

    return Kind("a whole number", parse, _same)


def number(low: float, high: float) -> Kind[float]:
    def parse(raw: object) -> float:
        value = _float(raw)
        if not low <= value <= high:
            raise UnitError(f"expected a number from {low} to {high}")
        return value

    return Kind("a number", parse, _same)


def choice(*words: str, **other_spellings: str) -> Kind[str]:
    """One of ``words``; ``other_spellings`` maps further accepted words to one of them."""

    def parse(raw: object) -> str:
        word = _text(raw).lower()
        word = other_spellings.get(word, word)
        if word not in words:
            raise UnitError(f"expected one of {', '.join(w or '(empty)' for w in words)}")
        return word

    return Kind("one of " + ", ".join(words), parse, _same, choices=(*words, *other_spellings))


def choices(*words: str) -> Kind[tuple[str, ...]]:
    """Any of ``words``; one may be written without brackets."""
    one = choice(*words)

    def parse(raw: Any) -> tuple[str, ...]:
        values = raw if isinstance(raw, list | tuple) else [raw]
        return tuple(dict.fromkeys(one.parse(value) for value in values))

    return Kind("a list of " + ", ".join(words), parse, list, choices=words)


def duration(low: float = 0.0, high: float = float("inf")) -> Kind[float]:
    """Seconds from ``low`` to ``high``."""

    def parse(raw: Any) -> float:
        seconds = parse_duration(raw)
        if not low <= seconds <= high:
            raise UnitError(_outside(seconds, low, high))
        return seconds

    return Kind("a duration", parse, format_duration)


def _outside(seconds: float, low: float, high: float) -> str:
    if seconds < low:
        return f"must be at least {format_duration(low)}"
    return f"must be at most {format_duration(high)}"


def listed(item: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list of values of one kind."""

    def parse(raw: object) -> tuple[T, ...]:
        values = []
        for position, entry in enumerate(_list(raw)):
            try:
                values.append(item.parse(entry))
            except UnitError as error:
                raise UnitError(f"entry {position + 1}: {error}", error.suggestion) from error
        return tuple(values)

    return Kind(f"a list, each {item.label}", parse, lambda value: [item.render(entry) for entry in value])


def _key32(raw: object) -> Secret[bytes]:
    text = _secret_text(raw).strip()
    if not text:
        return Secret(b"")
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return Secret(bytes.fromhex(text))
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise UnitError(
            "expected 32 bytes as base64 or as 64 hexadecimal digits",
            "generate one with: openssl rand -base64 32",
        )
    return Secret(key)


def _keys32(raw: object) -> tuple[Secret[bytes], ...]:
    if not isinstance(raw, list):
        raise UnitError("expected a list", "write [key, key]")  # without repeating it
    return listed(KEY32).parse(raw)


def _pattern(raw: object) -> str:
    try:
        quick = is_quick(_text(raw))
    except (re.error, RecursionError, OverflowError) as error:
        raise UnitError(f"not a regular expression: {error}") from error
    if not quick:
        raise UnitError(
            "a client could choose a text on which this expression takes very long",
            'avoid repeats within repeats, such as "(a+)+", references, and more than three of ".*"',
        )
    return _text(raw)


def _patterns(raw: object) -> tuple[str, ...]:
    return listed(PATTERN).parse([raw] if isinstance(raw, str) else raw)


def _texts(raw: object) -> tuple[str, ...]:
    return tuple(listed(TEXT).parse(raw))


_FIELD = re.compile(r"[!-9;-~]+:[^\x00-\x1f]*")


def _fields(raw: object) -> tuple[str, ...]:
    texts = _texts(raw)
    for text in texts:
        if not _FIELD.fullmatch(text):
            raise UnitError(f'"{text}" is no header field', 'write "Name: value"')
    return texts


def _hosts(raw: object) -> tuple[str, ...]:
    hosts = _texts([raw] if isinstance(raw, str) else raw)
    if not hosts:
        raise UnitError("the list is empty")
    for host in hosts:
        parse_address(host, 0)
    return hosts


def _host(raw: object) -> str:
    host = _text(raw).strip()
    if host:
        parse_address(host, 0)
    return host


def _remotes(raw: object) -> tuple[str, ...]:
    remotes = _texts(raw)
    for remote in remotes:
        if not parse_address(remote, 0).host:
            raise UnitError(f'"{remote}" has no host', 'write "backend1:143"')
    return remotes


def _optional_duration(raw: Any) -> float | None:
    return None if raw == "" else parse_duration(raw)


def _throughput(raw: object) -> int | None:
    value = _int(raw)
    if value < -1:
        raise UnitError("expected bytes per minute, 0 for the default or -1 to switch the check off")
    return None if value == -1 else value or MIN_BYTES_PER_MINUTE


def _optional_bool(raw: object) -> bool | None:
    return None if raw == "" else _bool(raw)


def _optional_networks(raw: object) -> tuple[Network, ...] | None:
    return None if raw == "" else NETWORKS.parse(raw)


TEXT: Kind[str] = Kind("text", _text, _same)
MAILBOX: Kind[str] = Kind("the name of a mailbox", _mailbox, _same)
PATH: Kind[str] = Kind("a path", _text, _same)
BOOL: Kind[bool] = Kind("true or false", _bool, _same)
COUNT: Kind[int] = whole(0)
POSITIVE: Kind[int] = whole(1)
PORT: Kind[int] = whole(1, 65535)
DURATION: Kind[float] = duration()
POSITIVE_DURATION: Kind[float] = duration(low=0.001)
SIZE: Kind[int] = Kind("a size", parse_size, format_size)
ADDRESS: Kind[Address] = Kind("an address", lambda raw: parse_address(_text(raw)), str)
NETWORK: Kind[Network] = Kind("a network", lambda raw: parse_network(_text(raw)), str)
NETWORKS: Kind[tuple[Network, ...]] = listed(NETWORK)
PATTERN: Kind[str] = Kind("a regular expression", _pattern, _same)
PATTERNS: Kind[tuple[str, ...]] = Kind("regular expressions", _patterns, list)
FIELDS: Kind[tuple[str, ...]] = Kind('a list of header fields, "Name: value"', _fields, list)
TEXTS: Kind[tuple[str, ...]] = Kind("a list of texts", _texts, list)
HOST: Kind[str] = Kind("a host or address, with or without port", _host, _same)
HOSTS: Kind[tuple[str, ...]] = Kind("a list of hosts", _hosts, list)
REMOTES: Kind[tuple[str, ...]] = Kind("a list of host:port", _remotes, list)
DURATIONS: Kind[tuple[float, ...]] = listed(POSITIVE_DURATION)
SECRET: Kind[Secret[str]] = Kind("text", lambda raw: Secret(_secret_text(raw)), Secret.reveal, secret=True)
KEY32: Kind[Secret[bytes]] = Kind("a 32-byte key", _key32, lambda key: key.reveal().hex(), secret=True)
KEYS32: Kind[tuple[Secret[bytes], ...]] = Kind(
    "a list of 32-byte keys", _keys32, listed(KEY32).render, secret=True
)
# "" stands for "not set" where unset differs from every value.
OPTIONAL_DURATION: Kind[float | None] = Kind(
    "a duration", _optional_duration, lambda value: "" if value is None else format_duration(value)
)
OPTIONAL_BOOL: Kind[bool | None] = Kind(
    "true or false", _optional_bool, lambda value: "" if value is None else value
)
OPTIONAL_NETWORKS: Kind[tuple[Network, ...] | None] = Kind(
    "a list of networks",
    _optional_networks,
    lambda value: "" if value is None else NETWORKS.render(value),
)
THROUGHPUT: Kind[int | None] = Kind(
    "bytes per minute", _throughput, lambda value: -1 if value is None else value
)
