"""``sora-admin relay``: mail on its way to other systems."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from node.control import ControlUnusable
from node.relaylook import count_messages, list_messages, show_message
from node.units import format_duration
from storage.errors import Corrupt, NotFound, NotPermitted, StorageError
from storage.relayadopt import Adoption
from storage.relaylayout import FAILED, PENDING, STATES
from storage.relayqueue import RelayQueue, SpoolTaken

from .access import Access, read_config, with_access
from .failure import EXIT_CODES, NOT_FOUND, UNAVAILABLE, USAGE, Failure
from .live import ANSWERS_WITHIN_S, ask_within
from .output import fields, show_size, show_time, table

ADOPTS_WITHIN_S: Final = 3600.0
COUNTS_WITHIN_S: Final = 60.0


@click.group(epilog="\b\nExample:\n  sora-admin relay list --state failed\n\n" + EXIT_CODES)
def relay() -> None:
    """Mail on its way to other systems: redirects, replies, reports.

    All of these also work on the files of a queue whose node does not run.
    """


@relay.command(
    "list", epilog="\b\nExamples:\n  sora-admin relay list\n  sora-admin relay list --state failed --json"
)
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(0, 10_000), help="At most.")
@with_access
def list_command(access: Access, state: str | None, limit: int) -> None:
    """Messages of the queue: what is due first, what is under way, what failed."""
    found = _look(
        access,
        "relay.list",
        lambda queue: list_messages(queue, state, limit),
        {"limit": limit} | ({"state": state} if state else {}),
    )
    headings = ("ID", "STATE", "KIND", "FROM", "TO", "SIZE", "TRIED", "DUE", "LAST REPLY")
    rows = [_row(each, time.time()) for each in found["messages"]]
    text = table(headings, rows) if rows else "nothing is queued"
    if found["total"] > len(rows):
        text += f"\n... and {found['total'] - len(rows)} more"
    if found["strays"]["count"]:
        text += f"\nno messages and left alone: {_strays(found['strays'])}"
    access.answer(found["messages"], text)


@relay.command(epilog="\b\nExample:\n  sora-admin relay show 19aa8f0c1d2-5f3a9c01")
@click.argument("message_id", metavar="ID")
@with_access
def show(access: Access, message_id: str) -> None:
    """What is known of one message: each recipient with the relay's last word, and its header."""
    found = _look(access, "relay.show", lambda queue: show_message(queue, message_id), {"id": message_id})
    pairs = {
        "id": found["id"],
        "state": found["state"],
        "kind": found["kind"],
        "from": f"<{found['from']}>",
        "size": show_size(found["size_bytes"]),
        "queued": _time(found["created"]),
        "due": _time(found["due"]),
        "attempts": found["attempts"],
        "last attempt": _time(found["last_attempt"]),
    }
    rows = [(each["recipient"], each["fate"], each["status"], each["reply"]) for each in found["verdicts"]]
    parts = [fields(pairs), table(("RECIPIENT", "FATE", "STATUS", "REPLY"), rows), found["header"].strip()]
    access.answer(found, "\n\n".join(parts))


@relay.command(
    epilog="\b\nExamples:\n  sora-admin relay retry 19aa8f0c1d2-5f3a9c01\n"
    "  sora-admin relay retry --all-failed"
)
@click.argument("message_id", metavar="ID", required=False)
@click.option("--all-failed", is_flag=True, help="Everything that failed.")
@with_access
def retry(access: Access, message_id: str | None, all_failed: bool) -> None:
    """Try a message again now. One that failed gets all its attempts once more, for the recipients that did
    not get it."""
    answer = _change(access, "retry", "retried", _which(message_id, all_failed))
    access.answer(answer["retried"], _lines(answer["retried"], "is due now", "nothing has failed"))


@relay.command(
    epilog="\b\nExamples:\n  sora-admin relay delete 19aa8f0c1d2-5f3a9c01\n"
    "  sora-admin relay delete --all-failed"
)
@click.argument("message_id", metavar="ID", required=False)
@click.option("--all-failed", is_flag=True, help="Everything that failed.")
@with_access
def delete(access: Access, message_id: str | None, all_failed: bool) -> None:
    """Remove a message from the queue. Its sender is not told."""
    answer = _change(access, "delete", "deleted", _which(message_id, all_failed))
    access.answer(answer["deleted"], _lines(answer["deleted"], "is deleted", "nothing has failed"))


