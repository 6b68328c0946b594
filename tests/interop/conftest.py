"""Real clients against a node that was started as a user starts it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence

import pytest

from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import NodeProcess

# Files that take a minute or more, longest first: whoever begins with one at the end lets the others wait.
LONGEST = (
    "test_ledger",
    "test_cluster",
    "test_login_flood",
    "test_crash",
    "test_certificates_restarts",
    "test_staging",
    "test_redirects",
    "test_differential",
    "test_outages",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/interop" in str(item.path):
            item.add_marker(pytest.mark.interop)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    name = item.path.stem
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


@pytest.fixture(scope="session")
def node() -> Iterator[NodeProcess]:
    """One node with real PostgreSQL and a real S3 server for all tests of the session."""
    with NodeProcess(("--s3", "rclone")) as node:
        yield node


@pytest.fixture
def account(node: NodeProcess, request: pytest.FixtureRequest) -> str:
    """A fresh account with password ``secret`` for this test alone."""
    name = "".join(ch if ch.isalnum() else "-" for ch in request.node.name.lower())
    address = f"{name}@interop.example.test"
    node.admin("accounts", "create", address, "--password-hash", SECRET_HASH)
    return address


# {SSHA512} of "secret": cheap to verify, and upgraded by the node at the first login
SECRET_HASH = (
    "{SSHA512}"
    "sA0uxvTZmjjgeqepQzW+3VNsblhqzltje58zvmzlAr0V6DwpiazN2VxnSFYthOpYDzqKXnv8rNmIQMOVX9alQgABAgMEBQYH"
)
PASSWORD = "secret"


def needs(program: str) -> str:
    """The path of a program, or a loud skip."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed; .ci/run installs it")
    return path


def deliver(node: NodeProcess, address: str, messages: Sequence[bytes]) -> None:
    """All of them over one LMTP connection; every one must be taken."""

    async def run() -> None:
        client = await LmtpClient.connect("127.0.0.1", node.port("lmtp"))
        for message in messages:
            replies = await client.deliver(message, [address])
            assert replies[0][0] == 250, replies
        await client.close()

    asyncio.run(run())
