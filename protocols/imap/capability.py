"""The capability line, computed: it cannot announce what is not registered or not possible now.

References: RFC 9051 §6.1.1 and §7.2.2, RFC 7889 (APPENDLIMIT), RFC 4959 (SASL-IR), RFC 6785 (IMAPSIEVE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .registry import CommandTable, State

# What the machine, the view and the session provide without a command of their own.
_BUILT_IN: Final = (b"LITERAL+", b"CHILDREN")
# Words whose value is not part of the name that an operator hides.
_WITH_VALUE: Final = frozenset({b"APPENDLIMIT", b"IMAPSIEVE"})
# RFC 9051 Appendix E: IMAP4rev2 folds these in; it is announced when all of them are there.
_REV2_NEEDS: Final = frozenset(
    b"LITERAL+ CHILDREN BINARY ENABLE ESEARCH IDLE LIST-EXTENDED LIST-STATUS MOVE NAMESPACE "
    b"SASL-IR SEARCHRES SPECIAL-USE STATUS=SIZE UIDPLUS UNSELECT".split()
)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the line depends on beside the registered commands."""

    state: State
    can_start_tls: bool  # a context is there and TLS is not yet on
    may_authenticate: bool  # a password may be sent now
    max_message_bytes: int
    hidden: frozenset[bytes] = frozenset()  # upper case; see presentation.py
    additional: tuple[bytes, ...] = ()
    sieve_url: str = ""  # where scripts for events are put (RFC 6785 §2.1); empty: nowhere, or none run


def has_rev2(table: CommandTable) -> bool:
    return _REV2_NEEDS.issubset({*_BUILT_IN, *table.capabilities})


def capabilities(table: CommandTable, now: Circumstances) -> tuple[bytes, ...]:
    names = [b"IMAP4rev1"]
    if has_rev2(table) and not now.hidden & _REV2_NEEDS:
        names.insert(0, b"IMAP4rev2")
    registered = [name for name in table.capabilities if name != b"STARTTLS"]
    if now.state is State.NOT_AUTHENTICATED:
        if now.can_start_tls and b"STARTTLS" in table.capabilities:
            names.append(b"STARTTLS")
        if not now.may_authenticate:
            names.append(b"LOGINDISABLED")
            registered = [name for name in registered if not name.startswith(b"AUTH=")]
    else:
        registered = [name for name in registered if not name.startswith(b"AUTH=")]
    names += [*_BUILT_IN, *registered, b"APPENDLIMIT=%d" % now.max_message_bytes]
    if now.sieve_url:
        names.append(b"IMAPSIEVE=" + now.sieve_url.encode("ascii"))
    names += now.additional
    return tuple(name for name in dict.fromkeys(names) if not _is_hidden(name.upper(), now.hidden))


def _is_hidden(name: bytes, hidden: frozenset[bytes]) -> bool:
    word, has_value, _ = name.partition(b"=")
    return name in hidden or (bool(has_value) and word in _WITH_VALUE and word in hidden)
