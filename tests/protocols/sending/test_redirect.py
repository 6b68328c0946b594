"""Redirects: what is sent, what is kept instead, and that trouble neither loses nor doubles anything."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from protocols.envelope import MailLoop
from protocols.ports import MailKind
from protocols.sending.means import SendingLimits
from protocols.sending.redirect import AT_ONCE, MAX_HOSTS
from protocols.sending.srs import Srs
from protocols.sending.way import LOOP_FIELD
from storage.dsn import MessageDsn, Notify, RecipientDsn
from storage.errors import StagingFull, Unavailable
from storage.model import INBOX
from tests.support.sievehost import ANN, BOB, ENVELOPE, FROM, MESSAGE, NOW, Killed, SieveHost, sieve_host

AWAY, ELSE = "ann@away.test", "ann@else.test"
REQUIRE = 'require ["fileinto", "copy", "editheader", "variables"];'


@pytest.fixture
async def host() -> SieveHost:
    return await sieve_host()


async def test_the_message_goes_on_as_it_came(host: SieveHost) -> None:
    await host.put(f'redirect "{AWAY}"; redirect "{ELSE}";')
    assert await host.send() == [None]
    assert await host.count() == {}
    first, second = host.outbox.sent
    assert (first.recipients, second.recipients) == ((AWAY,), (ELSE,))
    assert first.message == second.message
    assert first.envelope_from == FROM
    assert first.kind is MailKind.REDIRECT
    assert first.account == (await host.host.account_store.account(ANN)).id
    loop, delivered, received = first.message.removesuffix(MESSAGE).decode().split("\r\n", 2)
    assert (loop, delivered) == (f"{LOOP_FIELD}: 1", f"Delivered-To: {ANN}")
    assert received.startswith("Received: from mx.far.example")
    assert b"Return-Path" not in first.message


@pytest.mark.parametrize(
    ("script", "sent", "stored"),
    [
        (f'redirect "{AWAY}"; keep;', [AWAY], {INBOX: 1}),
        (f'redirect :copy "{AWAY}";', [AWAY], {INBOX: 1}),
        (f'redirect "{AWAY}"; fileinto "Junk";', [AWAY], {"Junk": 1}),
        (f'redirect "{AWAY}"; redirect "{AWAY.upper()}"; discard;', [AWAY], {}),
        (f'redirect "{ANN}";', [], {INBOX: 1}),
        (f'redirect "ann+x@example.test"; redirect "{AWAY}";', [AWAY], {INBOX: 1}),
        (
            f'redirect "alias@example.test"; redirect "{AWAY}"; fileinto "Junk";',
            [AWAY],
            {INBOX: 1, "Junk": 1},
        ),
        (f'redirect "{BOB}";', [BOB], {}),
    ],
)
async def test_what_goes_and_what_stays(
    host: SieveHost, script: str, sent: list[str], stored: dict[str, int]
) -> None:
    await host.host.add_alias(ANN, "alias@example.test")
    await host.put(REQUIRE + script)
    assert await host.send() == [None]
    assert host.sent_to() == sent
    assert await host.count() == stored


async def test_edits_made_before_go_along(host: SieveHost) -> None:
    await host.put(
        REQUIRE + f'redirect "{ELSE}"; addheader "X-New" "1"; deleteheader "subject"; redirect "{AWAY}";'
    )
    assert await host.send() == [None]
    plain, edited = host.outbox.sent
    assert plain.message.endswith(MESSAGE)
    assert edited.message.startswith(f"{LOOP_FIELD}: 1\r\n".encode())
    assert b"X-New: 1\r\n" in edited.message
    assert edited.message.endswith(b"Message-ID: <m1@far.example>\r\n\r\nbody\r\n")
    assert b"Return-Path" not in edited.message


async def test_the_null_sender_stays_null(host: SieveHost) -> None:
    await host.put(f'redirect "{AWAY}";')
    host.use(replace(host.means, srs=Srs("example.test", b"k")))
    assert await host.send(sender="") == [None]
    assert host.outbox.sent[0].envelope_from == ""


async def test_senders_are_rewritten_where_that_is_set_up(host: SieveHost) -> None:
    await host.put(f'redirect "{AWAY}";')
    srs = Srs("example.test", b"k")
    host.use(replace(host.means, srs=srs))
    assert await host.send() == [None]
    sender = host.outbox.sent[0].envelope_from
    assert sender.endswith("=far.example=from@example.test")
    assert srs.reverse(sender, host.means.today()) == FROM


@pytest.mark.parametrize(
    ("header", "goes"),
    [
        (f"Delivered-To: {AWAY}", False),
        (f"Delivered-To: {ELSE}", True),
        (f"{LOOP_FIELD}: 1", True),
        (f"{LOOP_FIELD}: 2", False),
        (f"{LOOP_FIELD}: 1\r\n{LOOP_FIELD}: 1", False),
        (f"{LOOP_FIELD}: nonsense", True),
        ("\r\n".join(["Received: x"] * (MAX_HOSTS - 1)), True),
        ("\r\n".join(["Received: x"] * MAX_HOSTS), False),
    ],
)
async def test_circles_end_in_a_keep(host: SieveHost, header: str, goes: bool) -> None:
    await host.put(f'redirect "{AWAY}";')
    assert await host.send(message=f"{header}\r\n".encode() + MESSAGE) == [None]
    assert (host.sent_to() == [AWAY]) == goes
    assert await host.count() == ({} if goes else {INBOX: 1})


async def test_hops_without_a_limit(host: SieveHost) -> None:
    await host.put(f'redirect "{AWAY}";')
    host.use(replace(host.means, limits=SendingLimits(redirect_hops=0)))
    await host.send(message=f"{LOOP_FIELD}: 30\r\n".encode() + MESSAGE)
    assert host.outbox.sent[0].message.startswith(f"{LOOP_FIELD}: 31\r\n".encode())


@pytest.mark.parametrize("with_alias", [False, True])
@pytest.mark.parametrize("hops", [0, 2, 5])
async def test_two_accounts_that_redirect_to_each_other(host: SieveHost, hops: int, with_alias: bool) -> None:
    """Everything that leaves comes back to us: there is one copy in the end, and no failure."""
    alias = "alias@example.test"
    await host.host.add_alias(ANN, alias)
    host.use(replace(host.means, limits=SendingLimits(redirect_hops=hops)))
    await host.put(f'redirect "{BOB}";')
    await host.put(f'redirect "{alias if with_alias else ANN}";', BOB)
    assert await host.send() == [None]
    turns = 0
    while turns < len(host.outbox.sent):
        each = host.outbox.sent[turns]
        turns += 1
        assert turns < 5
        assert await host.send(*each.recipients, message=each.message, sender=each.envelope_from) == [None]
    stored = [await host.count(), await host.count(BOB)]
    assert sorted(map(len, stored)) == [0, 1]
    assert stored[with_alias ^ 1] == {INBOX: 1}


async def test_mail_that_comes_back_from_another_system_is_kept(host: SieveHost) -> None:
    await host.put(f'redirect "{AWAY}";')
    await host.send()
    (sent,) = host.outbox.sent
    back = f"Delivered-To: {AWAY}\r\nReceived: by away.test\r\n".encode() + sent.message
    assert await host.send(message=back) == [None]
    assert await host.count() == {INBOX: 1}
    assert host.sent_to() == [AWAY]
    # of a loop that is not of our making the sender is told
    foreign = f"Delivered-To: {ANN}\r\n".encode() + MESSAGE
    (outcome,) = await host.send(message=foreign)
    assert isinstance(outcome, MailLoop)


async def test_over_the_limit_mail_is_kept(host: SieveHost, caplog: pytest.LogCaptureFixture) -> None:
    host.use(replace(host.means, limits=SendingLimits(redirects=3)))
    await host.put(f'redirect "{AWAY}"; redirect "{ELSE}";')
    for number in range(4):
        assert await host.send(message=MESSAGE + b"%d" % number) == [None]
    assert host.sent_to() == [AWAY, ELSE, AWAY]
    assert await host.count() == {INBOX: 3}
    assert "more than 3" in caplog.text
    assert await host.send(message=MESSAGE + b"0") == [None]  # sent long ago: neither sent nor kept now
    assert len(host.outbox.sent) == 3
    assert await host.count() == {INBOX: 3}


async def test_no_limit(host: SieveHost) -> None:
    host.use(replace(host.means, limits=SendingLimits(redirects=0)))
    await host.put(f'redirect "{AWAY}";')
    for number in range(120):
        await host.send(message=MESSAGE + b"%d" % number)
    assert len(host.outbox.sent) == 120
    assert "admit" not in host.redirect_log.calls


async def test_without_a_relay_mail_is_kept(host: SieveHost, caplog: pytest.LogCaptureFixture) -> None:
    host.use(replace(host.means, outbox=None))
    await host.put(f'redirect "{AWAY}";')
    assert await host.send() == [None]
    assert await host.count() == {INBOX: 1}
    assert "no relay" in caplog.text


@pytest.mark.parametrize("failure", [StagingFull("full"), Unavailable("disk")])
async def test_a_queue_that_takes_nothing_is_for_later(host: SieveHost, failure: Unavailable) -> None:
    await host.put(REQUIRE + f'redirect "{AWAY}"; redirect "{ELSE}"; fileinto "Junk";')
    host.watched_outbox.after["submit"] = [failure]  # the first is in the queue, the sender hears 4xx
    ann, bob = await host.send(ANN, BOB)
    assert ann is failure
    assert bob is None
    assert await host.count() == {}
    assert await host.send() == [None]
    await host.end_holds()
    assert sorted(host.sent_to()) == [AWAY, ELSE]
    assert await host.count() == {"Junk": 1}


async def test_some_are_queued_at_once_and_one_that_fails_takes_none_along(host: SieveHost) -> None:
    """They share syncs of the queue."""
    away = [f"a{number:02}@away.test" for number in range(12)]
    await host.put("".join(f'redirect "{each}";' for each in away))
    real, under_way, most = host.outbox.submit, 0, 0
    failing = {away[3]}

    async def slow(sender: str, recipients: list[str], *args: object, **options: object) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(20):
            await asyncio.sleep(0)
        under_way -= 1
        if failing & set(recipients):
            raise Unavailable("disk")
        return await real(sender, recipients, *args, **options)  # type: ignore[arg-type]

    host.outbox.submit = slow  # type: ignore[method-assign, assignment]
    (outcome,) = await host.send()
    assert isinstance(outcome, Unavailable)
    assert most == AT_ONCE
    assert sorted(host.sent_to()) == sorted({*away[:AT_ONCE]} - failing), "and the rest is not tried"
    failing.clear()
    assert await host.send() == [None]
    assert sorted(host.sent_to()) == away
    assert not host.outbox.held


async def test_what_was_relayed_is_not_sent_again(host: SieveHost) -> None:
    """The answer was lost, the relay has sent the message, and the MTA comes again."""
    await host.put(f'redirect "{AWAY}";')
    await host.send()
    host.outbox.sent.clear()
    assert await host.send() == [None]
    assert host.outbox.sent == []
    assert await host.count() == {}


async def test_what_was_sent_before_a_failure_is_remembered(host: SieveHost) -> None:
    await host.put(f'redirect "{AWAY}"; redirect "{ELSE}";')
    host.watched_outbox.faults["submit"] = []
    real = host.outbox.submit
    calls: list[object] = []

    async def second_fails(*args: object, **options: object) -> str:
        calls.append(args)
        if len(calls) == 2:
            raise StagingFull("full")
        return await real(*args, **options)  # type: ignore[arg-type]

    host.outbox.submit = second_fails  # type: ignore[method-assign, assignment]
    (outcome,) = await host.send()
    assert isinstance(outcome, StagingFull)
    assert host.sent_to() == [AWAY]
    host.outbox.sent.clear()  # relayed
    assert await host.send() == [None]
    assert host.sent_to() == [ELSE]


@pytest.mark.parametrize("address", ["a b@away.test", "nobody", "<x>@away.test"])
async def test_addresses_that_no_command_can_carry(host: SieveHost, address: str) -> None:
    await host.put(REQUIRE + f'set "to" "{address}"; redirect "${{to}}";')
    assert await host.send() == [None]
    assert host.outbox.sent == []
    assert (await host.count())[INBOX] == 1


ALL = f'redirect "{AWAY}"; redirect "{ELSE}"; fileinto "Junk"; keep;'
CALLS = 10  # of a delivery with ALL


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("nth", range(1, CALLS + 2))
async def test_any_failing_call_loses_and_doubles_nothing(host: SieveHost, nth: int, is_after: bool) -> None:
    """The MTA tries again until it is told 250; the relay takes what is due at once."""
    await host.put(REQUIRE + ALL)
    host.outbox.is_fast = True
    plan = host.fail(nth, is_after=is_after)
    for _ in range(3):
        if await host.send() == [None]:
            break
    else:
        pytest.fail("never delivered")
    assert plan.has_fired == (nth <= CALLS)
    await host.end_holds()
    assert sorted(host.sent_to()) == [AWAY, ELSE]
    assert await host.count() == {"Junk": 1, INBOX: 1}


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("ends_first", [False, True])
@pytest.mark.parametrize("nth", range(1, CALLS + 1))
async def test_a_node_killed_at_any_call_loses_and_doubles_nothing(
    host: SieveHost, nth: int, ends_first: bool, is_after: bool
) -> None:
    """The MTA comes back, to this node or another, and the node starts again, in either order."""
    await host.put(REQUIRE + ALL)
    host.outbox.is_fast = True
    host.kill(nth, is_after=is_after)
    with pytest.raises(Killed):
        await host.send()
    host.host.intake.open_spools = 0
    if ends_first:
        await host.end_holds()
    assert await host.send() == [None]
    await host.end_holds()
    assert sorted(host.sent_to()) == [AWAY, ELSE]
    assert await host.count() == {"Junk": 1, INBOX: 1}


async def test_round_trips(host: SieveHost) -> None:
    """Mail that is sent on costs two reads and two writes; no other mail costs any of them."""
    await host.put(f'redirect "{AWAY}"; redirect "{ELSE}";')
    await host.send(BOB)
    assert (host.redirect_log.calls, host.host.accounts.calls) == ([], [])
    await host.send()
    assert host.host.accounts.calls == ["addresses"]
    assert host.redirect_log.calls == ["handed_over", "admit", "claim_handover"]


async def test_large_mail_is_sent_in_pieces(host: SieveHost) -> None:
    await host.put(f'redirect "{AWAY}";')
    large = MESSAGE + b"0123456789abcde\n" * 200_000
    assert await host.send(message=large, envelope=replace(ENVELOPE, received_at=NOW)) == [None]
    assert host.outbox.sent[0].message.endswith(large)


@pytest.mark.parametrize(
    ("script", "notify", "confirmed_here"),
    [
        (f'redirect "{AWAY}";', {Notify.SUCCESS, Notify.FAILURE}, False),
        (f'redirect :copy "{AWAY}";', {Notify.FAILURE}, True),
        (f'redirect "{AWAY}"; redirect "{ELSE}";', {Notify.FAILURE}, False),
    ],
)
async def test_who_reports_to_a_sender_that_wants_to_know(
    host: SieveHost, script: str, notify: set[Notify], confirmed_here: bool
) -> None:
    """RFC 3461 §5.2.7: the one who brings the message to its only place."""
    await host.put(REQUIRE + script)
    wishes = RecipientDsn(frozenset({Notify.SUCCESS, Notify.FAILURE}), "rfc822;ann@example.test")
    envelope = replace(ENVELOPE, dsn=MessageDsn("HDRS", "envelope-1"))
    found = await host.resolve(ANN)
    assert found is not None
    assert await host.send(replace(found, dsn=wishes), envelope=envelope) == [None]
    redirected = [each for each in host.outbox.sent if each.kind is MailKind.REDIRECT]
    for each in redirected:
        assert each.dsn.message == envelope.dsn
        assert each.dsn.recipients == (RecipientDsn(frozenset(notify), wishes.orcpt),)
    confirmations = [each for each in host.outbox.sent if each.kind is MailKind.REPORT]
    assert len(confirmations) == confirmed_here


async def test_only_success_was_wanted_and_is_told_here(host: SieveHost) -> None:
    await host.put(REQUIRE + f'redirect :copy "{AWAY}";')
    found = await host.resolve(ANN)
    assert found is not None
    await host.send(replace(found, dsn=RecipientDsn(frozenset({Notify.SUCCESS}))))
    sent = next(each for each in host.outbox.sent if each.kind is MailKind.REDIRECT)
    assert sent.dsn.recipients == (RecipientDsn(frozenset({Notify.NEVER})),)
