"""One behaviour for every bucket: in memory, a directory, and S3 against a real server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from node.rclone import RcloneServer
from tests.support.certificates import localhost_contexts
from tests.support.faults import UnsyncedDisk
from tests.support.s3 import ACCESS, SECRET, s3_server
from tls.ports import Bucket, BucketUnavailable
from tls.vault.bucket import BucketConfig, S3Bucket
from tls.vault.directory import OBJECT_BYTES_MAX, DirectoryBucket
from tls.vault.memory import MemoryBucket

__all__ = ["s3_server"]  # a fixture

KEY = "tls/v1/0123456789abcdef/certs/fedcba9876543210/000000000007-0011223344556677.bin"


def bucket_config(server: RcloneServer, bucket: str = "mail") -> BucketConfig:
    return BucketConfig(bucket, f"127.0.0.1:{server.port}", "us-east-1", ACCESS, SECRET, use_tls=False)


@pytest_asyncio.fixture
async def memory() -> MemoryBucket:
    return MemoryBucket()


@pytest_asyncio.fixture
async def directory(tmp_path: Path) -> DirectoryBucket:
    return DirectoryBucket(tmp_path / "bucket", UnsyncedDisk())


@pytest_asyncio.fixture
async def s3(s3_server: RcloneServer) -> AsyncIterator[Bucket]:
    opened = S3Bucket(bucket_config(s3_server))
    yield opened
    for key in await opened.list(""):
        await opened.delete(key)
    await opened.close()


@pytest.fixture(params=["memory", "directory", "s3"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param)
    return found


async def test_what_was_put_is_read_back(bucket: Bucket) -> None:
    for size in (0, 1, 5000, 300_000):
        data = bytes(range(256)) * (size // 256 + 1)
        await bucket.put(f"{KEY}.{size}", data[:size])
        assert await bucket.get(f"{KEY}.{size}") == data[:size]


async def test_absent_is_none(bucket: Bucket) -> None:
    assert await bucket.get(KEY) is None
    await bucket.put(KEY, b"x")
    assert await bucket.get(KEY + "x") is None


async def test_put_may_be_repeated(bucket: Bucket) -> None:
    for _ in range(2):
        await bucket.put(KEY, b"same")
    assert await bucket.get(KEY) == b"same"
    assert await bucket.list("tls/") == [KEY]


async def test_a_listing_is_in_order_and_only_of_what_is_below(bucket: Bucket) -> None:
    keys = [f"tls/v1/a/certs/b/{number:012}-0.bin" for number in (1, 2, 10, 1_700_000_000, 99)]
    others = ["tls/v1/a/certs/c/1.bin", "tls/v1/aa/certs/b/1.bin", "other/x", "tls/v1/challenges/token_-A"]
    for key in [*keys, *others]:
        await bucket.put(key, b"x")
    assert await bucket.list("tls/v1/a/certs/b/") == sorted(keys)
    assert await bucket.list("tls/v1/a") == sorted([*keys, *others[:2]])
    assert await bucket.list("tls/v1/challenges/") == [others[3]]
    assert await bucket.list("nothing/here/") == []
    assert await bucket.list("") == sorted([*keys, *others])


async def test_a_listing_has_all_pages_and_an_end(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tls.vault.bucket.PAGE_KEYS", 3)
    keys = [f"many/{number:04}" for number in range(10)]
    await asyncio.gather(*(s3.put(key, b"x") for key in keys))
    assert await s3.list("many/") == keys
    monkeypatch.setattr("tls.vault.bucket.KEYS_MAX", 9)
    with pytest.raises(BucketUnavailable, match="something else writes there"):
        await s3.list("many/")


async def test_deleting_is_harmless_when_it_is_not_there(bucket: Bucket) -> None:
    await bucket.delete(KEY)
    await bucket.put(KEY, b"x")
    await bucket.delete(KEY)
    await bucket.delete(KEY)
    assert await bucket.get(KEY) is None
    assert await bucket.list("") == []


async def test_many_at_once(bucket: Bucket) -> None:
    keys = [f"tls/{number:03}" for number in range(40)]
    await asyncio.gather(*(bucket.put(key, key.encode()) for key in keys))
    assert await asyncio.gather(*(bucket.get(key) for key in keys)) == [key.encode() for key in keys]


async def test_objects_far_too_long_are_cut(directory: DirectoryBucket, s3: S3Bucket) -> None:
    for bucket in (directory, s3):
        await bucket.put(KEY, bytes(3 * OBJECT_BYTES_MAX))
        found = await bucket.get(KEY)
        assert found is not None
        assert len(found) == OBJECT_BYTES_MAX + 1
        await bucket.put(KEY + "2", b"after")
        assert await bucket.get(KEY + "2") == b"after"


# --- a directory ---


async def test_files_are_for_their_owner_only(directory: DirectoryBucket) -> None:
    await directory.put(KEY, b"x")
    assert (directory.root / KEY).stat().st_mode & 0o777 == 0o600
    for parent in (directory.root / KEY).parents:
        if parent.is_relative_to(directory.root):
            assert parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (directory.root / KEY).parent.iterdir()] == [KEY.rpartition("/")[2]]


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a/.b", "a\0b"]
)
async def test_keys_that_are_no_plain_path_are_refused(directory: DirectoryBucket, key: str) -> None:
    for call in (directory.get, directory.delete):
        with pytest.raises(ValueError, match="not a key"):
            await call(key)
    with pytest.raises(ValueError, match="not a key"):
        await directory.put(key, b"x")


async def test_prefixes_stay_inside(directory: DirectoryBucket) -> None:
    for prefix in ("../", "a/../../", "/"):
        with pytest.raises(ValueError, match="not a prefix"):
            await directory.list(prefix)


async def test_what_the_system_says_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    bucket = DirectoryBucket(tmp_path / "file")
    for call in (bucket.put(KEY, b"x"), bucket.get(KEY), bucket.delete(KEY), bucket.list("tls/")):
        with pytest.raises(BucketUnavailable, match="failed: Not a directory"):
            await call


# --- S3 ---


async def calls(bucket: S3Bucket) -> list[str]:
    """What each operation says when it fails; all must."""
    operations: list[Callable[[], Awaitable[object]]] = [
        lambda: bucket.get(KEY),
        lambda: bucket.put(KEY, b"x"),
        lambda: bucket.list("tls/"),
    ]
    said = []
    for operation in operations:
        with pytest.raises(BucketUnavailable) as failed:
            await operation()
        said.append(str(failed.value))
    await bucket.close()
    return said


async def test_a_missing_bucket_is_no_missing_object(s3_server: RcloneServer) -> None:
    for text in await calls(S3Bucket(bucket_config(s3_server, "elsewhere"))):
        assert "bucket 'elsewhere' at http://127.0.0.1" in text
        assert "does not exist" in text


async def test_a_wrong_secret_is_named(s3_server: RcloneServer) -> None:
    config = bucket_config(s3_server)
    wrong = BucketConfig(config.bucket, config.endpoint, access_key=ACCESS, secret_key="no", use_tls=False)
    for text in await calls(S3Bucket(wrong)):
        assert "check secret_key" in text
        assert SECRET not in text


async def test_a_server_that_is_down_is_named() -> None:
    gone = BucketConfig("mail", "http://127.0.0.1:1", access_key="a", secret_key="b", attempts=1)
    for text in await calls(S3Bucket(gone)):
        assert text.startswith(("reading", "writing", "listing"))
        assert "cannot be reached" in text
        assert "\n" not in text


async def test_an_endpoint_that_is_none_is_named() -> None:
    for text in await calls(S3Bucket(BucketConfig("mail", "http://a b/", access_key="a", secret_key="b"))):
        assert "Invalid endpoint" in text


class Strangers:
    """Servers that give everybody one answer, or none, and remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._servers: list[asyncio.Server] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def start(
        self,
        answer: bytes,
        *,
        stays_open: bool = False,
        tls: ssl.SSLContext | None = None,
        read_timeout_s: float = 60.0,
    ) -> BucketConfig:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            if answer and not stays_open:
                writer.close()

        self._servers.append(await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls))
        port = self._servers[-1].sockets[0].getsockname()[1]
        endpoint = f"http{'s' if tls else ''}://localhost:{port}"
        return BucketConfig("mail", endpoint, "r", "a", "b", attempts=1, read_timeout_s=read_timeout_s)

    def stop(self) -> None:
        for writer in self._writers:
            writer.close()
        for server in self._servers:
            server.close()


