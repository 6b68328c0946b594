"""Compiled Sieve scripts by their text, whose hash the text itself keeps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from .sieve.compiling import compile
from .sieve.errors import ScriptErrors
from .sieve.script import Script

MAX_SCRIPTS = 1_000
# Of text; compiled it is some 20 times as much.
MAX_TEXT_BYTES = 8 * 1024 * 1024


class ScriptCache:
    """Least recently used go first. ``extensions``: names that scripts may require, None: all."""

    def __init__(
        self,
        extensions: Collection[str] | None = None,
        *,
        max_scripts: int = MAX_SCRIPTS,
        max_text_bytes: int = MAX_TEXT_BYTES,
    ) -> None:
        self._extensions = extensions
        self._max_scripts = max_scripts
        self._max_text_bytes = max_text_bytes
        self._text_bytes = 0
        self._found: OrderedDict[bytes, tuple[int, Script | ScriptErrors]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, content: bytes) -> Script | ScriptErrors:
        """Compiled now when it is not known; 10 us a KiB and more."""
        entry = self._found.get(content)
        if entry is None:
            entry = self._found[content] = (len(content), compile(content, extensions=self._extensions))
            self._text_bytes += len(content)
            while self._text_bytes > self._max_text_bytes or len(self._found) > self._max_scripts:
                _, (size, _) = self._found.popitem(last=False)
                self._text_bytes -= size
        else:
            self._found.move_to_end(content)
        return entry[1]
