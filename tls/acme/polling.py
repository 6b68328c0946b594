"""How often a CA is asked whether it has come to a decision. In a worker thread."""

from __future__ import annotations

from collections.abc import Iterator

import requests

from .client import retry_after_s
from .thread import Talk

FIRST_S, FACTOR, LONGEST_S = 0.1, 1.6, 3.0


def pauses() -> Iterator[float]:
    """Without end: the talk has one."""
    pause_s = FIRST_S
    while True:
        yield pause_s
        pause_s = min(pause_s * FACTOR, LONGEST_S)


def pause(talk: Talk, response: requests.Response, pause_s: float) -> None:
    """As long as the CA asks for, else ``pause_s``; never past the end of the talk."""
    asked = retry_after_s(response)
    talk.pause(pause_s if asked is None else max(asked, FIRST_S))
