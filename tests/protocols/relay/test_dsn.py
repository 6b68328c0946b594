"""RFC 3461 on the way out: what the remote is told, and who gets reports."""

from __future__ import annotations

import json

from protocols.relay.dsn import Action, Failure, Reported, report
from protocols.relay.http import encode_request
from protocols.relay.smtp import SmtpSettings, SmtpTransport
from storage.dsn import DsnRequest, MessageDsn, Notify, RecipientDsn
from storage.relayfile import Fate, Verdict
from tests.support.smtpserver import SmtpServer

TO = ("a@x.test", "b@x.test", "c@x.test")
MESSAGE = b"Subject: x\r\n\r\nend\r\n"
REQUEST = DsnRequest(
    MessageDsn("HDRS", "id+2B7"),
    (
        RecipientDsn(frozenset({Notify.SUCCESS, Notify.FAILURE}), "rfc822;old@y.test"),
        RecipientDsn(frozenset({Notify.NEVER}), "utf-8;grün@y.test"),
        RecipientDsn(),
    ),
)


async def commands(server: SmtpServer) -> list[str]:
    relay = SmtpTransport(SmtpSettings("127.0.0.1", server.port, "me.test"))
    try:
        verdicts = await relay.send("s@y.test", TO, MESSAGE, REQUEST)
    finally:
        await relay.close()
    assert [each.fate for each in verdicts] == [Fate.TAKEN] * 3
    assert [each.has_dsn for each in verdicts] == ["DSN" in server.extensions] * 3
    return [each for each in server.commands if each.startswith(("MAIL", "RCPT"))]


async def test_what_the_sender_wants_goes_along() -> None:
    async with SmtpServer(extensions=("DSN",)) as server:
        assert await commands(server) == [
            "MAIL FROM:<s@y.test> RET=HDRS ENVID=id+2B7",
            "RCPT TO:<a@x.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;old@y.test",
            "RCPT TO:<b@x.test> NOTIFY=NEVER",
            "RCPT TO:<c@x.test>",
        ]


async def test_a_relay_without_the_extension_is_not_bothered() -> None:
    async with SmtpServer(extensions=()) as server:
        assert await commands(server) == ["MAIL FROM:<s@y.test>", *(f"RCPT TO:<{each}>" for each in TO)]


def test_over_http() -> None:
    plain = json.loads(encode_request("s@y.test", TO, MESSAGE, REQUEST))
    assert plain["dsn"]["envid"] == "id+2B7"
    assert plain["dsn"]["recipients"][0] == ["SUCCESS,FAILURE", "rfc822;old@y.test"]
    assert "dsn" not in json.loads(encode_request("s@y.test", TO, MESSAGE))


def test_a_report_is_the_same_each_time_and_another_for_each_action() -> None:
    fates = [Failure("a@x.test", Verdict(Fate.TAKEN, "2.0.0", "250 queued", "mx.x.test"), "rfc822;o+2Bo@x")]
    reported = Reported("1-2", "s@y.test", 1_800_000_000.0, "id+2B7")
    made = [report(each, reported, fates, MESSAGE, hostname="m", at=1.0) for each in (*Action, *Action)]
    assert len(set(made)) == len(Action)
    relayed = made[list(Action).index(Action.RELAYED)]
    for line in (
        *(b"Original-Envelope-Id: id+7", b"Original-Recipient: rfc822; o+o@x", b"Action: relayed"),
        b"Remote-MTA: dns; mx.x.test",
    ):
        assert line + b"\r\n" in relayed
