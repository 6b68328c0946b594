"""A script tried out on a message, without a node: what would happen, and which lines decided it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from protocols.filtering import inapplicable
from protocols.messageevents import Cause
from protocols.sending.answering import Question, is_automatic, why_no_answer
from protocols.sending.occasion import Occasion
from protocols.sieve.budget import Limits
from protocols.sieve.compiling import compile
from protocols.sieve.errors import ScriptErrors
from protocols.sieve.fields import Fields
from protocols.sieve.interpreter import Named, evaluate
from protocols.sieve.outcome import Action, FileInto, Keep, Notify, Outcome, Redirect, Reject, Vacation
from protocols.sieve.questions import MailboxExists, MessageContent
from protocols.sieve.questions import Question as Asked
from protocols.sieve.run import Mail
from protocols.sieve.script import IncludeName, Script
from storage.addresses import split_detail
from storage.mime.headers import split_header
from storage.mime.structure import scan
from storage.model import INBOX, AccountId
from storage.names import canonical

from .sieve import SUFFIX


@dataclass(frozen=True, slots=True)
class Trial:
    """``mailboxes``: those that exist beside the INBOX; ``includes``: where included scripts lie."""

    name: str
    script: Script
    message: bytes
    sender: str = ""
    recipient: str = ""
    mailboxes: frozenset[str] = frozenset()
    includes: Path | None = None
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What a user did to the message, in place of a delivery (RFC 6785)."""

    cause: Cause
    mailbox: str = INBOX
    flags: tuple[str, ...] = ()  # as they are afterwards
    changed: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        return {
            "location": "MS",
            "phase": "post",
            "imap.cause": self.cause.value,
            "imap.mailbox": self.mailbox,
            "imap.changedflags": " ".join(self.changed),
        }


@dataclass(frozen=True, slots=True)
class Told:
    outcome: Outcome

    def lines(self, *, trace: bool) -> list[str]:
        found = list(self.outcome.trace) if trace else []
        if self.outcome.fault:
            found.append(f"the script fails, the message is kept: {self.outcome.fault}")
        found += [f"{describe(action)}{_where(action)}" for action in self.outcome.actions]
        return [*found, *self.outcome.notes]

    def data(self, *, trace: bool) -> dict[str, Any]:
        told: dict[str, Any] = {
            "actions": [_data(action) for action in self.outcome.actions],
            "fault": self.outcome.fault,
            "notes": list(self.outcome.notes),
            "steps": self.outcome.steps,
        }
        return told | ({"trace": list(self.outcome.trace)} if trace else {})


def try_script(trial: Trial, *, now: datetime, clock: Callable[[], float]) -> Told:
    header = trial.message[: split_header(trial.message)]
    found = Fields(header)
    mail = Mail(
        header,
        len(trial.message),
        trial.sender or _first(found, "return-path", "sender", "from"),
        trial.recipient or _first(found, "delivered-to", "to"),
        flags=trial.event.flags if trial.event else (),
        is_delivery=trial.event is None,
    )
    library = _library(trial)
    if trial.event is not None and (trouble := inapplicable(trial.script, library)):
        return Told(Outcome((Keep(None, mail.flags),), fault=trouble))

    def answer(question: Asked) -> Any:
        if isinstance(question, MessageContent):
            return trial.message, scan(trial.message)
        if isinstance(question, MailboxExists):
            name = canonical(question.mailbox)
            return name == "INBOX" or name in trial.mailboxes
        return _ABSENT.get(type(question).__name__, False)

    outcome = evaluate(
        [Named(trial.name, trial.script)],
        mail,
        answer,
        now=now,
        clock=clock,
        limits=Limits(),
        environment={
            "name": "Sora",
            **(trial.event.environment() if trial.event else {"location": "MDA", "phase": "during"}),
        },
        library=library,
        wants_trace=True,
    )
    return Told(replace(outcome, notes=(*outcome.notes, *_of_sending(mail, now, outcome))))


