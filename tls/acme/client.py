"""Signed requests to one CA, in a worker thread: the network of the ``acme`` library with what it lacks.

That is: timeouts of whole calls, a bound on answers, several tries after ``badNonce``, the whole problem
document of every refusal (the library drops kinds it does not know, the document of a 409, and Retry-After),
and translation of all that can go wrong into ``IssuingFailed``.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import josepy.errors
import requests
from acme import errors as acme_errors
from acme.client import ClientNetwork
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256, ES384, ES512, RS256, JWASignature
from josepy.jwk import JWKEC, JWKRSA
from requests.utils import parse_header_links
from urllib3.exceptions import HTTPError, ReadTimeoutError

from ..ports import CaSettings, Failure, IssuingFailed
from .problems import NOWHERE, Problem, clean, failed, parse_problem
from .resources import Directory, NotAcme, parse_directory
from .retryafter import parse_retry_after
from .thread import Talk

USER_AGENT = "sora-node"
# Of a CA that rejects one nonce in two (pebble can be told to), ten tries lose an order of ten calls once
# in a hundred, these once in 400 million.
NONCE_TRIES = 32
MAX_ANSWER = 1 << 20  # octets

Key = JWKEC | JWKRSA


class Refused(Exception):
    """The CA said no."""

    def __init__(self, problem: Problem, retry_after_s: float | None) -> None:
        super().__init__(problem.text())
        self.problem = problem
        self.retry_after_s = retry_after_s


class Payload(JSONDeSerializable):
    """A JSON object to sign."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def to_partial_json(self) -> Any:
        return dict(self._content)

    @classmethod
    def from_json(cls, jobj: Any) -> Payload:
        return cls(jobj)


class Network(ClientNetwork):
    """Every call ends within ``call_timeout_s`` and within what is left of the talk."""

    def __init__(self, settings: CaSettings, key: Key | None, talk: Talk) -> None:
        verify: Any = settings.ca_file or True  # the library's annotation knows only the switch
        super().__init__(key, alg=algorithm(key), verify_ssl=verify, user_agent=USER_AGENT)
        self._talk = talk
        self._call_timeout_s = settings.call_timeout_s

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        limit_s = min(self._call_timeout_s, self._talk.left_s())
        deadline = time.monotonic() + limit_s
        kwargs["headers"] = {"User-Agent": self.user_agent, **kwargs.get("headers", {})}
        kwargs |= {"verify": self.verify_ssl, "timeout": limit_s, "stream": True}
        kwargs["allow_redirects"] = method == "GET"  # a signed request is for one URL alone
        with self.session.request(method, url, *args, **kwargs) as response:
            # what ``content`` would set without a bound and a deadline
            response._content = _read(response, deadline, limit_s)
        response.encoding = "utf-8"
        return response

    @classmethod
    def _check_response(
        cls, response: requests.Response, content_type: str | None = None
    ) -> requests.Response:
        if response.ok:
            return response
        problem = parse_problem(_json_or_none(response), response.status_code)
        raise Refused(problem, retry_after_s(response))

    def _add_nonce(self, response: requests.Response) -> None:
        if self.REPLAY_NONCE_HEADER in response.headers:  # an answer without one costs us a request, no more
            super()._add_nonce(response)

    def _get_nonce(self, url: str, new_nonce_url: str) -> str:
        if not self._nonces:
            self._add_nonce(self._check_response(self.head(new_nonce_url)))
        if not self._nonces:
            raise NotAcme("no nonce in the answer to a request for one")
        return self._nonces.pop()

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(NONCE_TRIES - 1):
            try:
                return self._post_once(*args, **kwargs)
            except Refused as refused:
                if refused.problem.kind != "badNonce":
                    raise
                self._nonces.clear()  # the others are as old
        return self._post_once(*args, **kwargs)


