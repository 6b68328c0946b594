"""One step of a key rotation in the whole cluster: every member is asked, the answers are counted."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ..effects import QueryAnswered
from ..errors import PacketRejected
from ..serf.keyqueries import INSTALL, LIST, REMOVE, USE, decode_key_answer
from .records import Record

QUERY_OF_COMMAND: Final = {"install-key": INSTALL, "use-key": USE, "remove-key": REMOVE, "list-keys": LIST}


def parse_key(text: str) -> bytes:
    """Raises ValueError unless it is base64 of 16, 24 or 32 bytes."""
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as fault:
        raise ValueError("a key is base64") from fault
    if len(key) not in (16, 24, 32):
        raise ValueError(f"a key has 16, 24 or 32 bytes, not {len(key)}")
    return key


@dataclass(slots=True)
class KeyReport:
    """``asked``: members that should answer. ``done`` is called once, when all have or it is over."""

    asked: int
    done: Callable[[], None]
    messages: dict[str, str] = field(default_factory=dict)
    keys: Counter[str] = field(default_factory=Counter, repr=False)
    primary: Counter[str] = field(default_factory=Counter, repr=False)
    failures: int = 0
    answers: int = 0

    def hear(self, answer: QueryAnswered) -> None:
        if answer.is_over:
            self.done()
        elif answer.payload is not None:
            self._count(answer.node, answer.payload)
            if self.answers >= self.asked:
                self.done()

    def _count(self, node: str, payload: bytes) -> None:
        self.answers += 1
        try:
            answer = decode_key_answer(payload)
        except PacketRejected as refusal:
            self.failures += 1
            self.messages[node] = str(refusal)
            return
        if not answer.is_done:
            self.failures += 1
        if answer.message:
            self.messages[node] = answer.message
        self.keys.update(answer.keys)
        if answer.primary:
            self.primary[answer.primary] += 1

    def error(self) -> str:
        """What an agent says; "" when all went well."""
        if self.failures:
            return f"{self.failures}/{self.asked} nodes reported failure"
        if self.answers < self.asked:
            return f"{self.answers}/{self.asked} nodes reported success"
        return ""

    def record(self) -> Record:
        return {
            "Messages": self.messages,
            "Keys": dict(self.keys),
            "PrimaryKeys": dict(self.primary),
            "NumNodes": self.asked,
            "NumErr": self.failures,
            "NumResp": self.answers,
        }
