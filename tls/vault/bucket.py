"""The bucket on an S3 endpoint, through aioboto3, which is imported when the first request is made.

Keys come from the configuration; without any, from the chain that AWS tools use (environment, shared files,
the machine's role). Absent is only what the store calls so itself: a 404 of a proxy or of a missing bucket
says nothing about an object.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from ..ports import BucketUnavailable
from .directory import OBJECT_BYTES_MAX

log = logging.getLogger("sora.tls.bucket")

KEYS_MAX = 10_000  # of one listing; more cannot be ours
PAGE_KEYS = 1000
CHUNK_BYTES = 1 << 16
LEEWAY_S = 5.0  # signing, fetching credentials, pauses between attempts


@dataclass(frozen=True, slots=True)
class BucketConfig:
    """``endpoint``: host[:port] or a URL, whose scheme then decides over ``use_tls``; empty: AWS.
    ``server_side_encryption``: "AES256", "aws:kms", or "" for stores that refuse the header.
    """

    bucket: str
    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    use_tls: bool = True
    path_style: bool = True
    server_side_encryption: str = ""
    kms_key_id: str = ""
    ca_file: str = ""  # PEM, trusted instead of the system's
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 5.0
    attempts: int = 3  # in all
    debug: bool = False  # log every request

    @property
    def url(self) -> str | None:
        """None: AWS's own, by region."""
        scheme, _, host = self.endpoint.rstrip("/").rpartition("://")
        return f"{scheme or ('https' if self.use_tls else 'http')}://{host}" if host else None

    @property
    def label(self) -> str:
        """For people."""
        return f"bucket {self.bucket!r} at {self.url or 'AWS ' + self.region}"

    @property
    def time_limit_s(self) -> float:
        """Of one operation with all its attempts."""
        return self.attempts * (self.connect_timeout_s + self.read_timeout_s) + LEEWAY_S


