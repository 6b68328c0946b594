"""What can be wrong with a script: while it is read, and while it runs."""

from __future__ import annotations

from dataclasses import dataclass

# A user reads a few and mends them; a file that is no script must not make thousands.
MAX_ERRORS = 20


@dataclass(frozen=True, slots=True)
class ScriptError:
    """One mistake in the text of a script. Lines and columns (in characters) count from 1."""

    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.text}"


@dataclass(frozen=True, slots=True)
class ScriptErrors:
    """A script that does not compile. At least one error, at most MAX_ERRORS, in the order of the text."""

    errors: tuple[ScriptError, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


class BadScript(Exception):
    """Inside the compiler: a mistake at an offset of the text."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(text)
        self.offset = offset
        self.text = text


class Misplaced(BadScript):
    """A command that cannot stand where it does, whatever extensions there are: ``ihave`` excuses it not."""


class RunFault(Exception):
    """The script went wrong while it ran: implicit keep (RFC 5228 §2.10.6). The message is for its owner.

    ``line``: None until it is known, 0 where the text says it.
    """

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.line = line

    def at(self, line: int) -> None:
        """The innermost command counts."""
        if self.line is None:
            self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class OverBudget(RunFault):
    """Too many steps, too much time or memory."""
