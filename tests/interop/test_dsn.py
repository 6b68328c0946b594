"""Who asks to be told is told: a real Postfix in front of a node and behind it (RFC 3461, RFC 3464)."""

from __future__ import annotations

import json
import smtplib
import time
from collections.abc import Iterator

import pytest

from tests.interop.conftest import PASSWORD, SECRET_HASH
from tests.support.nodeprocess import NodeProcess
from tests.support.postfix import Mail, Postfix, is_installed
from tests.support.relaysection import relay_section
from tests.support.sieveeditor import SieveEditor

PATIENCE_S = 120.0
SENDER = "ann@far.test"


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[NodeProcess, Postfix]]:
    if not is_installed():
        pytest.skip("needs root and Debian's postfix; .ci/run installs it")
    mta, node = Postfix(replies={"gone@else.test": "550 5.1.1 nobody"}), NodeProcess()
    section = relay_section(mta.port, node.directory / "data" / "relay")
    with node.prepare(lambda text: text + section) as running:
        mta.lmtp = {running.address.partition("@")[2]: running.port("lmtp")}
        with mta:
            yield running, mta


@pytest.fixture
def node(both: tuple[NodeProcess, Postfix]) -> NodeProcess:
    return both[0]


@pytest.fixture
def mta(both: tuple[NodeProcess, Postfix]) -> Postfix:
    return both[1]


def send(mta: Postfix, recipient: str, mark: str, notify: str) -> None:
    with smtplib.SMTP("127.0.0.1", mta.port, local_hostname="stranger.test") as client:
        client.sendmail(
            SENDER,
            [recipient],
            f"From: {SENDER}\r\nSubject: {mark}\r\n\r\nhello\r\n",
            mail_options=["RET=HDRS", f"ENVID={mark}"],
            rcpt_options=[f"NOTIFY={notify}", "ORCPT=rfc822;first+2Blast@far.test"],
        )


def settle(node: NodeProcess, mta: Postfix) -> None:
    """Nothing is on its way any more, in neither of them; looked at twice, as mail goes in circles."""
    deadline = time.monotonic() + PATIENCE_S
    quiet = 0
    while quiet < 3:
        queue = json.loads(node.admin("relay", "stats", "--json"))
        is_quiet = not (queue["pending"] or queue["processing"] or mta.queue())
        quiet = quiet + 1 if is_quiet else 0
        assert time.monotonic() < deadline, queue
        time.sleep(0.1)


def reports(mta: Postfix, mark: str) -> list[str]:
    """What came to the sender about this message."""
    return [
        each.content.decode()
        for each in mta.mails_to(SENDER)
        if f"Original-Envelope-Id: {mark}" in each.content.decode()
    ]


def account(node: NodeProcess, name: str, redirects_to: str) -> str:
    """A new one, with a script before its first mail: what is known of recipients is known for a while."""
    address = f"{name}@{node.address.partition('@')[2]}"
    node.admin("accounts", "create", address, "--password-hash", SECRET_HASH)
    script = f'redirect "{redirects_to}";'.encode()
    with SieveEditor(node, address, PASSWORD) as editor:
        put = b'PUTSCRIPT "r" {%d+}\r\n%b\r\n' % (len(script), script)
        assert editor.ask(put)[0].startswith(b"OK")
        assert editor.ask(b'SETACTIVE "r"\r\n')[0].startswith(b"OK")
    return address


def arrived(mta: Postfix, recipient: str, mark: str) -> list[Mail]:
    return [each for each in mta.mails_to(recipient) if f"Subject: {mark}".encode() in each.content]


def test_a_delivery_is_confirmed_once(node: NodeProcess, mta: Postfix) -> None:
    send(mta, node.address, "kept", "SUCCESS,FAILURE")
    send(mta, node.address, "silent", "NEVER")
    settle(node, mta)
    (report,) = reports(mta, "kept")
    for line in ("Action: delivered", "Original-Recipient: rfc822; first+last@far.test", "Subject: kept"):
        assert line in report
    assert f"Final-Recipient: rfc822; {node.address}" in report
    assert reports(mta, "silent") == []


def test_a_redirect_carries_the_wish_to_the_next_system(node: NodeProcess, mta: Postfix) -> None:
    send(mta, account(node, "onward", "bob@else.test"), "onward", "SUCCESS")
    settle(node, mta)
    assert len(arrived(mta, "bob@else.test", "onward")) == 1
    (report,) = reports(mta, "onward")
    assert "Final-Recipient: rfc822; bob@else.test" in report
    assert "Reporting-MTA: dns; mx.test" in report
    assert "first+last@far.test" in report


def test_a_redirect_that_fails(node: NodeProcess, mta: Postfix) -> None:
    address = account(node, "failing", "gone@else.test")
    for notify in ("NEVER", "SUCCESS", "FAILURE"):
        send(mta, address, f"failed-{notify}", notify)
    settle(node, mta)
    assert reports(mta, "failed-NEVER") == []
    assert reports(mta, "failed-SUCCESS") == []
    (report,) = reports(mta, "failed-FAILURE")
    assert "Action: failed" in report
    assert "gone@else.test" in report
