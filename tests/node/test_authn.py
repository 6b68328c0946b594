"""Who gets in, what it costs the store, what is upgraded, and what the logs may say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from node.authn import DirectAuthenticator
from node.hashupgrade import HashUpgrader
from node.logs import ConsoleFormatter
from node.passwords import hash_password
from node.verify import PasswordVerifier
from protocols.errors import AuthenticationFailed, AuthenticationUnavailable
from protocols.ports import Peer
from storage.errors import CommitUnknown, Corrupt, StorageError, Unavailable
from storage.memory.accounts import MemoryAccountStore
from storage.memory.tables import Tables
from tests.support.passwords import Clock, CountedChecks, cheap_hash, ssha512

ANN, ALIAS = "ann@example.org", "sales@example.com"
PEER = Peer("192.0.2.7", 50000)
SECRET = "hünter2 €".encode()
DEFAULT = "{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$"


class CountedStore:
    """A memory store whose calls are counted and can be made to fail."""

    def __init__(self) -> None:
        self.inner: MemoryAccountStore = MemoryAccountStore.beside(Tables())
        self.calls: list[str] = []
        self.errors: dict[str, StorageError] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if name in self.errors:
                raise self.errors[name]
            return await method(*args, **kwargs)

        return call


@dataclass
class Node:
    store: CountedStore = field(default_factory=CountedStore)
    checks: CountedChecks = field(default_factory=CountedChecks)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.made: list[bytes] = []
        self.verifier = PasswordVerifier(
            threads=1, clock=self.clock, queue_limit=4, check=self.checks, make=self._make
        )
        self.made.clear()
        self.upgrader = HashUpgrader(self.store, self.verifier)  # type: ignore[arg-type]
        self.authenticator = DirectAuthenticator(self.store, self.verifier, self.upgrader)  # type: ignore[arg-type]

    def _make(self, password: bytes) -> str:
        self.made.append(password)
        return hash_password(password)

    async def login(self, username: str, password: bytes) -> Any:
        return await self.authenticator.authenticate("imap", PEER, username, password)

    async def stored(self, address: str) -> str:
        found = await self.store.inner.login(address)
        assert found is not None
        return found[0].password_hash


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    await made.store.inner.create_account(ANN, hash_password(SECRET))
    await made.store.inner.add_credential(ANN, ALIAS, ssha512(b"of the alias"))
    yield made
    made.checks.release()
    await made.upgrader.settle()
    await made.verifier.close()


@pytest.mark.parametrize("username", [ANN, "ANN@Example.ORG", " ann@example.org ", "ann+phone@example.org"])
async def test_a_user_gets_in_by_any_spelling(node: Node, username: str) -> None:
    identity = await node.login(username, SECRET)
    assert (identity.address, identity.primary_address) == (ANN, ANN)


async def test_an_alias_gets_in_with_its_own_password(node: Node) -> None:
    identity = await node.login(ALIAS, b"of the alias")
    assert (identity.address, identity.primary_address) == (ALIAS, ANN)
    with pytest.raises(AuthenticationFailed):
        await node.login(ALIAS, SECRET)


REFUSALS = [
    (ANN, b"wrong"),
    ("nobody@example.org", SECRET),
    ("not an address", SECRET),
    ("", SECRET),
    ("ann", SECRET),
    ("a" * 5000 + "@example.org", SECRET),
    ("\ud800@example.org", SECRET),
    ("ann@example.org\0", SECRET),
    (ANN, b""),
    (ANN, SECRET + b"\0"),
    (ANN, b"x" * 1025),
]


@pytest.mark.parametrize(("username", "password"), REFUSALS)
async def test_every_refusal_is_the_same(node: Node, username: str, password: bytes) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        await node.login(username, password)
    assert str(caught.value) == "wrong user name or password"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("username", [ANN, ALIAS, "nobody@example.org", "not an address"])
async def test_every_refusal_costs_one_expensive_check(node: Node, username: str) -> None:
    for expected in (1, 1):  # the second time it is remembered, for all alike
        with pytest.raises(AuthenticationFailed):
            await node.login(username, b"wrong")
        assert len(node.checks.costly) == expected


async def test_refused_passwords_reach_neither_store_nor_hash(node: Node) -> None:
    with pytest.raises(AuthenticationFailed):
        await node.login(ANN, b"x" * 1025)
    assert node.store.calls == []
    assert node.checks.stored == []


async def test_a_login_is_one_read_and_nothing_else(node: Node) -> None:
    for _ in range(3):
        await node.login(ANN, SECRET)
    await node.upgrader.settle()
    assert node.store.calls == ["login"] * 3
    assert len(node.checks.stored) == 1


@pytest.mark.parametrize("error", [Unavailable("away"), CommitUnknown("gone"), Corrupt("odd")])
async def test_a_store_that_cannot_answer_says_nothing_about_the_password(
    node: Node, error: StorageError, caplog: pytest.LogCaptureFixture
) -> None:
    node.store.errors["login"] = error
    with caplog.at_level(logging.INFO), pytest.raises(AuthenticationUnavailable):
        await node.login(ANN, b"wrong")
    assert "unavailable" in caplog.text
    node.store.errors.clear()
    assert (await node.login(ANN, SECRET)).address == ANN


async def test_a_full_queue_is_unavailable(node: Node) -> None:
    node.checks.hold()
    waiting = [asyncio.create_task(node.login(ANN, b"wrong%d" % n)) for n in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(AuthenticationUnavailable):
        await node.login(ANN, SECRET)
    node.checks.release()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, AuthenticationFailed) for each in outcomes)


async def test_a_weak_hash_is_upgraded_once_at_login(node: Node) -> None:
    await asyncio.gather(*(node.login(ALIAS, b"of the alias") for _ in range(5)))
    await node.upgrader.settle()
    assert node.store.calls.count("upgrade_hash") == 1
    assert node.made == [b"of the alias"]
    assert (await node.stored(ALIAS)).startswith(DEFAULT)
    node.checks.stored.clear()
    await node.login(ALIAS, b"of the alias")
    assert node.checks.stored == []  # known to be right: it was made from this password
    await node.upgrader.settle()
    assert node.store.calls.count("upgrade_hash") == 1


async def test_a_failed_login_upgrades_nothing(node: Node) -> None:
    with pytest.raises(AuthenticationFailed):
        await node.login(ALIAS, b"wrong")
    await node.upgrader.settle()
    assert "upgrade_hash" not in node.store.calls


async def test_an_upgrade_never_overwrites_a_changed_password(node: Node) -> None:
    node.checks.hold()
    login = asyncio.create_task(node.login(ALIAS, b"of the alias"))
    await asyncio.to_thread(node.checks.started.acquire)
    changed = cheap_hash(b"changed meanwhile")
    await node.store.inner.set_password(ALIAS, changed)
    node.checks.release()
    await login
    await node.upgrader.settle()
    assert node.store.calls.count("upgrade_hash") == 1
    assert await node.stored(ALIAS) == changed
    with pytest.raises(AuthenticationFailed):
        await node.login(ALIAS, b"of the alias")


async def test_an_upgrade_that_fails_is_tried_at_a_later_login(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.store.errors["upgrade_hash"] = Unavailable("away")
    before = await node.stored(ALIAS)
    await node.login(ALIAS, b"of the alias")
    await node.upgrader.settle()
    assert await node.stored(ALIAS) == before
    assert "not upgraded" in caplog.text
    node.store.errors.clear()
    node.clock.now += 1000
    await node.login(ALIAS, b"of the alias")
    await node.upgrader.settle()
    assert (await node.stored(ALIAS)).startswith(DEFAULT)


async def test_logs_never_show_passwords_or_hashes(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = await node.stored(ALIAS)
    await node.store.inner.create_account("broken@example.org", "{MD5}b3JpZ2luYWw=")
    await node.login(ANN, SECRET)
    await node.login(ALIAS, b"of the alias")
    await node.upgrader.settle()
    for username, password in (*REFUSALS, ("broken@example.org", b"wrong-guess")):
        with pytest.raises(AuthenticationFailed):
            await node.login(username, password)
    node.store.errors["login"] = Unavailable("away")
    with pytest.raises(AuthenticationUnavailable):
        await node.login(ANN, b"wrong-guess")
    text = caplog.text + "".join(repr(record.__dict__) for record in caplog.records)
    assert len(caplog.records) > len(REFUSALS)
    after = await node.stored(ALIAS)
    secrets = [SECRET.decode(), repr(SECRET), "of the alias", "wrong-guess", "b3JpZ2luYWw", "x" * 1025]
    secrets += [before, before[10:40], after, after.rsplit("$", 1)[1], await node.stored(ANN)]
    assert not [each for each in secrets if each in text]


async def test_the_audit_line_cannot_be_forged(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(AuthenticationFailed):
        await node.login("x\r\nlogin user='root' result=ok" + "y" * 5000, b"wrong")
    (record,) = (each for each in caplog.records if each.name == "sora.authn")
    line = ConsoleFormatter().format(record)
    assert "\n" not in line
    assert "\r" not in line
    assert "login failed" in line
    assert line.endswith("protocol=imap ip=192.0.2.7")
    assert len(line) < 600
