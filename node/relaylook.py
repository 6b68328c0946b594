"""What the relay queue has to tell operators, for the running node and for a look at its files without
one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from storage.errors import Corrupt, NotFound, Unavailable
from storage.mime.headers import split_header
from storage.relayadopt import interrupted
from storage.relayfile import RelayMessage
from storage.relaylayout import STATES, Strays, find_strays
from storage.relayqueue import RelayQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_SHOWN_BYTES: Final = 16 * 1024


def list_messages(queue: RelayQueue, state: str | None, limit: int) -> dict[str, Any]:
    """The first ``limit``: of pending what is due first, of the others what is oldest; and strays. Blocks.

    Raises Unavailable.
    """
    found: list[dict[str, Any]] = []
    total = 0
    for each in STATES if state is None else (state,):
        ids = queue.ids(each)
        total += len(ids)
        found += _rows(queue, ids[: max(0, limit - len(found))])
    return {"total": total, "messages": found, "strays": _plain_strays(find_strays(queue.root))}


def _rows(queue: RelayQueue, ids: list[str]) -> Iterator[dict[str, Any]]:
    for message_id in ids:
        try:
            state, at, message = queue.look(message_id)
        except NotFound:
            continue  # gone meanwhile
        except (Corrupt, Unavailable) as error:
            yield {"id": message_id, "state": "damaged", "error": str(error)}
            continue
        yield plain(state, at, message)


def plain(state: str, at: float, message: RelayMessage) -> dict[str, Any]:
    envelope, progress = message.envelope, message.progress
    replies = [progress.verdicts[each].reply for each in sorted(progress.verdicts)]
    return {
        "id": message.id,
        "state": state,
        "kind": envelope.kind,
        "from": envelope.sender,
        "recipients": len(envelope.recipients),
        "open": len(message.open_positions),
        "size_bytes": envelope.size_bytes,
        "account": envelope.account,
        "created": envelope.created_at,
        "due": at if state == "pending" else None,
        "attempts": progress.attempts,
        "last_reply": replies[-1] if replies else "",
    }


def _plain_strays(strays: Strays) -> dict[str, Any]:
    return {"count": strays.count, "paths": list(strays.paths)}


def show_message(queue: RelayQueue, message_id: str) -> dict[str, Any]:
    """Everything that is known, with the header of the message. Blocks.

    Raises NotFound, Corrupt, Unavailable.
    """
    state, at, message = queue.look(message_id)
    head = queue.body(message, state, HEAD_SHOWN_BYTES)
    header = head[: split_header(head)].rstrip()
    verdicts = message.progress.verdicts
    rows = []
    for position, address in enumerate(message.envelope.recipients):
        verdict = verdicts.get(position)
        rows.append(
            {
                "recipient": address,
                "fate": "open" if verdict is None else verdict.fate.value,
                "status": "" if verdict is None else verdict.status,
                "reply": "" if verdict is None else verdict.reply,
                "reported": position in message.progress.told,
            }
        )
    return {
        **plain(state, at, message),
        "last_attempt": message.progress.last_attempt_at or None,
        "verdicts": rows,
        "header": header.decode("utf-8", "replace"),
    }


def count_messages(queue: RelayQueue) -> dict[str, Any]:
    """Numbers of the whole queue; opens every file, some 20 us each. Blocks. Raises Unavailable."""
    depths = queue.depths()
    kinds: Counter[str] = Counter()
    size_bytes, oldest = 0, None
    for state in STATES[:2]:
        for message_id in queue.ids(state):
            try:
                _, _, message = queue.look(message_id)
            except (NotFound, Corrupt, Unavailable):
                continue  # the others are to be counted all the same
            envelope = message.envelope
            kinds[envelope.kind] += 1
            size_bytes += envelope.size_bytes
            oldest = envelope.created_at if oldest is None else min(oldest, envelope.created_at)
    return {
        "pending": depths.pending,
        "processing": depths.processing,
        "failed": depths.failed,
        "overdue_s": round(depths.overdue_s, 3),
        "oldest": oldest,
        "size_bytes": size_bytes,
        "kinds": dict(kinds),
        "adoption_unfinished": interrupted(queue),
        "strays": _plain_strays(find_strays(queue.root)),
        "path": str(queue.root),
    }
