"""What certificate work needs from outside, as contracts, and the values that pass.

``node`` builds the concrete objects. Every implementation of a contract passes the same tests. Times of the
epoch are aware UTC; ``_s`` are seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from .wanted import Wanted

# --- the bucket ---------------------------------------------------------------------------------


class BucketUnavailable(Exception):
    """Nothing is known: not even that an object is absent. The message is fit for an operator."""


class Bucket(Protocol):
    """A flat store of small objects that are never overwritten. Raises BucketUnavailable."""

    async def put(self, key: str, data: bytes) -> None: ...

    async def get(self, key: str) -> bytes | None:
        """None only when the store says clearly that there is no such object."""
        ...

    async def list(self, prefix: str) -> list[str]:
        """All keys below, in the order of their bytes."""
        ...

    async def delete(self, key: str) -> None:
        """Harmless when it is not there."""
        ...


# --- what was issued ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Generation:
    """One issued certificate. A higher ``fence`` wins."""

    wanted_id: str
    fence: int
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    ca: str  # the directory URL
    issued_at: datetime
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SealedCopy:
    """A generation as it would be in the bucket. ``is_kept``: this node's mirror has it."""

    key: str
    sealed: bytes
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Journal:
    """An order that was begun: whoever takes over goes on with it."""

    wanted: Wanted
    fence: int
    ca: str
    order_url: str
    csr_pem: bytes
    key_pem: bytes = field(repr=False)
    begun_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """``key_json``: the JWK, private. ``uri``: of the CA; empty: not registered yet."""

    ca: str
    key_json: str = field(repr=False)
    uri: str = ""


class Vault(Protocol):
    """Accounts, journals and generations in a bucket, sealed. Raises BucketUnavailable.

    What cannot be opened or does not verify is skipped, counted and logged, never raised.
    """

    async def newest(self, wanted_id: str) -> Generation | None: ...

    async def publish(self, generation: Generation) -> None: ...

    async def generations(self, wanted_id: str) -> list[int]:
        """Fences, the highest first, whether readable or not."""
        ...

    async def account(self, ca: str) -> Account | None: ...

    async def put_account(self, account: Account, fence: int) -> None: ...

    async def journal(self, wanted_id: str) -> Journal | None: ...

    async def put_journal(self, journal: Journal) -> None: ...

    async def drop_journal(self, wanted_id: str, up_to: int | None = None) -> None:
        """``up_to``: the fence of who drops it; what a successor has begun stays."""
        ...

    async def challenge(self, token: str) -> str | None:
        """The key authorisation."""
        ...

    async def put_challenge(self, token: str, key_authorisation: str) -> None: ...

    async def drop_challenge(self, token: str) -> None: ...


# --- the certificate authority ------------------------------------------------------------------


class Failure(enum.Enum):
    """Why an order failed; the values are metric labels."""

    UNREACHABLE = "unreachable"  # no connection, bad TLS, 5xx
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    VALIDATION = "validation"  # the CA could not see our answer
    REJECTED_NAME = "rejected_name"
    BAD_ACCOUNT = "bad_account"  # contact, external binding, terms
    LOST_ACCOUNT = "lost_account"  # the CA does not know it any more
    REFUSED = "refused"  # anything else the CA says no to
    UNPUBLISHED = "unpublished"  # our own answer could not be put where nodes find it
    FENCED = "fenced"  # the lease went to another
    INTERNAL = "internal"


class IssuingFailed(Exception):
    """``is_permanent``: trying again is useless until the configuration changes. ``text``: the CA's words."""

    def __init__(
        self,
        failure: Failure,
        text: str,
        *,
        retry_after_s: float | None = None,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(f"{failure.value}: {text}")
        self.failure = failure
        self.text = text
        self.retry_after_s = retry_after_s
        self.names = tuple(names)

    @property
    def is_permanent(self) -> bool:
        return self.failure in (Failure.REJECTED_NAME, Failure.BAD_ACCOUNT)


@dataclass(frozen=True, slots=True)
class CaSettings:
    """``ca_file``: a root to trust for the directory's own HTTPS; empty: the system's.

    ``preferred_chain``: the common name of the root whose chain is taken when the CA offers several.
    """

    directory: str
    email: str = ""
    ca_file: str = ""
    eab_kid: str = ""
    eab_hmac_key: str = field(default="", repr=False)
    preferred_chain: str = ""
    call_timeout_s: float = 10.0
    order_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Renewal:
    """Renewal information of RFC 9773: the window, and when to ask again."""

    start: datetime
    end: datetime
    ask_again_s: float
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Steps:
    """What an order needs done on its way. Each is awaited before the next step at the CA; any may raise,
    which ends the order. ``check``: is the order still ours? Raises IssuingFailed(FENCED)."""

    publish_http: Callable[[str, str, str], Awaitable[None]]  # name, token, key authorisation
    withdraw_http: Callable[[str, str], Awaitable[None]]  # name, token
    publish_dns: Callable[[str, str], Awaitable[None]]  # name of the record, value
    withdraw_dns: Callable[[str, str], Awaitable[None]]
    journal: Callable[[str, bytes, bytes], Awaitable[None]]  # order URL, CSR, key
    check: Callable[[], Awaitable[None]]
    say: Callable[[str], None]  # a step, for the log


@dataclass(frozen=True, slots=True)
class Issued:
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    order_url: str = ""


class Authority(Protocol):
    """One CA. Raises IssuingFailed. Cancelling leaves an order that can be resumed."""

    settings: CaSettings

    async def account(self, known: Account | None) -> Account:
        """Registered at the CA when it returns."""
        ...

    async def issue(
        self, account: Account, wanted: Wanted, steps: Steps, *, replaces: bytes = b"", use_dns: bool = False
    ) -> Issued:
        """``replaces``: PEM of the certificate that is renewed."""
        ...

    async def resume(
        self, account: Account, journal: Journal, steps: Steps, *, use_dns: bool = False
    ) -> Issued:
        """REFUSED or VALIDATION: this order leads nowhere any more; drop the journal and issue anew."""
        ...

    async def renewal(self, chain_pem: bytes) -> Renewal | None:
        """None: the CA gives no such information."""
        ...

    async def revoke(self, account: Account, chain_pem: bytes, reason: int) -> None: ...

    async def rollover(self, account: Account, *, key_json: str = "") -> Account:
        """The account with a new key, in force at the CA: this one, or one that is made."""
        ...

    async def profiles(self) -> Mapping[str, str]: ...
