"""What scripts may ask about the account, found out when they ask and at most once in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.annotations import Entries, Place
from storage.mime.structure import decode_structure
from storage.model import AccountId
from storage.scripts import ScriptStore

from .addresslists import AddressList, ListSource
from .annotations import Annotations
from .incoming import Data, Incoming
from .mailboxnames import Known, MailboxNames
from .sieve.questions import (
    IsListed,
    ListExists,
    MailboxExists,
    MailboxIdExists,
    MessageContent,
    Metadata,
    Question,
    SeenBefore,
    SpecialUseExists,
    Unanswered,
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where answers come from. Without ``annotations`` or ``lists`` there are none."""

    scripts: ScriptStore
    names: MailboxNames
    annotations: Annotations | None = None
    lists: ListSource | None = None


class AccountAnswers:
    """For one run of scripts: called, it answers or raises Unanswered; then ``find_out``, and call again."""

    def __init__(self, sources: Sources, account_id: AccountId, mail: Incoming) -> None:
        self._sources = sources
        self._account_id = account_id
        self._mail = mail
        self._data: Data | None = mail.data
        self._content: Any = None
        self._mailboxes: Known | None = None
        self._annotations: Mapping[Place, Entries] | None = None
        self._lists: dict[str, AddressList | None] = {}
        self._seen: dict[bytes, bool] = {}

    @property
    def has_content(self) -> bool:
        """Whether the whole message is at hand."""
        return self._data is not None

    # --- answering ---

    def __call__(self, question: Question) -> Any:
        if isinstance(question, MessageContent):
            return self._whole(question)
        if isinstance(question, SeenBefore):
            if question.key not in self._seen:
                raise Unanswered(question)
            return self._seen[question.key]
        if isinstance(question, Metadata):
            return self._annotation(question)
        if isinstance(question, ListExists | IsListed):
            return self._about_list(question)
        if self._mailboxes is None:
            raise Unanswered(question)
        return _about_mailboxes(self._mailboxes, question)

    def _whole(self, question: Question) -> Any:
        if self._data is None:
            raise Unanswered(question)
        if self._content is None:
            self._content = (self._data, decode_structure(self._mail.structure))
        return self._content

    def _annotation(self, question: Metadata) -> str | None:
        if self._sources.annotations is None:
            return None
        if self._annotations is None or (question.mailbox and self._mailboxes is None):
            raise Unanswered(question)
        place: Place = None
        if question.mailbox and self._mailboxes is not None:
            mailbox = self._mailboxes.named(question.mailbox)
            if mailbox is None:
                return None
            place = mailbox.id
        value = self._annotations.get(place, {}).get(question.entry)
        return None if value is None else value.decode("utf-8", "replace")

    def _about_list(self, question: ListExists | IsListed) -> bool:
        if self._sources.lists is None:
            return False
        if question.name not in self._lists:
            raise Unanswered(question)
        found = self._lists[question.name]
        if isinstance(question, ListExists):
            return found is not None
        return found is not None and found.has(question.value)

    # --- finding out ---

    async def find_out(self, question: Question) -> None:
        """Raises StorageError."""
        sources = self._sources
        if isinstance(question, MessageContent):
            self._data = await self._mail.load()
        elif isinstance(question, SeenBefore):
            seen = await sources.scripts.seen(self._account_id, [question.key])
            self._seen[question.key] = question.key in seen
        elif isinstance(question, ListExists | IsListed) and sources.lists is not None:
            self._lists[question.name] = await sources.lists.find(question.name)
        elif isinstance(question, Metadata) and sources.annotations is not None and self._annotations is None:
            self._annotations = await sources.annotations.everything(self._account_id)
        else:
            self._mailboxes = await sources.names.of(self._account_id)


def _about_mailboxes(known: Known, question: Question) -> bool:
    if isinstance(question, MailboxExists):
        return known.named(question.mailbox) is not None
    if isinstance(question, MailboxIdExists):
        return question.mailbox_id in known.by_object_id
    assert isinstance(question, SpecialUseExists)
    found = known.by_use.get(question.use)
    if not question.mailbox:
        return found is not None
    named = known.named(question.mailbox)
    return found is not None and named is not None and found.id == named.id
