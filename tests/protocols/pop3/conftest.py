from __future__ import annotations

import pytest

from protocols.pop3.maildrop import LocalMaildropLock
from protocols.pop3.session import pop3_sessions
from protocols.ports import ServerPolicy, SessionFactory
from tests.support.mailhost import MailHost, mail_host

MESSAGES = (
    b"Subject: one\r\n\r\nfirst\r\n",
    b"Subject: two\r\n\r\n.dot\r\n..two\r\nline 3\r\nline 4\r\n",
    b"Subject: no end\r\n\r\nbare\n.\nlf",
)


@pytest.fixture
async def host() -> MailHost:
    host = await mail_host()
    await host.put(*MESSAGES)
    return host


@pytest.fixture
def locks() -> LocalMaildropLock:
    return LocalMaildropLock()


@pytest.fixture
def factory(host: MailHost, locks: LocalMaildropLock) -> SessionFactory:
    """Passwords are allowed in the clear."""
    policy = ServerPolicy(name="pop3", hostname="mail.example.test", insecure_auth=True)
    return pop3_sessions(host.services, policy, locks)