def _of_sending(mail: Mail, now: datetime, outcome: Outcome) -> list[str]:
    """Why an answer or a notification would not be sent."""
    own = frozenset({split_detail(mail.recipient.lower())[0]})
    occasion = Occasion(
        account_id=AccountId(0),
        primary_address=mail.recipient,
        own_addresses=own,
        sender=mail.sender,
        recipient=mail.recipient,
        trace=b"",
        header=mail.header,
        structure=b"",
        data=b"",
        size_bytes=mail.size_bytes,
        delivery_key=b"",
        received_at=now,
        hostname="",
    )
    notes = []
    if not mail.is_delivery and not any(isinstance(action, Keep) for action in outcome.actions):
        notes.append("the message itself gets \\Deleted")
    for action in outcome.actions:
        if isinstance(action, Vacation) and (why := why_no_answer(Question(occasion, action))):
            notes.append(f"no answer goes: {why}")
        if isinstance(action, Notify) and is_automatic(Fields(mail.header)):
            notes.append("no notification goes: the message was sent automatically")
    return notes


# What is not there in a trial is answered with nothing, and with no otherwise.
_ABSENT = {"Metadata": None}


def _first(fields_: Fields, *names: str) -> str:
    return next((box.address for name in names for box in fields_.addresses(name)), "")


def _library(trial: Trial) -> dict[IncludeName, Script | None]:
    library: dict[IncludeName, Script | None] = {}
    wanted = list(trial.script.includes)
    while wanted:
        name = wanted.pop()
        if name in library:
            continue
        path = trial.includes / f"{Path(name.name).name}{SUFFIX}" if trial.includes else None
        found = compile(path.read_bytes()) if path is not None and path.is_file() else None
        script = None if isinstance(found, ScriptErrors) else found
        library[name] = script
        wanted += script.includes if script else ()
    return library


def describe(action: Action) -> str:
    """In a few words."""
    changed = ", changed" if getattr(action, "message", None) is not None else ""
    if isinstance(action, Keep):
        return ("keep" if action.rule else "keep (implicit)") + _flagged(action.flags) + changed
    if isinstance(action, FileInto):
        return f'file into "{action.mailbox}"{_place(action)}{_flagged(action.flags)}{changed}'
    if isinstance(action, Redirect):
        return f"redirect to {action.address or 'the list ' + action.list_name}{changed}"
    if isinstance(action, Reject):
        return f"reject: {' '.join(action.reason.split())}"
    if isinstance(action, Vacation):
        return f"answer (at most every {action.period_s} s): {' '.join(action.reason.split())}"
    if isinstance(action, Notify):
        return f"notify {action.method}"
    return "discard"


def _flagged(flags: tuple[str, ...]) -> str:
    return f" with {' '.join(flags)}" if flags else ""


def _place(action: FileInto) -> str:
    found = [f"id {action.mailbox_id}"] if action.mailbox_id else []
    found += [action.special_use] if action.special_use else []
    found += ["created if need be"] if action.create else []
    return f" ({', '.join(found)})" if found else ""


def _where(action: Action) -> str:
    if action.rule is None:
        return ""
    because = f", because of line {action.rule.because}" if action.rule.because else ""
    return f"  [{action.rule.script} line {action.rule.line}{because}]"


def _data(action: Action) -> dict[str, Any]:
    told: dict[str, Any] = {"action": type(action).__name__.lower(), "text": describe(action)}
    for field in fields(action):
        value = getattr(action, field.name)
        if field.name == "rule":
            told["script"] = value.script if value else None
            told["line"] = value.line if value else None
            told["because_line"] = (value.because or None) if value else None
        elif field.name == "message":
            told["changed"] = value is not None
        elif field.name == "copy":
            told["copy"] = value.mailbox if value else None
        else:
            told[field.name] = list(value) if isinstance(value, tuple) else value
    return told
