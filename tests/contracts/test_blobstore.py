"""One behaviour for every BlobStore: memory, a directory, and S3 against a real server."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from node.rclone import RcloneServer
from storage.api import BlobStore
from storage.errors import NotFound, StagingFull, Unavailable
from storage.memory.blobs import MemoryBlobStore
from storage.model import ContentHash, ContentId
from storage.objects.codec import FRAME_BYTES
from storage.objects.fs import FileBlobStore
from storage.objects.keys import object_key
from storage.objects.s3 import BucketUnusable, S3BlobStore, S3Config
from tests.support.faults import UnsyncedDisk
from tests.support.ports import free_port
from tests.support.s3 import ACCESS, SECRET, s3_config, s3_server

__all__ = ["s3_server"]  # a fixture


@pytest.fixture(params=["memory", "directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "memory":
        return MemoryBlobStore()
    if request.param == "directory":
        return FileBlobStore(tmp_path / "objects")
    return S3BlobStore(s3_config(request.getfixturevalue("s3_server")))


def key_of(number: int) -> str:
    return object_key(ContentHash(bytes([number]) * 32), ContentId(1_000_000 + number))


async def test_what_was_put_is_read_back(store: BlobStore) -> None:
    await store.put(key_of(1), [b"one", b"\x00\xff", b"two"])
    assert await store.get(key_of(1)) == b"one\x00\xfftwo"
    assert b"".join([piece async for piece in store.stream(key_of(1))]) == b"one\x00\xfftwo"


async def test_head_tells_the_size(store: BlobStore) -> None:
    assert await store.head(key_of(2)) is None
    await store.put(key_of(2), [b"x" * 1234])
    info = await store.head(key_of(2))
    assert info is not None
    assert (info.key, info.size_bytes) == (key_of(2), 1234)
    assert info.modified_at.tzinfo is not None


async def test_a_put_may_be_repeated(store: BlobStore) -> None:
    for _ in range(2):
        await store.put(key_of(3), [b"same"])
    assert await store.get(key_of(3)) == b"same"


async def test_many_are_put_at_once(store: BlobStore) -> None:
    objects = {key_of(number): [b"x" * number, b"tail"] for number in range(0x31, 0x3C)}
    slots = asyncio.Semaphore(3)
    for _ in range(2):  # it may be repeated
        assert await store.put_many(objects, slots) == {key: len(x) + 4 for key, (x, _) in objects.items()}
    assert [await store.get(key) for key in objects] == [b"".join(frames) for frames in objects.values()]
    assert await store.put_many({}, slots) == {}
    async with asyncio.timeout(60):  # all are free again
        for _ in range(3):
            await slots.acquire()


async def test_absent_object_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        await store.get(key_of(4))
    with pytest.raises(NotFound):
        [piece async for piece in store.stream(key_of(4))]


async def test_delete_is_repeatable_and_takes_absent_keys(store: BlobStore) -> None:
    await store.put(key_of(5), [b"gone"])
    await store.put(key_of(6), [b"stays"])
    for _ in range(2):
        await store.delete([key_of(5), key_of(7)])
    assert await store.head(key_of(5)) is None
    assert await store.get(key_of(6)) == b"stays"
    await store.delete([])


async def test_list_is_by_path_prefix(store: BlobStore) -> None:
    for number in (0x21, 0x22, 0x23):
        await store.put(key_of(number), [b"x" * number])
    found = {info.key: info.size_bytes async for info in store.list("bodies/22")}
    assert found == {key_of(0x22): 0x22}
    every = {info.key async for info in store.list("bodies")}
    assert every >= {key_of(0x21), key_of(0x22), key_of(0x23)}
    assert [info async for info in store.list("nothing/here")] == []


async def test_large_object_streams_in_pieces(store: BlobStore) -> None:
    frames = [bytes([n]) * FRAME_BYTES for n in range(24)]  # above any multipart threshold
    await store.put(key_of(8), frames)
    pieces = [piece async for piece in store.stream(key_of(8))]
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= FRAME_BYTES
    assert b"".join(pieces) == b"".join(frames)


async def test_directory_store_finds_no_key_outside_itself(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    store = FileBlobStore(tmp_path / "objects")
    for key in ("../secret", "a/../../secret", "/etc/passwd", "", "a//b", ".hidden", "nul\0byte"):
        with pytest.raises(NotFound):
            await store.get(key)


async def test_directory_store_lists_no_half_written_files(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path / "objects")
    await store.put(key_of(9), [b"whole"])
    torn = (tmp_path / "objects" / key_of(9)).with_name(".torn.tmp")
    torn.write_bytes(b"ha")
    assert [info.key async for info in store.list()] == [key_of(9)]
    await FileBlobStore(tmp_path / "objects").put(key_of(9), [b"whole"])
    assert torn.exists()  # may be a put of another node
    os.utime(torn, (0, 0))
    await FileBlobStore(tmp_path / "objects").put(key_of(9), [b"whole"])
    assert [path.name for path in torn.parent.iterdir()] == [Path(key_of(9)).name]


class CountingDisk(UnsyncedDisk):
    """Counts syncs; cannot make files of the names in ``full``, nor sync the directories in ``broken``."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[Path] = []
        self.full: set[str] = set()
        self.broken: set[Path] = set()

    def create(self, path: Path) -> int:
        if any(name in path.name for name in self.full):
            raise OSError(errno.ENOSPC, "full")
        return super().create(path)

    def fsync_dir(self, path: Path) -> None:
        if path in self.broken:
            raise OSError(errno.EIO, "broken")
        self.synced.append(path)