def _read(response: requests.Response, deadline: float, limit_s: float) -> bytes:
    content = bytearray()
    # what has come, not what was asked for: octet by octet a CA could keep us for hours
    while chunk := response.raw.read1(16384, decode_content=True):
        content += chunk
        if len(content) > MAX_ANSWER:
            raise NotAcme(f"an answer of more than {MAX_ANSWER} octets")
        if time.monotonic() > deadline:
            raise IssuingFailed(Failure.TIMEOUT, f"no whole answer in {limit_s:.0f} s")
    return bytes(content)


def _json_or_none(response: requests.Response) -> object:
    try:
        document: object = response.json()
    except (ValueError, RecursionError):
        return None
    return document


def retry_after_s(response: requests.Response) -> float | None:
    return parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))


def algorithm(key: Key | None) -> JWASignature:
    """The one that belongs to a key of an account."""
    if isinstance(key, JWKEC):
        return {256: ES256, 384: ES384}.get(key.key.key_size, ES512)
    return RS256


class Client:
    """A CA's directory and one account. Use as a context manager. Not for several threads."""

    def __init__(self, settings: CaSettings, talk: Talk, key: Key | None = None, uri: str = "") -> None:
        self.settings = settings
        self.key = key
        self.network = Network(settings, key, talk)
        self.sign_as(uri)
        self._directory: Directory | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.network.session.close()

    def sign_as(self, uri: str) -> None:
        """Empty: with the key in the request, not as an account."""
        account: Any = {"uri": uri}
        self.network.account = account if uri else None

    @property
    def directory(self) -> Directory:
        if self._directory is None:
            self._directory = parse_directory(json_of(self.get(self.settings.directory)))
        return self._directory

    def get(self, url: str) -> requests.Response:
        return self.network.get(url)

    def post(self, url: str, payload: Mapping[str, Any] | None = None) -> requests.Response:
        """None: POST-as-GET. Raises Refused."""
        signed = None if payload is None else Payload(payload)
        new_nonce = self.directory.new_nonce
        return self.network.post(url, signed, new_nonce_url=new_nonce)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def json_of(response: requests.Response) -> object:
    try:
        document: object = response.json()
    except (ValueError, RecursionError) as error:
        raise NotAcme(f"an answer that is no JSON, from {response.url}") from error
    return document


def links_of(response: requests.Response, relation: str) -> list[str]:
    """All of one relation; ``response.links`` keeps only the last."""
    links = parse_header_links(response.headers.get("Link", ""))
    return [str(link["url"]) for link in links if link.get("rel") == relation and "url" in link]


@contextlib.contextmanager
def failures(step: Mapping[str, Failure] = NOWHERE, ordered: Sequence[str] = ()) -> Iterator[None]:
    """All that a talk with a CA raises becomes IssuingFailed; what others raise passes."""
    try:
        yield
    except Refused as refused:
        after = refused.retry_after_s
        raise failed(refused.problem, step, retry_after_s=after, ordered=ordered) from refused
    except requests.exceptions.Timeout as error:
        raise IssuingFailed(Failure.TIMEOUT, "no answer in time") from error
    except requests.exceptions.SSLError as error:
        raise IssuingFailed(Failure.UNREACHABLE, f"its TLS is not trusted: {_reason(error)}") from error
    except requests.exceptions.RequestException as error:
        raise IssuingFailed(Failure.UNREACHABLE, _reason(error)) from error
    except ReadTimeoutError as error:  # while the answer was read
        raise IssuingFailed(Failure.TIMEOUT, "no whole answer in time") from error
    except HTTPError as error:
        raise IssuingFailed(Failure.UNREACHABLE, _reason(error)) from error
    except OSError as error:  # of the library, before it asks: the file of roots
        raise IssuingFailed(Failure.INTERNAL, clean(str(error))) from error
    except (NotAcme, acme_errors.Error, josepy.errors.Error) as error:
        raise IssuingFailed(Failure.UNREACHABLE, f"it does not speak ACME: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The innermost words: what the layers above add is about themselves."""
    inner = error
    while inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
    reason = getattr(inner, "reason", None)
    return clean(str(reason if isinstance(reason, BaseException) else inner) or type(error).__name__)
