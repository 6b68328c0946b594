"""One message of the relay queue as one file: who it is for, the message, and what became of it so far.

Layout: a line of JSON (the envelope, which never changes), ``size`` octets of message, then one line for each
record, ``CRC32 JSON``. So a change of state is an append and a rename; there are no pairs of files that could
part. A last line that a crash tore is recognised by its checksum and does not count.
"""

from __future__ import annotations

import enum
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .dsn import NO_REQUEST, DsnRequest, plain_request, request_from
from .errors import Corrupt

VERSION: Final = 1
MAX_HEAD_BYTES: Final = 1024 * 1024  # 1,000 recipients of 320 characters, escaped
MAX_TAIL_BYTES: Final = 16 * 1024 * 1024
_FIRST_READ: Final = 4096


class Fate(enum.Enum):
    """What the remote said of one recipient."""

    TAKEN = "taken"
    REFUSED = "refused"  # for good
    DEFERRED = "deferred"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one recipient, at one attempt. ``status`` is an RFC 3463 code, ``reply`` what the remote said (or
    what went wrong here), ``remote`` who said it. ``has_dsn``: the remote took over what the sender wants to
    be told (RFC 3461)."""

    fate: Fate
    status: str
    reply: str
    remote: str = ""
    has_dsn: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """The message waits for a release until ``until`` (seconds since 1970, whole ones: some file systems keep
    no others), which makes it due earlier. Whoever finds it due later asks whether it goes
    (``storage.sending.HandoverLog``), by its id, under ``key``."""

    key: bytes
    until: float


@dataclass(frozen=True, slots=True)
class RelayEnvelope:
    id: str
    sender: str  # empty: the null path
    recipients: tuple[str, ...]
    kind: str
    account: int | None
    created_at: float  # seconds since 1970
    size_bytes: int
    dsn: DsnRequest = NO_REQUEST
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened. ``verdicts`` are by position in ``RelayEnvelope.recipients``."""

    at: float
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    is_attempt: bool = False
    told: frozenset[int] = frozenset()  # of whom the sender knows, or may not be told
    is_reset: bool = False  # an operator wants it tried again: refusals and attempts do not count


@dataclass(slots=True)
class Progress:
    """All records of a file, folded."""

    attempts: int = 0
    last_attempt_at: float = 0.0
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    refused_at: float = 0.0  # when the last recipient was refused

    def fold(self, record: Record) -> None:
        if record.is_reset:
            taken = {at: each for at, each in self.verdicts.items() if each.fate is Fate.TAKEN}
            self.attempts, self.told, self.verdicts = 0, self.told & taken.keys(), taken
        self.verdicts.update(record.verdicts)
        self.attempts += record.is_attempt
        self.told |= record.told
        if record.is_attempt:
            self.last_attempt_at = record.at
        if any(each.fate is Fate.REFUSED for each in record.verdicts.values()):
            self.refused_at = record.at

    def with_fate(self, fate: Fate) -> list[int]:
        return sorted(at for at, each in self.verdicts.items() if each.fate is fate)


@dataclass(slots=True)
class RelayMessage:
    """A queue file that has been read, without the message itself."""

    envelope: RelayEnvelope
    body_at: int
    tail_at: int  # where the next record goes; what a crash tore begins here
    progress: Progress
    due_at: float = 0.0  # seconds since 1970, as the file says

    @property
    def unreleased(self) -> Hold | None:
        """Its hold, when that ended by itself, or a copy of the queue has lost the times of its files; and
        when it was released later than that, where asking again does no harm."""
        hold, progress = self.envelope.hold, self.progress
        if hold is None or self.due_at < hold.until or progress.attempts or progress.verdicts:
            return None
        return hold

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def open_positions(self) -> list[int]:
        """Recipients that are neither taken nor refused."""
        verdicts = self.progress.verdicts
        return [
            at
            for at in range(len(self.envelope.recipients))
            if at not in verdicts or verdicts[at].fate is Fate.DEFERRED
        ]


# --- encoding ----------------------------------------------------------------------------------------


def encode_head(envelope: RelayEnvelope) -> bytes:
    plain: dict[str, Any] = {
        "v": VERSION,
        "id": envelope.id,
        "from": envelope.sender,
        "to": envelope.recipients,
        "kind": envelope.kind,
        "account": envelope.account,
        "created": envelope.created_at,
        "size": envelope.size_bytes,
    }
    if envelope.dsn:  # a version that does not know of it relays the message without
        plain["dsn"] = plain_request(envelope.dsn)
    if envelope.hold is not None:
        plain["hold"] = [envelope.hold.key.hex(), envelope.hold.until]
    return json.dumps(plain).encode() + b"\n"


