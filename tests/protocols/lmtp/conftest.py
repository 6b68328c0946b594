from __future__ import annotations

import pytest

from protocols.lmtp.session import lmtp_sessions
from protocols.ports import ServerPolicy, SessionFactory
from tests.support.mailhost import NOW, MailHost, mail_host


@pytest.fixture
async def host() -> MailHost:
    return await mail_host()


@pytest.fixture
def policy() -> ServerPolicy:
    return ServerPolicy(name="lmtp", hostname="mail.example.test", max_message_bytes=10_000)


@pytest.fixture
def factory(host: MailHost, policy: ServerPolicy) -> SessionFactory:
    return lmtp_sessions(host.services, policy, now=lambda: NOW)
