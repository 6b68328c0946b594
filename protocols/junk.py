"""Mail that a spam filter in front has marked, and about which nobody else decides, goes to Junk. Pure.

What users say comes first: an explicit ``keep`` or any other action of a script stands, and one that asks
``spamtest`` has drawn its own line. What is left is the implicit keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from storage.mime.headers import all_values

from .sieve.outcome import FileInto, Keep, Outcome, Rule
from .sieve.spamheaders import SPAM_PERCENT, spam_percent

# What the names have in common that ``spam_percent`` looks for.
_KNOWN: Final = (b"x-spam", b"x-rspamd")
JUNK: Final = FileInto(Rule("spam header", 0), "Junk", create=True, special_use="\\Junk")


class JunkRule:
    """``percent``: what the filter in front calls spam is 50 (``spamheaders``). ``fields``: names and values,
    in lower case, of further fields that mark spam; the value may be followed by other words."""

    def __init__(self, percent: float = SPAM_PERCENT, fields: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._percent = percent
        self._fields = tuple(fields)
        # most mail has none of these, and to learn that costs a microsecond
        self._signs = (*_KNOWN, *(name for name, _ in fields))

    def is_spam(self, header: bytes) -> bool:
        low = header.lower()
        if not any(sign in low for sign in self._signs):
            return False
        percent = spam_percent(header)
        return (percent is not None and percent >= self._percent) or any(
            _begins(value.lower(), wanted)
            for name, wanted in self._fields
            for value in all_values(header, name)
        )


def _begins(value: bytes, wanted: bytes) -> bool:
    """With ``wanted`` as whole words; empty: with anything."""
    rest = value[len(wanted) :]
    return not wanted or (value.startswith(wanted) and not rest[:1].isalnum())


def filed(outcome: Outcome) -> Outcome:
    """With the implicit keep turned into a filing."""
    actions = tuple(
        replace(JUNK, flags=each.flags, message=each.message)
        if isinstance(each, Keep) and each.rule is None
        else each
        for each in outcome.actions
    )
    return replace(outcome, actions=actions)
