"""Orders' challenges, given to the node's challenge server."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from node.challengepart import ChallengePart

EXPECTED_S: Final = 900.0  # an order, with the pauses of a CA that is slow


class PortAnswers:
    """``is_stateless``: answers may be made from the account's key alone."""

    def __init__(self, part: ChallengePart, *, is_stateless: bool) -> None:
        self._part = part
        self._is_stateless = is_stateless

    def add(self, token: str, key_authorisation: str) -> None:
        self._part.challenges.put(token, key_authorisation, asyncio.get_running_loop().time())

    def remove(self, token: str) -> None:
        self._part.challenges.drop(token)

    def expect(self) -> None:
        self._part.challenges.expect(asyncio.get_running_loop().time() + EXPECTED_S)

    def know_account(self, key_json: str) -> None:
        if self._is_stateless:
            from josepy.jwk import JWK

            thumbprint = JWK.json_loads(key_json).thumbprint()
            self._part.challenges.thumbprint = urlsafe_b64encode(thumbprint).rstrip(b"=").decode("ascii")
