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
from typing import Any, Final

from protocols.httppost import HttpPost, HttpReply, Unreachable
from storage.dsn import NO_REQUEST, DsnRequest, plain_request
from storage.relayfile import Fate, Verdict

from .transport import RelayDown, clean, verdict_of

TIMEOUT_S: Final = 120.0
MAX_REPLY_BYTES: Final = 256 * 1024
_REFUSALS: Final[Mapping[int, str]] = {400: "5.6.0", 413: "5.3.4", 415: "5.6.1", 422: "5.6.0"}
_FATES: Final = {"refused": (Fate.REFUSED, 550), "deferred": (Fate.DEFERRED, 450)}


class HttpTransport:
    def __init__(self, url: str, token: str, remote: str, timeout_s: float = TIMEOUT_S) -> None:
        self.remote = remote
        self._http = HttpPost(url, token, timeout_s)

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, dsn: DsnRequest = NO_REQUEST
    ) -> list[Verdict]:
        body = await asyncio.to_thread(encode_request, sender, recipients, message, dsn)
        try:
            reply = await self._http.post(body, max_reply_bytes=MAX_REPLY_BYTES)
        except Unreachable as error:
            raise RelayDown("4.4.1", f"POST: {error}") from error
        return self._verdicts(reply, recipients)

    async def close(self) -> None:
        await self._http.close()

    def _verdicts(self, reply: HttpReply, recipients: Sequence[str]) -> list[Verdict]:
        said = clean(f"HTTP {reply.status} {reply.reason}")
        if reply.status in _REFUSALS:
            text = clean(reply.body[:500].decode("utf-8", "replace"))
            return [
                Verdict(Fate.REFUSED, _REFUSALS[reply.status], f"{said} {text}".strip(), self.remote)
            ] * len(recipients)
        if not reply.is_success:
            raise RelayDown("4.3.0", said)
        exceptions = parse_exceptions(reply.body, self.remote)
        taken = Verdict(Fate.TAKEN, "2.0.0", said, self.remote)
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
