"""An account at a CA: registering, changing its key, closing it (RFC 8555 §7.3). In a worker thread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import josepy.errors
from acme import jws, messages
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.jwk import JWK, JWKEC, JWKRSA

from ..ports import Account, CaSettings, Failure, IssuingFailed
from .client import Client, Key, Refused, algorithm, failures, json_of
from .problems import LOOKING_UP, REGISTERING
from .resources import NotAcme
from .thread import Talk

UNKNOWN_OUTCOME = (Failure.TIMEOUT, Failure.UNREACHABLE)


def new_key() -> JWKEC:
    return JWKEC(key=ec.generate_private_key(ec.SECP256R1()))


def load_key(account: Account) -> Key:
    try:
        key = JWK.json_loads(account.key_json)
    except (josepy.errors.Error, ValueError, KeyError) as error:
        raise IssuingFailed(Failure.BAD_ACCOUNT, "the stored key of the account cannot be read") from error
    if not isinstance(key, JWKEC | JWKRSA):
        raise IssuingFailed(Failure.BAD_ACCOUNT, "the stored key of the account is of an unknown type")
    return key


def ensure(settings: CaSettings, talk: Talk, known: Account | None) -> Account:
    """With a URI: asked for at the CA (LOST_ACCOUNT: it is not there, or closed). Without: registered, with
    the key if there is one and the CA takes it: that of a closed account it never takes again."""
    if known is None:
        return _registered(settings, talk, new_key())
    key = load_key(known)
    if known.uri:
        with Client(settings, talk, key) as client:
            return replace(known, uri=_look_up(client))
    try:
        return _registered(settings, talk, key)
    except IssuingFailed as failure:
        cause = failure.__cause__
        if not isinstance(cause, Refused) or cause.problem.kind != "unauthorized":
            raise
    return _registered(settings, talk, new_key())


def _registered(settings: CaSettings, talk: Talk, key: Key) -> Account:
    with Client(settings, talk, key) as client, failures(REGISTERING):
        return Account(settings.directory, key.json_dumps(), _register(client))


def _look_up(client: Client) -> str:
    with failures(LOOKING_UP):
        client.sign_as("")
        return _location(client.post(client.directory.new_account, {"onlyReturnExisting": True}))


def _register(client: Client) -> str:
    payload: dict[str, Any] = {"termsOfServiceAgreed": True}
    if client.settings.email:
        payload["contact"] = [f"mailto:{client.settings.email}"]
    binding = _binding(client)
    if binding is not None:
        payload["externalAccountBinding"] = binding
    return _location(client.post(client.directory.new_account, payload))


def _binding(client: Client) -> Mapping[str, Any] | None:
    settings = client.settings
    if not settings.eab_kid:
        if client.directory.needs_external_account:
            raise IssuingFailed(
                Failure.BAD_ACCOUNT,
                "the CA demands external account binding: set eab_kid and eab_hmac_key beside its directory"
                " (one of fallback_directories becomes an [[tls.letsencrypt.authority]] for that)",
            )
        return None
    assert client.key is not None
    try:
        binding = messages.ExternalAccountBinding.from_data(
            client.key.public_key(),
            settings.eab_kid,
            settings.eab_hmac_key.rstrip("="),
            messages.Directory({"newAccount": client.directory.new_account}),
        )
    except ValueError as error:
        raise IssuingFailed(Failure.BAD_ACCOUNT, "eab_hmac_key is not base64url") from error
    return binding


def _location(response: Any) -> str:
    uri = response.headers.get("Location", "")
    if not uri:
        raise NotAcme("an account without a location")
    return str(uri)


def roll_over(settings: CaSettings, talk: Talk, account: Account, key_json: str) -> Account:
    """RFC 8555 §7.3.5. When the answer is lost, the CA is asked which key is in force. ``key_json`` empty: a
    key is made."""
    after = replace(account, key_json=key_json or new_key().json_dumps())
    old, new = load_key(account), load_key(after)
    try:
        with Client(settings, talk, old, account.uri) as client, failures():
            _change_key(client, account.uri, old, new)
    except IssuingFailed as failure:
        if failure.failure in UNKNOWN_OUTCOME and _knows(settings, talk, new):
            return after
        raise
    return after


def _change_key(client: Client, uri: str, old: Key, new: Key) -> None:
    url = client.directory.key_change
    if not url:
        raise IssuingFailed(Failure.REFUSED, "the CA cannot change keys of accounts")
    content = json.dumps({"account": uri, "oldKey": old.public_key().to_json()}).encode()
    inner = jws.JWS.sign(content, key=new, alg=algorithm(new), nonce=None, url=url)
    client.post(url, inner.to_partial_json())


def _knows(settings: CaSettings, talk: Talk, key: Key) -> bool:
    try:
        with Client(settings, talk, key) as client:
            client.post(client.directory.new_account, {"onlyReturnExisting": True})
    except Refused:
        return False
    return True


def deactivate(settings: CaSettings, talk: Talk, account: Account) -> None:
    """For good, RFC 8555 §7.3.6."""
    with Client(settings, talk, load_key(account), account.uri) as client, failures():
        answer = json_of(client.post(account.uri, {"status": "deactivated"}))
        if not isinstance(answer, Mapping) or answer.get("status") != "deactivated":
            raise IssuingFailed(Failure.REFUSED, "the account is not deactivated")
