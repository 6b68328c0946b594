"""One evaluation under way: what scripts read, what they have decided so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .budget import Budget
from .errors import RunFault
from .fields import Fields
from .outcome import Action, Redirect, Rewritten, Rule, Seen
from .parts import PartEdits, PartView
from .questions import Answers, MessageContent, Question
from .script import IncludeName, Script


@dataclass(frozen=True, slots=True)
class Mail:
    """What is known of the message from the start."""

    header: bytes  # raw, trace fields included
    size_bytes: int
    sender: str = ""  # of the envelope; empty: the null path
    recipient: str = ""  # of the envelope, detail included
    spam_percent: float | None = None  # None: what the header says (``spamheaders``)
    virus_value: int | None = None  # 1 .. 5 (RFC 5235 §2.2); None: what the header says
    flags: tuple[str, ...] = ()  # that it has, for imap4flags
    is_delivery: bool = True  # False: something happened to it in a mailbox (RFC 6785), so no envelope


@dataclass(slots=True)
class Frame:
    """One script under way; included ones have their own variables (RFC 6609 §3.4.1)."""

    name: str
    script: Script
    variables: dict[str, str] = field(default_factory=dict)
    globals: set[str] = field(default_factory=set)
    captures: Sequence[str] = ()


@dataclass(slots=True)
class Run:
    """``library`` holds the scripts that may be included; None where one could not be had."""

    mail: Mail
    answers: Answers
    environment: Mapping[str, str]
    budget: Budget
    now: datetime
    library: Mapping[IncludeName, Script | None]
    fields: Fields
    frames: list[Frame] = field(default_factory=list)
    global_variables: dict[str, str] = field(default_factory=dict)
    included: set[IncludeName] = field(default_factory=set)
    includes: int = 0
    actions: list[Action] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    cancels_keep: bool = False
    flags: tuple[str, ...] = ()
    because: int = 0
    trace: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    parts: list[PartView] = field(default_factory=list)  # of the loops around, innermost last
    edits: PartEdits = field(default_factory=PartEdits)

    def enter(self, name: str, script: Script) -> Frame:
        """An included script; give what this returns to ``leave``."""
        frame = Frame(name, script)
        self.frames.append(frame)
        return frame

    def leave(self, frame: Frame) -> None:
        while self.frames.pop() is not frame:
            pass

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    def ask(self, question: Question) -> Any:
        """Raises Unanswered."""
        return self.answers(question)

    def content(self) -> tuple[Any, Any]:
        """Octets and part tree of the message. Raises Unanswered."""
        data, root = self.answers(MessageContent())
        return data, root

    # --- actions ---

    def rule(self, line: int) -> Rule:
        return Rule(self.frame.name, line, self.because)

    def act(self, action: Action, *, keeps: bool = False) -> None:
        """``keeps``: the implicit keep stays as it is. Raises RunFault when there are too many."""
        limits = self.budget.limits
        if len(self.actions) >= limits.actions:
            raise RunFault(f"more than {limits.actions} actions")
        self.actions.append(action)
        if isinstance(action, Redirect):
            redirects = sum(isinstance(each, Redirect) for each in self.actions)
            if redirects > limits.redirects:
                raise RunFault(f"more than {limits.redirects} redirects")
        self.cancels_keep = self.cancels_keep or not keeps

    def tell(self, line: int, text: str) -> None:
        """A line of the trace, if one is wanted."""
        if self.trace is not None and len(self.trace) < 10_000:
            self.trace.append(f"{self.frame.name}:{line}: {text}")

    def rewritten(self) -> Rewritten | None:
        """The message as scripts have changed it, None when they have not."""
        body = self.edits.body
        if body is None and not self.fields.is_changed:
            return None
        header = self.fields.render()
        self.budget.hold(len(header) + len(body or b""))
        return Rewritten(header, body)

    # --- variables ---

    def variable(self, name: str) -> str:
        """Unknown ones are empty (RFC 5229 §3)."""
        frame = self.frame
        if name[0].isdigit():
            number = int(name)
            return frame.captures[number] if number < len(frame.captures) else ""
        if name.startswith("global."):
            return self.global_variables.get(name[7:], "")
        if name in frame.globals:
            return self.global_variables.get(name, "")
        return frame.variables.get(name, "")

    def set_variable(self, name: str, value: str) -> None:
        """Raises RunFault when there are too many."""
        limits, frame = self.budget.limits, self.frame
        name = name.lower()
        if name.startswith("global."):
            table, name = self.global_variables, name[7:]
        else:
            table = self.global_variables if name in frame.globals else frame.variables
        if name not in table and len(table) >= limits.variables:
            raise RunFault(f"more than {limits.variables} variables")
        value = value[: limits.value_chars]
        self.budget.hold(len(value))
        table[name] = value

    def capture(self, texts: Sequence[str]) -> None:
        """What a successful :matches or :regex found (RFC 5229 §3.2)."""
        self.budget.hold(sum(map(len, texts)))
        self.frame.captures = [text[: self.budget.limits.value_chars] for text in texts]