def parse_head(line: bytes) -> RelayEnvelope:
    """Raises Corrupt."""
    try:
        plain = json.loads(line)
        if plain["v"] != VERSION:
            raise Corrupt(f"relay file of version {plain['v']}")
        envelope = RelayEnvelope(
            str(plain["id"]),
            str(plain["from"]),
            tuple(str(each) for each in plain["to"]),
            str(plain["kind"]),
            None if plain["account"] is None else int(plain["account"]),
            float(plain["created"]),
            int(plain["size"]),
            request_from(plain["dsn"]) if "dsn" in plain else NO_REQUEST,
            _hold_from(*plain["hold"]) if "hold" in plain else None,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt("the first line of a relay file cannot be read") from error
    if not envelope.recipients or envelope.size_bytes < 0:
        raise Corrupt("a relay file without recipients")
    if len(envelope.dsn.recipients) not in (0, len(envelope.recipients)):
        raise Corrupt("a relay file with wishes of other recipients")
    return envelope


def _hold_from(key: str, until: float) -> Hold:
    return Hold(bytes.fromhex(key), float(until))


def encode_record(record: Record) -> bytes:
    plain: dict[str, Any] = {"at": record.at}
    if record.verdicts:
        plain["verdicts"] = {
            str(at): [each.fate.value, each.status, each.reply, each.remote]
            for at, each in record.verdicts.items()
        }
    with_dsn = sorted(at for at, each in record.verdicts.items() if each.has_dsn)
    if with_dsn:  # beside the verdicts, whose form other versions read, too
        plain["dsn"] = with_dsn
    if record.told:
        plain["told"] = sorted(record.told)
    flags = {"attempt": record.is_attempt, "reset": record.is_reset}
    plain.update({name: True for name, is_set in flags.items() if is_set})
    raw = json.dumps(plain).encode()
    return b"%08x %s\n" % (zlib.crc32(raw), raw)


def parse_record(line: bytes) -> Record | None:
    """None: the line is torn, or not ours."""
    checksum, _, raw = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(raw):
            return None
        plain = json.loads(raw)
        with_dsn = frozenset(plain.get("dsn", ()))
        verdicts = {
            int(at): Verdict(Fate(fate), status, reply, remote, int(at) in with_dsn)
            for at, (fate, status, reply, remote) in plain.get("verdicts", {}).items()
        }
        return Record(
            float(plain["at"]),
            verdicts,
            is_attempt="attempt" in plain,
            told=frozenset(map(int, plain.get("told", ()))),
            is_reset="reset" in plain,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_message(fd: int) -> RelayMessage:
    """Envelope and progress of an open file; the message is not read. Raises Corrupt, OSError."""
    raw = os.pread(fd, _FIRST_READ, 0)
    if b"\n" not in raw and len(raw) == _FIRST_READ:
        raw = os.pread(fd, MAX_HEAD_BYTES, 0)
    line, newline, _ = raw.partition(b"\n")
    if not newline:
        raise Corrupt("a relay file without its first line")
    envelope = parse_head(line)
    body_at = len(line) + 1
    tail_at = body_at + envelope.size_bytes
    found = os.fstat(fd)
    if found.st_size < tail_at:
        raise Corrupt("a relay file is cut short")
    progress, used = fold_tail(os.pread(fd, min(found.st_size - tail_at, MAX_TAIL_BYTES), tail_at))
    return RelayMessage(envelope, body_at, tail_at + used, progress, found.st_mtime)


def fold_tail(raw: bytes) -> tuple[Progress, int]:
    """The progress, and how many octets of whole records there are."""
    progress, used = Progress(), 0
    while (end := raw.find(b"\n", used)) >= 0:
        record = parse_record(raw[used:end])
        if record is None:
            break
        progress.fold(record)
        used = end + 1
    return progress, used


def read_body(fd: int, message: RelayMessage, limit_bytes: int | None = None) -> bytes:
    """Raises Corrupt, OSError."""
    size = message.envelope.size_bytes
    if limit_bytes is not None:
        size = min(size, limit_bytes)
    pieces: list[bytes] = []
    done = 0
    while done < size:
        piece = os.pread(fd, size - done, message.body_at + done)
        if not piece:
            raise Corrupt("a relay file is cut short")
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)


def joined_size(message: bytes | Sequence[bytes]) -> tuple[Sequence[bytes], int]:
    pieces = (message,) if isinstance(message, bytes) else message
    return pieces, sum(map(len, pieces))
