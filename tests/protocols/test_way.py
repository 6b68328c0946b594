"""In by LMTP and out by POP3 with the real intake, codec and body source in between: all bytes the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from protocols.lmtp.session import lmtp_sessions
from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy
from storage.bodies import BodyFinder
from storage.intake import LocalIntake
from storage.memory.background import MemoryUploadStore
from storage.memory.blobs import MemoryBlobStore
from storage.mime.message import describe
from storage.objects.codec import Codec, KeyRing
from storage.staging import DatabaseStaging, StagingBound
from tests.support.mailhost import NOW, mail_host
from tests.support.pop3 import message_of
from tests.support.wire import Wire

HOSTILE = [
    b"",
    b"\r\n",
    b".\r\n",
    b"no header at all",
    b"Subject: bare\nlf\r\n\r\n\n.\n\r.\r\n.\r\n..\r\n",
    b"Subject: \xff\xfe \x00\r\n\r\n\x00\x00\r\n",
    b"Subject: long\r\n\r\n" + b"x" * 5000 + b"\r\n",
    b"Subject: dots\r\n\r\n" + b".\r\n" * 3000,
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\npart\r\n",
    b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 200_000 + b"\r\n",
]


async def no_backlog() -> int:
    return 0


async def test_lmtp_to_pop3(tmp_path: Path) -> None:
    host = await mail_host()
    uploads, codec = MemoryUploadStore(host.tables), Codec(KeyRing(b"k" * 32))
    staging = DatabaseStaging(uploads, StagingBound(1 << 30, no_backlog))
    bodies = BodyFinder(MemoryBlobStore(), staging, uploads, codec, tmp_path / "tmp")
    intake = LocalIntake(staging, codec, describe, tmp_path / "spool")
    services = dataclasses.replace(host.services, intake=intake, bodies=bodies)
    policy = ServerPolicy(name="x", hostname="mail.example.test", insecure_auth=True)
    lmtp = Wire(lmtp_sessions(services, policy, now=lambda: NOW))
    await lmtp.send(b"LHLO x\r\n")
    for message in HOSTILE:
        await lmtp.send(b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<ann@example.test>\r\n")
        framed = b"BDAT %d LAST\r\n" % len(message) + message
        for at in range(0, len(framed), 100_000):
            lmtp.feed(framed[at : at + 100_000])
        assert await lmtp.send(b"") == b"250 2.0.0 Delivered\r\n"
    pop3 = Wire(pop3_sessions(services, policy, LocalMaildropLock()))
    await pop3.send(b"USER ann@example.test\r\nPASS secret\r\n")
    for number, message in enumerate(HOSTILE, start=1):
        reply = await pop3.send(b"RETR %d\r\n" % number)
        head, _, content = message_of(reply).partition(b"+0000\r\n")
        assert head.startswith(b"Return-Path: <>\r\nDelivered-To: ann@example.test\r\n")
        assert content == message or content == message + b"\r\n"
        assert int(reply.split()[1]) == len(head) + 7 + len(message)
        top = message_of(await pop3.send(b"TOP %d 1\r\n" % number))
        assert (head + b"+0000\r\n" + message + b"\r\n").startswith(top.removesuffix(b"\r\n"))
    await bodies.close()
