"""A real S3 server for tests: rclone over a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from node.rclone import RcloneServer
from storage.objects.s3 import S3Config
from tests.support.ports import free_port

ACCESS, SECRET = "SORATESTACCESSKEY001", "sora-test-secret-key-0123456789abcdef"
BUCKET = "mail"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def s3_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RcloneServer]:
    """With one bucket; objects of earlier tests of the module may be in it."""
    server = RcloneServer(tmp_path_factory.mktemp("s3") / "objects", free_port(), ACCESS, SECRET)
    await server.start(BUCKET)
    yield server
    await server.stop()


def s3_config(server: RcloneServer, bucket: str = BUCKET, secret: str = SECRET) -> S3Config:
    return S3Config(f"127.0.0.1:{server.port}", bucket, ACCESS, secret, use_tls=False, timeout_s=10)
