"""What a login costs the database: one read, and one write in the life of a weak hash."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from node.authn import DirectAuthenticator
from node.hashupgrade import HashUpgrader
from node.passwords import needs_upgrade
from node.verify import PasswordVerifier
from protocols.errors import AuthenticationFailed
from protocols.ports import Peer
from storage.postgres.accounts import PostgresAccountStore
from storage.postgres.pool import Database
from tests.support.passwords import Clock, CountedChecks, ssha512

ANN = "ann@example.org"
PEER = Peer("192.0.2.7", 50000)


@pytest.fixture
async def node(database: Database) -> AsyncIterator[tuple[DirectAuthenticator, HashUpgrader]]:
    accounts = PostgresAccountStore(database)
    await accounts.create_account(ANN, ssha512(b"secret"))
    verifier = PasswordVerifier(threads=1, clock=Clock(), check=CountedChecks())
    upgrader = HashUpgrader(accounts, verifier)
    yield DirectAuthenticator(accounts, verifier, upgrader), upgrader
    await upgrader.settle()
    await verifier.close()


async def test_one_read_a_login_and_no_write_after_the_first(
    node: tuple[DirectAuthenticator, HashUpgrader], database: Database
) -> None:
    authenticator, upgrader = node
    database.stats.clear()
    await authenticator.authenticate("imap", PEER, ANN, b"secret")
    await upgrader.settle()
    assert database.stats == {"read": 1, "write": 1}
    found = await PostgresAccountStore(database).login(ANN)
    assert found is not None
    assert not needs_upgrade(found[0].password_hash)
    database.stats.clear()
    for _ in range(3):
        await authenticator.authenticate("pop3", PEER, ANN, b"secret")
    await upgrader.settle()
    assert database.stats == {"read": 3}


@pytest.mark.parametrize("username", [ANN, "nobody@example.org", "\ud800@example.org", "a\0@example.org"])
async def test_a_refusal_is_at_most_one_read(
    node: tuple[DirectAuthenticator, HashUpgrader], database: Database, username: str
) -> None:
    database.stats.clear()
    with pytest.raises(AuthenticationFailed):
        await node[0].authenticate("imap", PEER, username, b"wrong")
    assert database.round_trips <= 1
