"""What scripts send, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from storage.api import RETRY_WINDOW
from storage.model import AccountId
from storage.sending import AnswerLog, HandoverLog, RedirectLog

from .tables import Answered, SentMail, Tables


class MemorySendLog(RedirectLog, AnswerLog, HandoverLog):
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def admit(
        self,
        account_id: AccountId,
        keys: Sequence[bytes],
        *,
        limit: int,
        window_s: float,
        kind: str = "redirect",
    ) -> frozenset[bytes]:
        self._tables.known_account(account_id)
        now, window = self._tables.now(), timedelta(seconds=window_s)
        before = self._tables.sends.get((account_id, kind)) or SentMail({}, now)
        live = {key: at for key, at in before.at.items() if at > now - window}
        new = [key for key in dict.fromkeys(keys) if key not in live][: max(0, limit - len(live))]
        live |= dict.fromkeys(new, now)
        self._tables.sends[account_id, kind] = SentMail(live, max(before.expires_at, now + window))
        return frozenset(key for key in keys if key in live)

    async def handed_over(self, account_id: AccountId, keys: Sequence[bytes]) -> frozenset[bytes]:
        now, answers = self._tables.now(), self._tables.answers
        found = {key: answers.get((account_id, key)) for key in keys}
        return frozenset(key for key, claim in found.items() if claim is not None and claim.expires_at > now)

    async def claim_handover(self, account_id: AccountId, holders: Mapping[bytes, str]) -> frozenset[bytes]:
        self._tables.known_account(account_id)
        foreign = {
            key
            for key in await self.handed_over(account_id, list(holders))
            if self._tables.answers[account_id, key].cause != holders[key].encode()
        }
        won = {key: name.encode() for key, name in holders.items() if key not in foreign}
        expires_at = self._tables.now() + RETRY_WINDOW
        self._tables.answers |= {(account_id, key): Answered(name, expires_at) for key, name in won.items()}
        return frozenset(won)

    async def claim_answer(self, account_id: AccountId, key: bytes, period_s: int, cause: bytes) -> bool:
        self._tables.known_account(account_id)
        now = self._tables.now()
        periods = {cause: RETRY_WINDOW} | ({key: timedelta(seconds=period_s)} if period_s else {})
        for each in periods:
            before = self._tables.answers.get((account_id, each))
            if before is not None and before.expires_at > now:
                return False
        for each, period in periods.items():
            self._tables.answers[account_id, each] = Answered(cause, now + period)
        return True

    async def release_answer(self, account_id: AccountId, key: bytes, cause: bytes) -> None:
        for each in (key, cause):
            found = self._tables.answers.get((account_id, each))
            if found is not None and found.cause == cause:
                del self._tables.answers[account_id, each]
