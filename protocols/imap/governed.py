"""What each capability governs: the forms of commands that exist because of it.

A client that is not told of a capability must not be able to use it either (``presentation``), neither by a
command of its own nor by an argument of another. To add a capability: its rows here; ``tests`` checks that
every word of the capability line has some, or is in ``SHOWS_ONLY``.

What the server says by itself because of a capability (APPENDUID, ``\\Sent`` in LIST) is left out where it
is written: ``session.shows``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from .items import BinaryItem, BinarySizeItem, ViewItem
from .searchkeys import And, InSeqSet, InUidSet, Key, Not, Or, Return, Younger
from .seqset import SAVED

# Of a command that was read: whether this form of it belongs to the capability.
Uses = Callable[[Any], bool]


def _always(_args: Any) -> bool:
    return True


def _has_saved_set(args: Any) -> bool:
    return args.numbers is SAVED


def _searches_for(wanted: Callable[[Key], bool]) -> Uses:
    def uses(args: Any) -> bool:
        waiting = [args.program.key]
        while waiting:
            match waiting.pop():
                case And(keys):
                    waiting += keys
                case Or(left, right):
                    waiting += (left, right)
                case Not(key):
                    waiting.append(key)
                case key if wanted(key):
                    return True
        return False

    return uses


def _is_saved_set(key: Key) -> bool:
    return isinstance(key, InSeqSet | InUidSet) and key.numbers is SAVED


def _is_extended_list(args: Any) -> bool:
    return bool(args.selections or args.returns or len(args.patterns) > 1)


def _asks_status(item: bytes) -> Uses:
    return lambda args: item in args.items


def _lists_status(item: bytes) -> Uses:
    return lambda args: item in args.status


_GOVERNED: Final[tuple[tuple[bytes, bytes, Uses], ...]] = (
    # capability, command, which forms of it
    (b"BINARY", b"FETCH", lambda args: any(isinstance(i, BinaryItem | BinarySizeItem) for i in args.items)),
    (b"BINARY", b"APPEND", lambda args: args.is_binary),
    (b"CONDSTORE", b"SELECT", lambda args: args.condstore),
    (b"CONDSTORE", b"EXAMINE", lambda args: args.condstore),
    (b"CONDSTORE", b"FETCH", lambda args: ViewItem.MODSEQ in args.items),  # CHANGEDSINCE brings it along
    (b"CONDSTORE", b"STORE", lambda args: args.unchanged_since is not None),
    (b"CONDSTORE", b"SEARCH", lambda args: args.program.has_modseq),
    (b"CONDSTORE", b"STATUS", _asks_status(b"HIGHESTMODSEQ")),
    (b"CONDSTORE", b"LIST", _lists_status(b"HIGHESTMODSEQ")),
    (b"CREATE-SPECIAL-USE", b"CREATE", lambda args: args.special_use is not None or args.is_unknown_use),
    (b"ENABLE", b"ENABLE", _always),
    (b"ESEARCH", b"SEARCH", lambda args: args.program.options is not None),
    (b"ID", b"ID", _always),
    (b"IDLE", b"IDLE", _always),
    (b"LIST-EXTENDED", b"LIST", _is_extended_list),
    (b"LIST-STATUS", b"LIST", lambda args: bool(args.status)),
    (b"LIST-METADATA", b"LIST", lambda args: args.metadata is not None),
    (b"METADATA", b"GETMETADATA", lambda args: args.name != ""),
    (b"METADATA", b"SETMETADATA", lambda args: args.name != ""),
    (b"METADATA", b"LIST", lambda args: args.metadata is not None),
    (b"METADATA-SERVER", b"GETMETADATA", lambda args: args.name == ""),
    (b"METADATA-SERVER", b"SETMETADATA", lambda args: args.name == ""),
    (b"MOVE", b"MOVE", _always),
    (b"NAMESPACE", b"NAMESPACE", _always),
    (b"SASL-IR", b"AUTHENTICATE", lambda args: args.initial is not None),
    (b"SEARCHRES", b"SEARCH", lambda args: Return.SAVE in (args.program.options or Return.NONE)),
    (b"SEARCHRES", b"SEARCH", _searches_for(_is_saved_set)),
    (b"SEARCHRES", b"FETCH", _has_saved_set),
    (b"SEARCHRES", b"STORE", _has_saved_set),
    (b"SEARCHRES", b"COPY", _has_saved_set),
    (b"SEARCHRES", b"MOVE", _has_saved_set),
    (b"SEARCHRES", b"EXPUNGE", lambda args: args is SAVED),
    (b"SPECIAL-USE", b"LIST", lambda args: b"SPECIAL-USE" in args.selections | args.returns),
    (b"STARTTLS", b"STARTTLS", _always),
    (b"STATUS=SIZE", b"STATUS", _asks_status(b"SIZE")),
    (b"STATUS=SIZE", b"LIST", _lists_status(b"SIZE")),
    (b"APPENDLIMIT", b"STATUS", _asks_status(b"APPENDLIMIT")),
    (b"APPENDLIMIT", b"LIST", _lists_status(b"APPENDLIMIT")),
    (b"CHILDREN", b"LIST", lambda args: b"CHILDREN" in args.returns),
    (b"UIDPLUS", b"EXPUNGE", lambda args: args is not None),
    (b"UNSELECT", b"UNSELECT", _always),
    (b"UTF8=ACCEPT", b"APPEND", lambda args: args.closing != b""),
    (b"WITHIN", b"SEARCH", _searches_for(lambda key: isinstance(key, Younger))),
)
# Enforced elsewhere: LITERAL+ by the machine, AUTH= by AUTHENTICATE, and what ENABLE passes over. The rest is
# nothing that a client could say.
SHOWS_ONLY: Final = frozenset(
    {b"IMAP4REV1", b"IMAP4REV2", b"IMAPSIEVE", b"INPROGRESS", b"LITERAL+", b"LOGINDISABLED"}
)

_BY_COMMAND: Final[defaultdict[bytes, list[tuple[bytes, Uses]]]] = defaultdict(list)
for _capability, _command, _uses in _GOVERNED:
    _BY_COMMAND[_command].append((_capability, _uses))

CAPABILITIES: Final = frozenset(capability for capability, _, _ in _GOVERNED)


def hidden_use(command: bytes, args: Any, hidden: frozenset[bytes]) -> bytes | None:
    """The capability among ``hidden`` that this form of the command belongs to."""
    for capability, uses in _BY_COMMAND.get(command, ()):
        if capability in hidden and uses(args):
            return capability
    return None
