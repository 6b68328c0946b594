"""The text of a script: from octets to characters, and from offsets to lines and columns."""

from __future__ import annotations

from bisect import bisect_right

from .errors import BadScript, ScriptError


class Source:
    """Raises BadScript for octets that are no script text (RFC 5228 §2.1)."""

    def __init__(self, script: bytes) -> None:
        self._starts: list[int] | None = None
        try:
            self.text = script.decode("utf-8")
        except UnicodeDecodeError as error:
            self.text = script[: error.start].decode("utf-8")
            raise BadScript(len(self.text), "the script is not valid UTF-8") from None
        nul = self.text.find("\0")
        if nul >= 0:
            raise BadScript(nul, "NUL may not occur in a script")

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column from 1."""
        if self._starts is None:
            starts, at = [0], self.text.find("\n")
            while at >= 0:
                starts.append(at + 1)
                at = self.text.find("\n", at + 1)
            self._starts = starts
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def error(self, mistake: BadScript) -> ScriptError:
        return ScriptError(*self.position(mistake.offset), mistake.text)


def misread(script: bytes, mistake: BadScript) -> ScriptError:
    """The place of a mistake in octets that are no text."""
    readable = script.decode("utf-8", "replace")[: mistake.offset]
    line = readable.count("\n") + 1
    return ScriptError(line, mistake.offset - (readable.rfind("\n") + 1) + 1, mistake.text)
