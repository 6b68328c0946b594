"""The HTTP transport: one POST of JSON a message.

Request: ``{"from": "...", "recipients": ["..."], "message": "..."}``; a message that is not UTF-8 comes as
``"message_base64"`` instead. Where the sender wants reports (RFC 3461), ``"dsn"`` is
``{"ret": "HDRS", "envid": "...", "recipients": [["SUCCESS,FAILURE", "rfc822;..."]]}``, in the order of the
recipients and as it stands in SMTP. ``Authorization: Bearer`` carries the token.

Reply: a 2xx takes the message for all recipients, but for those that its JSON body names in ``"refused"``
or ``"deferred"``, each with a reply as in SMTP: ``{"refused": {"bob@example.org": "550 5.1.1 unknown"}}``.
400, 413, 415 and 422 refuse the message; anything else is about the relay and tried again.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from storage.dsn import NO_REQUEST, DsnRequest, plain_request
from storage.relayfile import Fate, Verdict

from .transport import RelayDown, clean, verdict_of

if TYPE_CHECKING:
    from aiohttp import ClientSession

TIMEOUT_S: Final = 120.0
MAX_REPLY_BYTES: Final = 256 * 1024
_REFUSALS: Final[Mapping[int, str]] = {400: "5.6.0", 413: "5.3.4", 415: "5.6.1", 422: "5.6.0"}
_FATES: Final = {"refused": (Fate.REFUSED, 550), "deferred": (Fate.DEFERRED, 450)}


class HttpTransport:
    def __init__(self, url: str, token: str, remote: str, timeout_s: float = TIMEOUT_S) -> None:
        self.remote = remote
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s
        self._session: ClientSession | None = None

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
    ) -> list[Verdict]:
        import aiohttp

        body = await asyncio.to_thread(encode_request, sender, recipients, message, dsn)
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._open().post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await response.content.read(MAX_REPLY_BYTES)
                status, reason = response.status, response.reason or ""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RelayDown("4.4.1", f"POST: {error or type(error).__name__}") from error
        return self._verdicts(status, reason, raw, recipients)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout

        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_s))
        return self._session

    def _verdicts(self, status: int, reason: str, raw: bytes, recipients: Sequence[str]) -> list[Verdict]:
        reply = clean(f"HTTP {status} {reason}")
        if status in _REFUSALS:
            text = clean(raw[:500].decode("utf-8", "replace"))
            return [Verdict(Fate.REFUSED, _REFUSALS[status], f"{reply} {text}".strip(), self.remote)] * len(
                recipients
            )
        if not 200 <= status < 300:
            raise RelayDown("4.3.0", reply)
        exceptions = parse_exceptions(raw, self.remote)
        taken = Verdict(Fate.TAKEN, "2.0.0", reply, self.remote)
        return [exceptions.get(each, taken) for each in recipients]


def encode_request(
    sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
) -> bytes:
    request: dict[str, Any] = {"from": sender, "recipients": list(recipients)}
    if dsn:
        request["dsn"] = plain_request(dsn)
    try:
        request["message"] = message.decode("utf-8")
    except UnicodeDecodeError:
        request["message_base64"] = base64.b64encode(message).decode("ascii")
    return json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")


def parse_exceptions(raw: bytes, remote: str) -> dict[str, Verdict]:
    """Recipients that a successful reply names as not taken. A body of another form says nothing."""
    try:
        reply = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError):
        return {}
    found: dict[str, Verdict] = {}
    for name, (fate, code) in _FATES.items():
        named = reply.get(name) if isinstance(reply, dict) else None
        for address, text in (named if isinstance(named, dict) else {}).items():
            said, _, rest = str(text).partition(" ")
            verdict = verdict_of(int(said) if said.isdecimal() and len(said) == 3 else code, rest, remote)
            found[address] = Verdict(fate, _fitting(verdict.status, fate), clean(str(text)), remote)
    return found


def _fitting(status: str, fate: Fate) -> str:
    wanted = "5" if fate is Fate.REFUSED else "4"
    return status if status.startswith(wanted) else f"{wanted}.0.0"
