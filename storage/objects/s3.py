"""BlobStore on an S3 endpoint, through obstore.

Credentials and bucket come from the configuration only: AWS_* variables that happen to be set in the
environment, which obstore would read, are overruled. Requests are signed with the hash of their body, so
a server cannot take a body that was cut short. Every object goes up in one PUT: an object is visible whole
or not at all, and nothing of an aborted upload stays behind. S3 takes 5 GB a PUT, far above any message.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore import exceptions
from obstore.store import S3Store

from storage.api import BlobInfo
from storage.errors import NotFound, StorageError, Unavailable

from .codec import FRAME_BYTES
from .singly import put_each

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Credential

T = TypeVar("T")
log = logging.getLogger("sora.s3")

CONNECT_TIMEOUT = timedelta(seconds=5)
FIRST_BACKOFF = timedelta(milliseconds=100)
LAST_BACKOFF = timedelta(seconds=2)
DELETE_BATCH = 1000  # DeleteObjects takes no more


@dataclass(frozen=True, slots=True)
class S3Config:
    """``endpoint`` is host[:port] or a URL; its scheme, where it has one, decides over ``use_tls``."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    use_tls: bool = True
    path_style: bool = True  # false: the bucket is part of the host name
    timeout_s: float = 30.0  # of one request with its body
    # They bridge a dropped connection or a single 5xx; longer faults are the uploader's to pace and a
    # reader's to hear about.
    retries: int = 3
    debug: bool = False  # log every request
    ca_file: str | None = None  # PEM, trusted beside the system's

    @property
    def url(self) -> str:
        """What requests go to."""
        scheme, _, host = self.endpoint.rstrip("/").rpartition("://")
        scheme = scheme or ("https" if self.use_tls else "http")
        return f"{scheme}://{host}" if self.path_style else f"{scheme}://{self.bucket}.{host}"


class BucketUnusable(Exception):
    """At start: the bucket cannot be used as configured; the message names it and the cure."""


class _StaticCredentials:
    def __init__(self, config: S3Config) -> None:
        self._credential: S3Credential = {
            "access_key_id": config.access_key,
            "secret_access_key": config.secret_key,
            "token": None,
            "expires_at": None,
        }

    def __call__(self) -> S3Credential:
        return self._credential


class S3BlobStore:
    """Safe to share between tasks; keeps its connections itself."""

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self._store = S3Store(
            config.bucket,
            endpoint=config.url,
            region=config.region,
            credential_provider=_StaticCredentials(config),
            skip_signature=False,
            unsigned_payload=False,
            virtual_hosted_style_request=not config.path_style,
            client_options=_client_options(config),
            retry_config=_retry_options(config),
        )

    async def check(self) -> None:
        """Once at start: the bucket is there and we may list it.

        Raises:
            BucketUnusable: it is missing, or access is refused.
            Unavailable: the endpoint does not answer.
        """
        name = f"bucket {self._config.bucket!r} at {self._config.url}"
        try:
            async for _ in self.list("bodies"):
                break
        except NotFound as error:
            raise BucketUnusable(
                f"{name} does not exist: create it with your provider, or correct s3.bucket"
            ) from error
        except Unavailable as error:
            if not (isinstance(error.__cause__, Exception) and _is_refusal(error.__cause__)):
                raise
            raise BucketUnusable(
                f"{name} refuses us: check s3.access_key, s3.secret_key, s3.region and the key's permissions"
            ) from error

    async def put(self, key: str, frames: Sequence[bytes]) -> None:
        body = frames[0] if len(frames) == 1 else b"".join(frames)
        await self._call(obstore.put_async(self._store, key, body, use_multipart=False), "writing", key)

    async def put_many(
        self, objects: Mapping[str, Sequence[bytes]], slots: asyncio.Semaphore
    ) -> dict[str, int | StorageError]:
        return await put_each(self, objects, slots)

    async def get(self, key: str) -> bytes:
        result = await self._call(obstore.get_async(self._store, key), "reading", key)
        return bytes(await self._call(result.bytes_async(), "reading", key))

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        result = await self._call(obstore.get_async(self._store, key), "reading", key)
        pieces = result.stream(min_chunk_size=FRAME_BYTES)
        while True:
            try:
                piece = bytes(await pieces.__anext__())
            except StopAsyncIteration:
                return
            except _FAULTS as error:
                raise self._translate(error, "reading", key) from error
            for at in range(0, len(piece), FRAME_BYTES):  # the minimum is no maximum
                yield piece[at : at + FRAME_BYTES]

    async def head(self, key: str) -> BlobInfo | None:
        try:
            meta = await self._call(obstore.head_async(self._store, key), "looking at", key)
        except NotFound:
            return None
        return BlobInfo(key, meta["size"], meta["last_modified"])

    async def delete(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), DELETE_BATCH):
            batch = list(keys[at : at + DELETE_BATCH])
            try:
                await self._call(obstore.delete_async(self._store, batch), "deleting", batch[0])
            except NotFound:
                await self._delete_singly(batch)

    async def _delete_singly(self, keys: Sequence[str]) -> None:
        """For servers that call deleting an absent key an error."""
        for key in keys:
            try:
                await self._call(obstore.delete_async(self._store, key), "deleting", key)
            except NotFound:
                continue

    async def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        pages = obstore.list(self._store, prefix or None, chunk_size=DELETE_BATCH)
        while True:
            try:
                page = await pages.__anext__()
            except StopAsyncIteration:
                return
            except _FAULTS as error:
                raise self._translate(error, "listing", prefix) from error
            for meta in page:
                yield BlobInfo(meta["path"], meta["size"], meta["last_modified"])

    async def _call(self, awaitable: Awaitable[T], doing: str, key: str) -> T:
        started = time.monotonic()
        try:
            result = await awaitable
        except _FAULTS as error:
            raise self._translate(error, doing, key) from error
        if self._config.debug:
            log.info("%s object %s took %.1f ms", doing, key, (time.monotonic() - started) * 1000)
        return result

    def _translate(self, error: Exception, doing: str, key: str) -> StorageError:
        """The one mapping from obstore's errors."""
        if isinstance(error, FileNotFoundError) or _status(error) == "404":
            return NotFound(f"absent while {doing} object {key}")
        where = f"{doing} object {key} in bucket {self._config.bucket!r} at {self._config.url}"
        if _is_refusal(error):
            log.error("access refused while %s: check s3.access_key, s3.secret_key and s3.region", where)
            return Unavailable(f"access refused while {where}")
        return Unavailable(f"{where} failed: {_first_line(error)}")


_STATUS = re.compile(r"non-2xx status code: (?P<code>\d{3})")
_FAULTS = (exceptions.BaseError, OSError, ValueError)


def _status(error: Exception) -> str:
    """Of the answer, where the text has it: listing wraps every one in GenericError."""
    found = _STATUS.search(str(error))
    return found["code"] if found else ""


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return True
    return _status(error) in ("401", "403")


def _client_options(config: S3Config) -> ClientConfig:
    options: ClientConfig = {
        "allow_http": config.url.startswith("http://"),
        "connect_timeout": CONNECT_TIMEOUT,
        "timeout": timedelta(seconds=config.timeout_s),
        "user_agent": "sora",
    }
    if config.ca_file:
        with open(config.ca_file, "rb") as file:
            options["root_certificate"] = file.read()
    return options


def _retry_options(config: S3Config) -> RetryConfig:
    return {
        "max_retries": config.retries,
        "retry_timeout": timedelta(seconds=config.timeout_s),
        "backoff": {"init_backoff": FIRST_BACKOFF, "max_backoff": LAST_BACKOFF, "base": 2},
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
