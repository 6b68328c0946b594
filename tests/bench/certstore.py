"""``python -m tests.bench.certstore``: what the store of certificates costs on this machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from node.rclone import RcloneServer
from tests.support.issued import CA, NOW, generation
from tests.support.ports import free_port
from tests.support.s3 import ACCESS, SECRET
from tls.bundle import verify_bundle
from tls.vault.bucket import BucketConfig, S3Bucket
from tls.vault.mirror import Mirror
from tls.vault.records import dump
from tls.vault.sealing import NONCE_BYTES, Kind, Label, Seals
from tls.vault.vault import SealedVault

ROUNDS = 50
LABEL = Label(Kind.CERTIFICATE, "0123456789abcdef", "fedcba9876543210", 7)


def say(what: str, seconds: float, cpu_s: float) -> None:
    print(f"{what:<58} {seconds * 1e3:9.3f} ms {cpu_s * 1e3:9.3f} ms CPU")


async def measured(what: str, work: Callable[[], Awaitable[object]], rounds: int = ROUNDS) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        await work()
    say(what, (time.perf_counter() - started) / rounds, (time.process_time() - cpu) / rounds)


async def pure() -> None:
    seals, issued = Seals([b"s" * 32]), generation(7)
    content = dump(issued)
    sealed = seals.seal(LABEL, content, bytes(NONCE_BYTES))

    async def verify() -> None:
        verify_bundle(issued.chain_pem, issued.key_pem, issued.names, "it")

    async def seal() -> None:
        seals.seal(LABEL, content, bytes(NONCE_BYTES))

    async def unseal() -> None:
        seals.open(LABEL, sealed)

    await measured(f"seal {len(content)} octets", seal, 2000)
    await measured("open them", unseal, 2000)
    await measured("verify the chain (P-256, two certificates)", verify, 500)


async def stored(folder: Path) -> None:
    server = RcloneServer(folder / "s3", free_port(), ACCESS, SECRET)
    await server.start("mail")
    bucket = S3Bucket(BucketConfig("mail", f"127.0.0.1:{server.port}", "", ACCESS, SECRET, use_tls=False))
    try:
        await _stored(bucket, folder)
    finally:
        await bucket.close()
        await server.stop()


async def _stored(bucket: S3Bucket, folder: Path) -> None:
    def node(mirror: str = "") -> SealedVault:
        copies = Mirror(folder / mirror) if mirror else None
        return SealedVault(bucket, Seals([b"s" * 32]), [CA], mirror=copies, now=lambda: NOW)

    await measured("import aioboto3, make the client, first listing", lambda: bucket.list("x/"), 1)
    generations = iter([generation(fence) for fence in range(1, ROUNDS + 1)])
    one_each = [generation(3, [f"m{number}.test"]) for number in range(ROUNDS)]
    publisher = node("publisher")
    await measured("publish, with the mirror synced", lambda: publisher.publish(next(generations)))
    for each in one_each:
        for fence in (1, 2, 3):
            await publisher.publish(generation(fence, each.names))
    ids = iter([each.wanted_id for each in one_each] * 3)
    fresh = node("fresh")
    await measured("newest of three, not seen before, mirror synced", lambda: fresh.newest(next(ids)))
    await measured("newest of three, seen before", lambda: fresh.newest(next(ids)))
    again = node("fresh")
    await measured("newest from the mirror, after a restart", lambda: again.newest_local(next(ids)))
    await measured("one PUT", lambda: bucket.put("bench/x", b"x" * 2000))
    await measured("one GET", lambda: bucket.get("bench/x"))


def memory_of(statement: str) -> float:
    code = f"{statement}\nprint(*(line for line in open('/proc/self/status') if line.startswith('VmRSS')))"
    return int(subprocess.check_output([sys.executable, "-c", code], text=True).split()[1]) / 1024


def main() -> None:
    asyncio.run(pure())
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(stored(Path(folder)))
    plain = memory_of("import asyncio, ssl, tls.vault.vault")
    print(f"aioboto3 imported: {memory_of('import tls.vault.vault, aioboto3') - plain:.0f} MB more")


if __name__ == "__main__":
    main()