@relay.command(epilog="\b\nExample:\n  sora-admin relay stats --json")
@with_access
def stats(access: Access) -> None:
    """Numbers of the queue, and whether the relay is in use."""
    found = _look(access, "relay.stats", count_messages, {}, COUNTS_WITHIN_S)
    pairs: dict[str, object] = {state: found[state] for state in STATES}
    pairs |= {
        "size": show_size(found["size_bytes"]),
        "oldest": _time(found["oldest"]) or "none",
        "overdue for": format_duration(float(int(found["overdue_s"]))),
        "kinds": ", ".join(f"{kind} {count}" for kind, count in sorted(found["kinds"].items())) or "none",
        "directory": found["path"],
    }
    if "breaker" in found:
        again = f", tried again in {found['tried_again_in_s']:.0f} s" if found["tried_again_in_s"] else ""
        pairs["relay"] = _RELAY_WORDS[found["breaker"]] + again
        pairs["last failure"] = found["last_failure"] or "none"
    if found["adoption_unfinished"]:
        pairs["unfinished adoption"] = f"{found['adoption_unfinished']} messages: adopt the directory again"
    if found["strays"]["count"]:
        pairs["no messages"] = f"{_strays(found['strays'])}: left alone, move them away"
    access.answer(found, fields(pairs))


@relay.command(epilog="\b\nExample:\n  sora-admin relay adopt /mnt/old-node/var/spool/sora/relay")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@with_access
def adopt(access: Access, directory: Path) -> None:
    """Take over the messages in DIRECTORY, the relay queue of a node that is gone.

    Its files are moved into the queue of the node here, whose user needs the right to write DIRECTORY. When
    the node is stopped, say it as root. A node that still uses DIRECTORY keeps it. When adopting is
    interrupted, say the same again.
    """
    directory = directory.resolve()

    def act(queue: RelayQueue) -> dict[str, int]:
        with queue.held():
            adopted = Adoption(queue, directory).run()
        return {"pending": adopted.pending, "failed": adopted.failed}

    answer = _look(access, "relay.adopt", act, {"directory": str(directory)}, ADOPTS_WITHIN_S)
    access.answer(answer, f"adopted: {answer['pending']} to be relayed, {answer['failed']} failed ones")


_RELAY_WORDS: Final = {"closed": "in use", "trying": "being tried again", "open": "left alone after failures"}


def _change(access: Access, verb: str, done: str, arguments: Mapping[str, object]) -> Any:
    """``done`` names what the answer lists. Raises Failure."""

    def act(queue: RelayQueue) -> dict[str, list[str]]:
        with queue.held():
            ids = queue.ids(FAILED) if "all" in arguments else [str(arguments["id"])]
            for each in ids:
                queue.retry(each) if verb == "retry" else queue.delete(each)
        return {done: ids}

    return _look(access, f"relay.{verb}", act, arguments, ADOPTS_WITHIN_S)


def _look(
    access: Access,
    command: str,
    offline: Callable[[RelayQueue], Any],
    arguments: Mapping[str, object],
    within_s: float = ANSWERS_WITHIN_S,
) -> Any:
    """Ask the node; when none answers, its files. Raises Failure."""
    try:
        return ask_within(access, within_s, command, arguments)
    except Failure as failure:
        if not isinstance(failure.__cause__, ControlUnusable):
            raise
    root = Path(read_config(access.config).relay_queue.path)
    if not (root / PENDING).is_dir():
        raise Failure(f"no node answers, and there is no relay queue in {root} (relay_queue.path)", NOT_FOUND)
    click.echo(f"no node answers: this is about the files in {root}", err=True)
    try:
        return offline(RelayQueue(root, time.time))
    except (NotFound, Corrupt) as error:
        raise Failure(str(error), NOT_FOUND) from error
    except NotPermitted as error:
        raise Failure(str(error), USAGE) from error
    except (StorageError, SpoolTaken) as error:
        raise Failure(str(error), UNAVAILABLE) from error


def _which(message_id: str | None, all_failed: bool) -> dict[str, object]:
    if (message_id is None) != all_failed:
        raise click.UsageError("name one ID, or say --all-failed")
    return {"all": True} if all_failed else {"id": message_id}


def _lines(ids: list[str], what: str, nothing: str) -> str:
    return "\n".join(f"{each} {what}" for each in ids) or nothing


def _strays(found: dict[str, Any]) -> str:
    more = found["count"] - len(found["paths"])
    return ", ".join(found["paths"]) + (f" and {more} more" if more else "")


def _row(message: dict[str, Any], now: float) -> tuple[object, ...]:
    if message["state"] == "damaged":
        return (message["id"], "damaged", "", "", "", "", "", "", message["error"])
    due = ""
    if message["due"] is not None:
        left_s = round(message["due"] - now)
        due = f"in {format_duration(float(left_s))}" if left_s > 0 else "now"
    opened = f"{message['open']} of {message['recipients']}"
    return (
        message["id"],
        message["state"],
        message["kind"],
        f"<{message['from']}>",
        opened,
        show_size(message["size_bytes"]),
        message["attempts"],
        due,
        message["last_reply"][:60],
    )


def _time(stamp: float | None) -> str:
    return "" if stamp is None else show_time(datetime.fromtimestamp(stamp, UTC))
