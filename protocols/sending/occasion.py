"""One message that comes to one account, as those who send because of it see it. Pure."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from datetime import datetime

from protocols.fingerprint import fingerprint
from protocols.sieve.outcome import Action, FileInto
from storage.addresses import BadAddress, canonical, split_detail
from storage.dsn import NO_REQUEST, DsnRequest
from storage.model import AccountId


@dataclass(frozen=True, slots=True)
class Occasion:
    """``data`` and ``structure`` are of the content as received, which begins behind the trace fields;
    ``header`` is the beginning of ``data``, with the empty line that ends it where there is one."""

    account_id: AccountId
    primary_address: str
    own_addresses: frozenset[str]  # all of the account, canonical, without detail
    sender: str  # of the envelope, as given; "" for the null path
    recipient: str  # of the envelope, canonical, with its detail
    trace: bytes  # fields that delivery puts before the content: Return-Path, Delivered-To, Received
    header: bytes
    structure: bytes  # storage.mime.structure.encode_structure
    data: bytes | mmap.mmap
    size_bytes: int
    delivery_key: bytes  # the same in each attempt to deliver this message to this account
    received_at: datetime  # aware
    hostname: str
    takes_utf8: bool = False  # the client reads replies that are not ASCII (SMTPUTF8)
    dsn: DsnRequest = NO_REQUEST  # for the message when it is sent on to one recipient

    def key(self, *what: str) -> bytes:
        """32 octets that name one thing done because of this message, the same in each attempt."""
        return fingerprint(self.delivery_key, *what)

    def is_own(self, address: str) -> bool:
        """Whether mail to it comes to this account, whatever its detail."""
        try:
            whole = canonical(address)
        except BadAddress:
            return False
        return whole in self.own_addresses or split_detail(whole)[0] in self.own_addresses


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the actions of one kind.

    ``keeps``: something was not sent, and the message has to be kept unless another action stores it.
    ``instead``: local actions that take the place of what was not sent. ``copies``: of mail of our own, to be
    filed with the octets in ``message`` (RFC 8580). ``notes`` are for the log.
    """

    keeps: bool = False
    instead: tuple[Action, ...] = ()
    copies: tuple[FileInto, ...] = ()
    notes: tuple[str, ...] = ()


NOTHING = Sent()
