"""kill -9 under load: what was acknowledged is there exactly once, and the node comes back by itself."""

from __future__ import annotations

import asyncio
import collections
import random
import re

import pytest
from imapclient import IMAPClient

from tests.support.corpus import messages
from tests.support.livenode import client_context
from tests.support.lmtp import LmtpClient
from tests.support.nodeprocess import NodeProcess
from tests.support.waiting import PATIENCE_S

ROUNDS = 3
CONNECTIONS = 6
MESSAGE_ID = re.compile(rb"(?m)^Message-ID: (<\d[^>]*>)")


async def deliver_until_cut(node: NodeProcess, unsent: collections.deque[bytes], acked: set[bytes]) -> None:
    """Deliver from ``unsent``; what was not answered when the connection broke goes back, as an MTA does."""
    try:
        client = await LmtpClient.connect("127.0.0.1", node.port("lmtp"))
    except OSError:
        return
    while unsent:
        message = unsent.popleft()
        try:
            ((code, text),) = await client.deliver(message, [node.address])
        except (ConnectionError, OSError):
            unsent.append(message)
            return
        if code == 250:
            acked.add(message_id(message))
        else:
            assert 400 <= code < 500, text
            unsent.append(message)
    await client.close()


def message_id(message: bytes) -> bytes:
    found = MESSAGE_ID.search(message)
    assert found is not None
    return found[1]


def stored_ids(node: NodeProcess) -> list[bytes]:
    with IMAPClient("localhost", port=node.port("imaps"), ssl_context=client_context(node)) as client:
        client.login(node.address, node.password)
        client.select_folder("INBOX", readonly=True)
        bodies = client.fetch(client.search(), ["BODY.PEEK[]"]).values()
        return [message_id(entry[b"BODY[]"]) for entry in bodies]


@pytest.mark.parametrize(
    ("with_children", "s3"),
    [(True, "file"), (False, "file"), (True, "rclone"), (False, "rclone")],
    ids=["everything", "node alone", "everything with S3", "node alone with S3"],
)
def test_acknowledged_messages_survive_kill_9_exactly_once(with_children: bool, s3: str) -> None:
    seed = 2 * (s3 == "rclone") + with_children
    rng = random.Random(seed)
    sent = list(messages(seed, 4000))
    unsent, acked = collections.deque(sent), set[bytes]()
    with NodeProcess(("--s3", s3)) as node:
        for _ in range(ROUNDS):
            before = len(acked)

            async def load(enough: int) -> None:
                tasks = [
                    asyncio.create_task(deliver_until_cut(node, unsent, acked)) for _ in range(CONNECTIONS)
                ]
                async with asyncio.timeout(PATIENCE_S):
                    while len(acked) < enough:
                        await asyncio.sleep(0.001)
                node.kill(children=with_children)
                await asyncio.gather(*tasks)

            asyncio.run(load(before + rng.randint(1, 250)))
            node.start()
            counts = collections.Counter(stored_ids(node))
            assert set(counts) >= acked, f"lost: {sorted(acked - set(counts))[:5]}"
            assert not [i for i, n in counts.items() if n > 1]
        # the MTA tries again what it had no reply for: that stands at the end of the queue
        while len(unsent) > 50:
            unsent.popleft()
        asyncio.run(deliver_until_cut(node, unsent, acked))
        assert not unsent
        counts = collections.Counter(stored_ids(node))
        assert set(counts) >= acked
        assert not [i for i, n in counts.items() if n > 1]
        node.wait_until_uploaded()
