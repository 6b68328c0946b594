"""Guesses what a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# difflib is quadratic; no word of ours is near this long.
MAX_WORD = 64


def nearest(word: str, words: Iterable[str]) -> str:
    """The word meant, or ``""``."""
    known = {each.lower(): each for each in words}
    found = difflib.get_close_matches(word[:MAX_WORD].lower(), sorted(known), n=1, cutoff=0.7)
    return known[found[0]] if found else ""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    guess = nearest(word, words)
    return f'did you mean "{guess}"?' if guess else ""
