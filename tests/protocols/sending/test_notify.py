"""notify from the message that comes to the notification that goes."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from protocols.ports import MailKind
from protocols.sending.means import SendingLimits
from storage.errors import StagingFull, StorageError, Unavailable
from storage.model import INBOX
from tests.support.sievehost import ANN, FROM, SieveHost, sieve_host

from .letters import message, parsed

REQUIRE = 'require ["enotify", "fcc", "variables", "mailbox"];'
PAGER = "pager@phone.test"
NOTIFY = f'{REQUIRE} notify "mailto:{PAGER}";'


@pytest.fixture
async def host() -> SieveHost:
    return await sieve_host()


def mail(number: int = 1, **fields: str) -> bytes:
    return message(**{"Message_ID": f"<{number}@far.example>", "From": FROM} | fields)


async def test_the_notification(host: SieveHost) -> None:
    await host.put(NOTIFY)
    assert await host.send(message=mail()) == [None]
    (sent,) = host.outbox.sent
    assert (sent.envelope_from, sent.recipients, sent.kind) == (ANN, (PAGER,), MailKind.NOTIFY)
    notice = parsed([sent.message])
    assert sent.message.startswith(b"Auto-Submitted: auto-notified;")
    assert notice["Auto-Submitted"].split() == ["auto-notified;", f'owner-email="{ANN}"']
    assert (notice["From"], notice["To"], notice["Subject"]) == (ANN, PAGER, "Lunch?")
    assert notice["References"] == "<1@far.example>"
    assert notice["Message-ID"] != "<1@far.example>"
    assert notice["Importance"] is None
    assert f"From: {FROM}" in notice.get_content()
    assert await host.count() == {INBOX: 1}


async def test_what_script_and_uri_say(host: SieveHost) -> None:
    await host.host.add_alias(ANN, "annie@example.test")
    await host.put(
        f'{REQUIRE} notify :from "Ann <annie@example.test>" :importance "1" :message "Grüße!"'
        f' "mailto:{PAGER}?cc=b@c.test&subject=other&body=Hi%0D%0A.%0D%0Athere&from=e@vil.test&keywords=x";'
    )
    assert await host.send(message=mail()) == [None]
    (sent,) = host.outbox.sent
    assert (sent.envelope_from, sent.recipients) == ("annie@example.test", (PAGER, "b@c.test"))
    notice = parsed([sent.message])
    assert (notice["From"], notice["Cc"]) == ("Ann <annie@example.test>", "b@c.test")
    assert notice["Subject"] == "Grüße!"
    assert (notice["Importance"], notice["X-Priority"], notice["Keywords"]) == ("high", "1", "x")
    assert notice.get_content().splitlines() == ["Hi", ".", "there"]


async def test_the_uri_has_a_subject_and_an_importance_of_its_own(host: SieveHost) -> None:
    await host.put(
        f'{REQUIRE} notify :importance "3" "mailto:{PAGER}?subject=One%20two&importance=urgent&body=";'
    )
    await host.send(message=mail())
    notice = parsed([host.outbox.sent[0].message])
    assert (notice["Subject"], notice["Importance"], notice["X-Priority"]) == ("One two", "urgent", "5")
    assert notice.get_content().strip() == ""


async def test_words_of_strangers_start_no_field(host: SieveHost) -> None:
    await host.put(
        f'{REQUIRE} if header :matches "subject" "*" {{ set "s" "${{1}}"; }}'
        f' notify :message "${{s}}" "mailto:{PAGER}?body=${{s}}";'
    )
    await host.send(message=mail(Subject="=?utf-8?q?Hi=0D=0ABcc:_eve@evil.test=0D=0A=0D=0AX?="))
    notice = parsed([host.outbox.sent[0].message])
    assert notice["Bcc"] is None
    assert notice["Subject"] == "Hi Bcc: eve@evil.test X"


async def test_an_address_that_is_not_the_accounts_is_not_used(host: SieveHost) -> None:
    await host.put(f'{REQUIRE} notify :from "boss@example.test" "mailto:{PAGER}";')
    await host.send("ann+x@example.test", message=mail())
    (sent,) = host.outbox.sent
    assert sent.envelope_from == "ann+x@example.test"
    assert parsed([sent.message])["From"] == "ann+x@example.test"


async def test_null_senders_notify_with_the_null_path(host: SieveHost) -> None:
    await host.put(NOTIFY)
    await host.send(message=mail(), sender="")
    assert host.outbox.sent[0].envelope_from == ""


@pytest.mark.parametrize(("value", "sent"), [("auto-notified", 0), ("auto-generated", 0), ("No", 1)])
async def test_automatic_mail_notifies_nobody(host: SieveHost, value: str, sent: int) -> None:
    await host.put(NOTIFY)
    assert await host.send(message=mail(Auto_Submitted=value)) == [None]
    assert len(host.outbox.sent) == sent
    assert await host.count() == {INBOX: 1}


async def test_notifications_notify_nobody(host: SieveHost) -> None:
    await host.put(NOTIFY)
    await host.send(message=mail())
    await host.send(message=host.outbox.sent[0].message)
    assert len(host.outbox.sent) == 1


async def test_an_address_hears_of_a_message_once(host: SieveHost) -> None:
    await host.put(
        f'{REQUIRE} notify "mailto:{PAGER},b@c.test"; notify "mailto:{PAGER.upper()}?cc=d@e.test";'
        f' notify "mailto:b@c.test";'
    )
    await host.send(message=mail())
    assert [each.recipients for each in host.outbox.sent] == [(PAGER, "b@c.test"), ("d@e.test",)]
    host.outbox.sent = []
    await host.send(message=mail())
    assert not host.outbox.sent
    await host.send(message=mail(2))
    assert len(host.outbox.sent) == 2


@pytest.mark.parametrize("limit", [0, 2])
async def test_an_account_notifies_only_so_often(host: SieveHost, limit: int) -> None:
    host.use(dataclasses.replace(host.means, limits=SendingLimits(notifications=limit)))
    await host.put(NOTIFY)
    for number in range(4):
        assert await host.send(message=mail(number)) == [None]
    assert len(host.outbox.sent) == (limit or 4)
    assert await host.count() == {INBOX: 4}
    later = host.host.tables.now() + timedelta(hours=2)
    host.host.tables.now = lambda: later
    await host.send(message=mail(9))
    assert len(host.outbox.sent) == (limit or 4) + 1


async def test_all_of_a_notification_goes_or_nothing(host: SieveHost) -> None:
    host.use(dataclasses.replace(host.means, limits=SendingLimits(notifications=2)))
    await host.put(f'{REQUIRE} notify "mailto:a@b.test,c@d.test,e@f.test"; notify "mailto:g@h.test";')
    await host.send(message=mail())
    assert all(len(each.recipients) != 2 for each in host.outbox.sent)


async def test_without_a_relay_nobody_is_notified(host: SieveHost) -> None:
    host.use(dataclasses.replace(host.means, outbox=None))
    await host.put(NOTIFY)
    assert await host.send(message=mail()) == [None]
    assert await host.count() == {INBOX: 1}


@pytest.mark.parametrize("trouble", [StagingFull("full"), Unavailable("away")])
async def test_a_full_queue_delays_no_message(host: SieveHost, trouble: StorageError) -> None:
    await host.put(f'{REQUIRE} notify :fcc "Sent" "mailto:{PAGER}";')
    host.outbox.failure = trouble
    assert await host.send(message=mail(1)) == [None]
    host.outbox.failure = None
    assert await host.count() == {INBOX: 1}
    assert await host.send(message=mail(2)) == [None]
    assert host.sent_to() == [PAGER]
    assert await host.count() == {INBOX: 2, "Sent": 1}


@pytest.mark.parametrize("is_after", [False, True])
async def test_trouble_at_any_call_loses_no_message_and_never_notifies_twice(is_after: bool) -> None:
    counts = set()
    for nth in range(1, 40):
        host = await sieve_host()
        await host.put(f'{REQUIRE} notify "mailto:{PAGER}"; notify "mailto:b@c.test";')
        plan = host.fail(nth, is_after=is_after)
        for _ in range(2):
            await host.send_until_taken(mail())
        assert await host.count() == {INBOX: 1}
        assert len(host.sent_to()) == len(set(host.sent_to()))
        counts.add(len(host.outbox.sent))
        if not plan.has_fired:
            break
    else:
        pytest.fail("the fault always fires")
    assert counts == ({1, 2} if is_after else {2})  # lost with the reply of the memory, or all sent
