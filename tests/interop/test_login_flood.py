"""Two hundred wrong passwords a second from one address, while honest users log in."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time

import pytest

from tests.support.nodeprocess import NodeProcess

from .conftest import PASSWORD, SECRET_HASH

ATTACKER, HONEST = "127.0.0.2", "127.0.1.3"
GUESSES_PER_S = 200
LASTS_S = 4.0
LOGINS = 12
PATIENCE_S = 5.0  # whoever is served in less does not stand in a queue


async def login(node: NodeProcess, ip: str, user: str, password: str) -> bytes:
    """The reply, or what the server said instead of a greeting."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port("imap"), local_addr=(ip, 0))
    reply = await reader.readline()
    if reply.startswith(b"* OK"):
        writer.write(f'a LOGIN "{user}" "{password}"\r\n'.encode())
        reply = await reader.readline()
    writer.close()
    return reply


async def guess(node: NodeProcess, number: int) -> tuple[float, bytes]:
    """Seconds until the reply, and the reply."""
    user, began = f"victim{number % 20}@interop.example.test", time.monotonic()
    try:
        reply = await login(node, ATTACKER, user, f"guess {number}")
    except OSError:
        reply = b""
    return time.monotonic() - began, reply


async def flood(node: NodeProcess) -> list[tuple[float, bytes]]:
    tasks = []
    began = time.monotonic()
    while (passed := time.monotonic() - began) < LASTS_S:
        while len(tasks) < passed * GUESSES_PER_S:
            tasks.append(asyncio.create_task(guess(node, len(tasks))))
        await asyncio.sleep(0.005)
    return await asyncio.gather(*tasks)


async def honest(node: NodeProcess, users: list[str]) -> list[float]:
    """Seconds of each login; none of them is remembered."""
    took = []
    for user in users:
        began = time.monotonic()
        reply = await login(node, HONEST, user, PASSWORD)
        took.append(time.monotonic() - began)
        assert b"a OK" in reply, reply
        await asyncio.sleep(LASTS_S / len(users) / 2)
    return took


@pytest.mark.parametrize("is_limited", [True, False])
def test_honest_users_are_served_during_a_flood(is_limited: bool) -> None:
    """Without limits too: the password checks of different addresses take turns."""
    rules = f'enabled = {str(is_limited).lower()}, exempt_networks = [], initial_delay = "0s"'

    def edit(text: str) -> str:
        return re.sub(r'(?m)^(name = "imap")$', rf"\1\nauth_rate_limit = {{ {rules} }}", text)

    with NodeProcess().prepare(edit) as node:
        users = [f"user{n}@interop.example.test" for n in range(2 * LOGINS)]
        for user in users:
            node.admin("accounts", "create", user, "--password-hash", SECRET_HASH)

        async def run() -> tuple[list[float], list[float], list[tuple[float, bytes]]]:
            quiet = await honest(node, users[:LOGINS])
            flooding = asyncio.create_task(flood(node))
            await asyncio.sleep(0.5)
            busy = await honest(node, users[LOGINS:])
            return quiet, busy, await flooding

        quiet, busy, guesses = asyncio.run(run())
        longest, replies = max(took for took, _ in guesses), [reply for _, reply in guesses]
        shown = f"quiet {statistics.median(quiet):.3f} s, flooded {statistics.median(busy):.3f} s"
        print(f"{shown}, worst {max(busy):.3f} s, {len(replies)} guesses, worst {longest:.3f} s")
        assert max(busy) < max(PATIENCE_S, longest / 2), busy  # in one queue all would wait alike
        assert len(replies) > GUESSES_PER_S
        assert not any(b"a OK" in reply for reply in replies)
        listed = json.loads(node.admin("blocks", "list", "--json"))
        assert [block["rule"] for block in listed if not block["user"]] == (["fast"] if is_limited else [])
        if is_limited:
            node.admin("blocks", "remove", ATTACKER)
        assert b"a OK" in asyncio.run(login(node, ATTACKER, users[0], PASSWORD))