class S3Bucket:
    """Safe to share between tasks of one loop; one client, made when it is first needed. ``close`` it."""

    def __init__(self, config: BucketConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._making = asyncio.Lock()
        self._client: Any = None
        self._faults: tuple[type[Exception], ...] = (OSError, TimeoutError)

    async def put(self, key: str, data: bytes) -> None:
        arguments = {
            "Key": key,
            "Body": data,
            "ContentType": "application/octet-stream",
            **encryption(self._config),
        }
        async with self._ready(f"writing {key}") as client:
            await client.put_object(Bucket=self._config.bucket, **arguments)

    async def get(self, key: str) -> bytes | None:
        """At most OBJECT_BYTES_MAX octets and one more: what is longer is none of ours and opens nowhere."""
        async with self._ready(f"reading {key}") as client:
            try:
                answer = await client.get_object(Bucket=self._config.bucket, Key=key)
            except client.exceptions.NoSuchKey:
                return None
            return await _bounded(answer["Body"])

    async def list(self, prefix: str) -> list[str]:
        keys: list[str] = []
        async with self._ready(f"listing {prefix}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._config.bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_KEYS}
            )
            async for page in pages:
                keys += (entry.get("Key", "") for entry in page.get("Contents", ()))
                if len(keys) > KEYS_MAX:
                    raise BucketUnavailable(
                        f"{self._config.label} has more than {KEYS_MAX} objects below {prefix}:"
                        " something else writes there"
                    )
        return sorted(keys)

    async def delete(self, key: str) -> None:
        async with self._ready(f"removing {key}") as client:
            try:
                await client.delete_object(Bucket=self._config.bucket, Key=key)
            except client.exceptions.NoSuchKey:
                return  # for servers that call deleting an absent key an error

    async def close(self) -> None:
        self._client = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    @asynccontextmanager
    async def _ready(self, doing: str) -> AsyncIterator[Any]:
        """The client, its errors translated and the whole operation bounded in time."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._config.time_limit_s):
                yield await self._connected()
        except Exception as error:
            if not isinstance(error, self._faults):  # whose classes are imported only when they are needed
                raise
            if type(error).__name__ in _REMADE_AFTER:
                await self.close()
            raise BucketUnavailable(explained(error, doing, self._config)) from error
        if self._config.debug:
            log.info("%s in %s took %.1f ms", doing, self._config.label, (time.monotonic() - started) * 1000)

    async def _connected(self) -> Any:
        async with self._making:
            if self._client is None:
                # a second of imports: not on the loop
                session_of, settings, faults = await asyncio.to_thread(_load)
                self._faults += faults
                session = session_of(**_credentials(self._config))
                made = session.client("s3", **_client_options(self._config, settings))
                self._client = await self._stack.enter_async_context(made)
        return self._client


async def _bounded(body: Any) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async with body:
        async for piece in body.iter_chunks(CHUNK_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > OBJECT_BYTES_MAX:
                break
    return b"".join(pieces)[: OBJECT_BYTES_MAX + 1]


def encryption(config: BucketConfig) -> dict[str, str]:
    """What a PUT asks of the store. Objects are sealed anyway; some policies demand it."""
    if not config.server_side_encryption:
        return {}
    asked = {"ServerSideEncryption": config.server_side_encryption}
    if config.kms_key_id and config.server_side_encryption.startswith("aws:kms"):
        asked["SSEKMSKeyId"] = config.kms_key_id
    return asked


def _load() -> tuple[Callable[..., Any], Callable[..., Any], tuple[type[Exception], ...]]:
    """The session's class, that of a client's configuration, and all that a request may raise."""
    import aioboto3
    from aiobotocore.config import AioConfig
    from aiohttp import ClientError as TransportError
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    # ValueError: an endpoint that is no URL
    return (
        aioboto3.Session,
        AioConfig,
        (BotoCoreError, ClientError, TransportError, ResponseParserError, ValueError),
    )


def _credentials(config: BucketConfig) -> dict[str, str]:
    if not config.access_key:
        return {}
    return {"aws_access_key_id": config.access_key, "aws_secret_access_key": config.secret_key}


def _client_options(config: BucketConfig, settings: Callable[..., Any]) -> dict[str, Any]:
    return {
        "endpoint_url": config.url,
        "region_name": config.region or None,
        "use_ssl": config.use_tls,
        "verify": config.ca_file or None,
        "config": settings(
            signature_version="s3v4",
            s3={"addressing_style": "path" if config.path_style else "virtual"},
            # the default adds trailers that many stores do not know
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=config.connect_timeout_s,
            read_timeout=config.read_timeout_s,
            # keys of the configuration are for the endpoint of the configuration
            ignore_configured_endpoint_urls=bool(config.access_key),
            retries={"total_max_attempts": config.attempts, "mode": "standard"},
            user_agent_extra="sora",
        ),
    }


# A client looks for credentials once, when it is made.
_REMADE_AFTER = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})

# --- what an operator is told -------------------------------------------------------------------

_REFUSED = "access is refused: check access_key, secret_key and what they may do (list, get, put, delete)"
_BY_CODE: Mapping[str, str] = {
    "AccessDenied": _REFUSED,
    "403": _REFUSED,
    "InvalidAccessKeyId": "the store does not know this access_key",
    "SignatureDoesNotMatch": "the store rejects our signature: check secret_key and region",
    "AuthorizationHeaderMalformed": "the store rejects our signature: check region",
    "IllegalLocationConstraintException": "the bucket is in another region: check region",
    "PermanentRedirect": "the bucket is elsewhere: check region and endpoint",
    "301": "the bucket is elsewhere: check region and endpoint",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the store's clock and ours differ too much: check this machine's clock",
    "NoSuchBucket": "the bucket does not exist: create it, or correct the name",
    "404": "the answer was 404, and not from the object store: check endpoint",
    "SlowDown": "the store asks us to slow down",
    "503": "the store is overloaded or being serviced",
    "ServiceUnavailable": "the store is overloaded or being serviced",
    "NotImplemented": "the store does not know this request: try server_side_encryption = ''",
}
_BY_CLASS: Mapping[str, str] = {
    "EndpointConnectionError": "it cannot be reached: check endpoint, DNS and firewall",
    "ConnectTimeoutError": "it does not answer: check endpoint and firewall",
    "ReadTimeoutError": "it does not answer in time",
    "AioReadTimeoutError": "it does not answer in time",
    "TimeoutError": "it does not answer in time",
    "ConnectionClosedError": "it closed the connection",
    "SSLError": "its TLS certificate is not accepted, or it has none: check endpoint, disable_tls, ca_file",
    "NoCredentialsError": "no credentials: set access_key and secret_key, or give this machine a role",
    "PartialCredentialsError": "the credentials found are incomplete: set both access_key and secret_key",
}


def explained(error: Exception, doing: str, config: BucketConfig) -> str:
    """One line: what was being done, what to look at, and what the other side said."""
    response = getattr(error, "response", None)
    answer = response if isinstance(response, Mapping) else {}
    said = answer.get("Error", {})
    code = str(said.get("Code") or answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    cause = _BY_CODE.get(code) or _BY_CLASS.get(type(error).__name__, "")
    words = f"{code} {said.get('Message', '')}".strip() if code else str(error) or type(error).__name__
    first_line = (words.splitlines() or [""])[0][:300]
    detail = f"{cause} ({first_line})" if cause else first_line
    return f"{doing} in {config.label} failed: {detail}"