@pytest_asyncio.fixture
async def strangers() -> AsyncIterator[Strangers]:
    started = Strangers()
    yield started
    started.stop()


def response(status: str, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode() + body


def error_body(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>words</Message></Error>".encode()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (response("404 Not Found", b"<html>nothing here</html>"), "not from the object store"),
        (response("404 Not Found", b""), "not from the object store"),
        (response("404 Not Found", error_body("NoSuchBucket")), "does not exist"),
        (response("403 Forbidden", error_body("AccessDenied")), "what they may do"),
        (response("403 Forbidden", b""), "what they may do"),
        (response("400 Bad Request", error_body("ExpiredToken")), "have expired"),
        (response("403 Forbidden", error_body("RequestTimeTooSkewed")), "clock"),
        (response("503 Slow Down", error_body("SlowDown")), "slow down"),
        (response("500 Oops", b"<xml"), "500"),
        (response("200 OK", b"half", length=100), "failed"),
        (b"HTTP/1.1 nonsense\r\n\r\n", "failed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "failed"),
        (b"", "in time"),
    ],
)
async def test_nothing_but_a_clean_answer_says_that_an_object_is_absent(
    strangers: Strangers, answer: bytes, told: str
) -> None:
    bucket = S3Bucket(await strangers.start(answer, read_timeout_s=60.0 if answer else 0.2))
    with pytest.raises(BucketUnavailable, match=told) as failed:
        await bucket.get(KEY)
    assert "\n" not in str(failed.value)
    await bucket.close()


async def test_the_stores_own_word_is_believed(strangers: Strangers) -> None:
    bucket = S3Bucket(await strangers.start(response("404 Not Found", error_body("NoSuchKey"))))
    assert await bucket.get(KEY) is None
    await bucket.delete(KEY)
    await bucket.close()


async def test_a_body_that_stalls(strangers: Strangers) -> None:
    half = response("200 OK", b"half", length=100)
    bucket = S3Bucket(await strangers.start(half, stays_open=True, read_timeout_s=0.2))
    with pytest.raises(BucketUnavailable, match="in time"):
        await bucket.get(KEY)
    await bucket.close()


async def test_the_whole_operation_is_bounded(strangers: Strangers) -> None:
    bucket = S3Bucket(await strangers.start(b"", read_timeout_s=1000))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):  # cancelled by the caller, not swallowed
            await bucket.get(KEY)
    await bucket.close()
    assert BucketConfig("mail").time_limit_s == 29