async def test_directory_is_synced_once_for_all_its_objects(tmp_path: Path) -> None:
    disk = CountingDisk()
    store = FileBlobStore(tmp_path, disk)
    objects = {f"bodies/{shard}/{name}": [b"x"] for shard in ("aa", "bb") for name in range(4)}
    await store.put_many(objects, asyncio.Semaphore(1))
    disk.synced.clear()
    await store.put_many({f"{key}.more": frames for key, frames in objects.items()}, asyncio.Semaphore(1))
    assert sorted(disk.synced) == [tmp_path / "bodies" / "aa", tmp_path / "bodies" / "bb"]


async def test_what_fails_to_be_put_into_a_directory_fails_alone(tmp_path: Path) -> None:
    disk = CountingDisk()
    store = FileBlobStore(tmp_path, disk)
    keys = ["aa/good", "aa/full", "bb/one", "bb/two"]
    await store.put_many({f"{key}.before": [b""] for key in keys}, asyncio.Semaphore(1))
    disk.full, disk.broken = {"full"}, {tmp_path / "bb"}
    done = await store.put_many({key: [b"body"] for key in keys}, asyncio.Semaphore(1))
    assert done["aa/good"] == 4
    assert isinstance(done["aa/full"], StagingFull)
    assert isinstance(done["bb/one"], Unavailable)  # in its place, and not known to be durable
    assert isinstance(done["bb/two"], Unavailable)
    assert list(tmp_path.rglob("*.tmp")) == []


async def test_directory_store_checks_that_it_can_write(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path / "new" / "objects")
    await store.check()
    assert [info async for info in store.list()] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        await FileBlobStore(tmp_path / "file" / "objects").check()


async def test_check_names_a_missing_bucket_and_the_cure(s3_server: RcloneServer) -> None:
    await S3BlobStore(s3_config(s3_server)).check()
    with pytest.raises(BucketUnusable, match=r"'nowhere'.*does not exist: create it"):
        await S3BlobStore(s3_config(s3_server, bucket="nowhere")).check()


async def test_wrong_secret_is_refused_and_transient(s3_server: RcloneServer) -> None:
    store = S3BlobStore(s3_config(s3_server, secret="not-the-secret-of-this-server-000000"))
    with pytest.raises(BucketUnusable, match=r"s3\.secret_key"):
        await store.check()
    with pytest.raises(Unavailable):
        await store.put(key_of(10), [b"x"])


async def test_environment_cannot_change_the_credentials(
    s3_server: RcloneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "stray")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    await S3BlobStore(s3_config(s3_server)).check()


async def test_endpoint_that_does_not_answer_is_unavailable() -> None:
    config = S3Config(f"http://127.0.0.1:{free_port()}", "mail", ACCESS, SECRET, timeout_s=1)
    with pytest.raises(Unavailable):
        await S3BlobStore(config).get(key_of(11))


def test_secret_is_not_shown() -> None:
    assert SECRET not in repr(S3Config("host", "mail", ACCESS, SECRET))


@pytest.mark.parametrize(
    ("endpoint", "use_tls", "path_style", "url"),
    [
        ("s3.example.com", True, True, "https://s3.example.com"),
        ("s3.example.com:9000", False, True, "http://s3.example.com:9000"),
        ("http://s3.example.com/", True, True, "http://s3.example.com"),
        ("s3.example.com", True, False, "https://mail.s3.example.com"),
        ("http://s3.example.com:9000", True, False, "http://mail.s3.example.com:9000"),
    ],
)
def test_url_of_the_endpoint(endpoint: str, use_tls: bool, path_style: bool, url: str) -> None:
    assert S3Config(endpoint, "mail", ACCESS, SECRET, use_tls=use_tls, path_style=path_style).url == url


def test_bucket_in_the_host_name() -> None:
    store = S3BlobStore(S3Config("s3.example.com", "mail", ACCESS, SECRET, path_style=False))
    assert store._store.config["endpoint"] == "https://mail.s3.example.com"
    assert store._store.config["virtual_hosted_style_request"] == "true"


async def test_requests_are_logged_on_demand(
    s3_server: RcloneServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sora.s3")
    await S3BlobStore(s3_config(s3_server)).head(key_of(1))
    assert caplog.text == ""
    await S3BlobStore(replace(s3_config(s3_server), debug=True)).put(key_of(1), [b"x"])
    assert f"writing object {key_of(1)} took" in caplog.text
    assert SECRET not in caplog.text


async def test_server_errors_are_retried_as_often_as_configured() -> None:
    requests = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = S3Config(f"http://127.0.0.1:{port}", "mail", ACCESS, SECRET, retries=1)
    async with server:
        with pytest.raises(Unavailable):
            await S3BlobStore(config).get(key_of(1))
    assert requests == 2