@pytest.mark.parametrize(
    ("encryption", "kms_key", "expected"),
    [
        ("", "", {}),
        ("", "key", {}),
        ("AES256", "key", {"": "AES256"}),
        ("aws:kms", "", {"": "aws:kms"}),
        ("aws:kms", "key", {"": "aws:kms", "-aws-kms-key-id": "key"}),
    ],
)
async def test_what_a_put_asks_of_the_store(
    strangers: Strangers, encryption: str, kms_key: str, expected: dict[str, str]
) -> None:
    config = await strangers.start(response("200 OK", b""))
    bucket = S3Bucket(replace(config, server_side_encryption=encryption, kms_key_id=kms_key))
    await bucket.put(KEY, b"x")
    await bucket.close()
    (asked,) = strangers.asked
    request, *lines = asked.decode().split("\r\n")
    assert request == f"PUT /mail/{KEY} HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    name = "x-amz-server-side-encryption"
    assert {k.removeprefix(name): v for k, v in headers.items() if k.startswith(name)} == {
        key: value.lower() for key, value in expected.items()
    }
    assert "/r/s3/aws4_request" in headers["authorization"]
    assert "trailer" not in asked.decode().lower()


async def test_a_private_ca_is_trusted_where_it_is_named(strangers: Strangers, tmp_path: Path) -> None:
    server, _ = localhost_contexts(tmp_path)
    config = await strangers.start(response("404 Not Found", error_body("NoSuchKey")), tls=server)
    wary = S3Bucket(config)
    with pytest.raises(BucketUnavailable, match="ca_file"):
        await wary.get(KEY)
    await wary.close()
    trusting = S3Bucket(replace(config, ca_file=str(tmp_path / "both.pem")))
    assert await trusting.get(KEY) is None
    await trusting.close()


async def test_credentials_of_the_chain(s3_server: RcloneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = S3Bucket(replace(bucket_config(s3_server), access_key="", secret_key=""))
    with pytest.raises(BucketUnavailable, match="set access_key and secret_key"):
        await bucket.list("tls/")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    await bucket.put(KEY, b"x")  # looked for again
    await bucket.delete(KEY)
    await bucket.close()


async def test_keys_of_the_configuration_go_to_its_endpoint_only(
    s3_server: RcloneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another's")
    bucket = S3Bucket(bucket_config(s3_server))
    assert await bucket.get(KEY) is None
    await bucket.close()
    aws = S3Bucket(BucketConfig("mail", region="eu-central-1", access_key="a", secret_key="b"))
    client = await aws._connected()  # asks nobody
    assert client.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    await aws.close()


def test_secrets_are_not_shown(s3_server: RcloneServer) -> None:
    assert SECRET not in repr(bucket_config(s3_server))


async def test_one_client_serves_all_calls_and_may_be_opened_again(s3: S3Bucket) -> None:
    await asyncio.gather(*(s3.list("tls/") for _ in range(5)))
    first = s3._client
    await s3.put(KEY, b"x")
    assert s3._client is first
    await s3.close()
    assert await s3.get(KEY) == b"x"
    assert s3._client is not first
