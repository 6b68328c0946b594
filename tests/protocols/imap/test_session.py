"""Sessions against a counting store: several of them in one mailbox, budgets, faults, bad peers."""

from __future__ import annotations

import ssl
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.driver import LineConnection
from protocols.errors import AuthenticationUnavailable
from protocols.imap import view as view_module
from protocols.imap.commands.login import MAX_FAILED_LOGINS
from protocols.imap.dispatcher import MAX_BAD_UNAUTHENTICATED
from protocols.ports import Goodbye
from storage.errors import CommitUnknown, StagingFull, Unavailable
from storage.model import Flags, SystemFlag
from tests.support.imap import BODY, ImapLab

SEEN = Flags(SystemFlag.SEEN)
DELETED = Flags(SystemFlag.DELETED)


async def lab_with(messages: int, **policy: Any) -> ImapLab:
    lab = ImapLab(**policy)
    for _ in range(messages):
        lab.mail.deliver()
    return lab


# --- two sessions in one mailbox; the hazards that bit others ---


async def test_expunge_by_another_session_comes_with_noop_and_numbers_hold_until_then() -> None:
    lab = await lab_with(3)
    ann, bob = await lab.log_in("INBOX"), await lab.log_in("INBOX")
    await ann.send(b"1 STORE 1 +FLAGS.SILENT (\\Deleted)\r\n2 EXPUNGE\r\n")
    # number 2 is still uid 2 for this session, and no EXPUNGE may come while STORE runs
    assert b"* 2 FETCH (UID 2 FLAGS" in await bob.send(b"1 UID STORE 2 +FLAGS (\\Seen)\r\n")
    assert await bob.send(b"2 NOOP\r\n") == b"2 OK Done\r\n"  # told by the UID command already


async def test_no_expunge_during_fetch_store_search_by_number() -> None:
    for command in (b"FETCH 2 FLAGS", b"STORE 2 +FLAGS (\\Seen)", b"SEARCH SEEN"):
        lab = await lab_with(3)
        wire = await lab.log_in("INBOX")
        lab.mail.expunge(1)
        lab.announce()
        await wire.settle()
        assert b"EXPUNGE" not in await wire.send(b"1 %b\r\n" % command)
        assert await wire.send(b"2 NOOP\r\n") == b"* 1 EXPUNGE\r\n2 OK Done\r\n"


async def test_exists_is_withheld_while_an_expunge_is() -> None:
    """Otherwise the count contradicts the numbers that the client knows."""
    lab = await lab_with(3)
    wire = await lab.log_in("INBOX")
    lab.mail.expunge(1)
    lab.mail.deliver()
    lab.announce()
    await wire.settle()
    assert b"EXISTS" not in await wire.send(b"1 FETCH 2 FLAGS\r\n")
    assert await wire.send(b"2 NOOP\r\n") == b"* 1 EXPUNGE\r\n* 3 EXISTS\r\n* 3 RECENT\r\n2 OK Done\r\n"


async def test_message_that_came_and_went_unseen_is_never_mentioned() -> None:
    lab = await lab_with(2)
    wire = await lab.log_in("INBOX")
    uid = lab.mail.deliver()
    lab.mail.expunge(uid)
    lab.announce()
    await wire.settle()
    assert await wire.send(b"1 NOOP\r\n") == b"1 OK Done\r\n"


async def test_every_event_is_told_once_to_each_session() -> None:
    lab = await lab_with(2)
    ann, bob = await lab.log_in("INBOX"), await lab.log_in("INBOX")
    told = await ann.send(b"1 STORE 1 +FLAGS (\\Flagged)\r\n")
    assert told == b"* 1 FETCH (FLAGS (\\Flagged \\Recent))\r\n1 OK Stored\r\n"
    assert await ann.send(b"2 NOOP\r\n") == b"2 OK Done\r\n"
    assert await bob.send(b"1 NOOP\r\n") == b"* 1 FETCH (FLAGS (\\Flagged))\r\n1 OK Done\r\n"
    assert await bob.send(b"2 NOOP\r\n") == b"2 OK Done\r\n"


async def test_silent_store_is_silent_for_its_session_only() -> None:
    lab = await lab_with(2)
    ann, bob = await lab.log_in("INBOX"), await lab.log_in("INBOX")
    assert (
        await ann.send(b"1 STORE 1:2 +FLAGS.SILENT (\\Flagged)\r\n2 NOOP\r\n")
        == b"1 OK Stored\r\n2 OK Done\r\n"
    )
    assert (await bob.send(b"1 NOOP\r\n")).count(b"FETCH") == 2


async def test_silent_store_tells_what_others_changed_meanwhile() -> None:
    lab = await lab_with(1)
    wire = await lab.log_in("INBOX")
    lab.mail.flag(1, SEEN)  # nobody announces it
    answer = await wire.send(b"1 STORE 1 +FLAGS.SILENT (\\Flagged)\r\n")
    assert b"* 1 FETCH (FLAGS (\\Flagged \\Seen \\Recent))\r\n" in answer


async def test_store_on_a_message_that_is_gone_says_so() -> None:
    lab = await lab_with(2)
    wire = await lab.log_in("INBOX")
    lab.mail.expunge(1)
    lab.announce()
    await wire.settle()
    assert b"1 OK [EXPUNGEISSUED]" in await wire.send(b"1 STORE 1:2 +FLAGS (\\Seen)\r\n")


async def test_deleted_mailbox_is_closed_and_the_session_lives() -> None:
    lab = await lab_with(0)
    lab.mail.deliver("Archive")
    ann, bob = await lab.log_in("Archive"), await lab.log_in("Archive")
    assert await ann.send(b"1 DELETE Archive\r\n") == b"1 OK Deleted\r\n"
    for wire in (ann, bob):
        answer = await wire.send(b"2 NOOP\r\n3 CHECK\r\n")
        assert answer == (
            b"* OK [CLOSED] The mailbox was deleted\r\n2 OK Done\r\n3 BAD No mailbox is selected\r\n"
        )
    assert lab.views.open_mailboxes == 0


async def test_recent_is_for_one_session_and_claimed_behind_the_reply() -> None:
    lab = await lab_with(2)
    ann = await lab.log_in("INBOX")
    assert lab.mail.mailbox().recent_uid == 3
    assert b"* 0 RECENT" in await (await lab.log_in()).send(b"1 EXAMINE INBOX\r\n")
    lab.mail.deliver()
    lab.announce()
    assert b"* 3 EXISTS\r\n* 3 RECENT\r\n" in await ann.send(b"1 NOOP\r\n")
    assert lab.mail.mailbox().recent_uid == 3
    await ann.send(b"2 UNSELECT\r\n")
    assert lab.mail.mailbox().recent_uid == 4


# --- IDLE ---


async def test_idle_pushes_at_once() -> None:
    lab = await lab_with(2)
    wire, other = await lab.log_in("INBOX"), await lab.log_in("INBOX")
    assert await wire.send(b"1 IDLE\r\n") == b"+ idling\r\n"
    await other.send(b"1 STORE 2 +FLAGS (\\Deleted)\r\n")
    await wire.settle()
    assert wire.received() == b"* 2 FETCH (FLAGS (\\Deleted \\Recent))\r\n"
    await other.send(b"2 EXPUNGE\r\n")
    await wire.settle()
    assert wire.received() == b"* 2 EXPUNGE\r\n"
    lab.mail.deliver()
    lab.announce()
    await wire.settle()
    assert wire.received() == b"* 2 EXISTS\r\n* 2 RECENT\r\n"
    assert await wire.send(b"DONE\r\n2 NOOP\r\n") == b"1 OK Idle ended\r\n2 OK Done\r\n"


async def test_idle_tells_what_was_pending_and_of_a_deleted_mailbox() -> None:
    lab = await lab_with(0)
    lab.mail.deliver("Archive")
    wire, other = await lab.log_in("Archive"), await lab.log_in()
    lab.mail.deliver("Archive")
    lab.announce("Archive")
    await wire.settle()
    assert await wire.send(b"1 IDLE\r\n") == b"+ idling\r\n* 2 EXISTS\r\n* 2 RECENT\r\n"
    await other.send(b"1 DELETE Archive\r\n")
    await wire.settle()
    assert wire.received() == b"* OK [CLOSED] The mailbox was deleted\r\n"
    assert await wire.send(b"DONE\r\n") == b"1 OK Idle ended\r\n"


async def test_idle_keeps_the_connection_alive_and_is_not_logged_out() -> None:
    lab = await lab_with(0)
    wire = await lab.log_in("INBOX")
    await wire.send(b"1 IDLE\r\n")
    for _ in range(20):
        wire.connection._guarded(wire.connection._tell_timeout)
    assert wire.received() == b"* OK Still here\r\n" * 20
    await wire.send(b"DONE\r\n")
    wire.connection._guarded(wire.connection._tell_timeout)
    assert wire.received().startswith(b"* BYE Autologout")
    assert wire.is_closed


async def test_a_flood_of_changes_is_pushed_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "MAX_CHANGES_PER_SYNC", 2)
    lab = await lab_with(5)
    wire, other = await lab.log_in("INBOX"), await lab.log_in("INBOX")
    await other.send(b"1 STORE 1:* +FLAGS.SILENT (\\Seen)\r\n")
    assert (await wire.send(b"1 NOOP\r\n")).count(b"FETCH") == 2
    assert (await wire.send(b"2 IDLE\r\n")).count(b"FETCH") == 3


# --- budgets: calls of the store ---

BUDGETS = [
    (b"NOOP", []),
    (b"CHECK", []),
    (b"STORE 1:3 +FLAGS (\\Seen)", ["store_flags"]),
    (b"STORE 1:3 +FLAGS.SILENT (\\Seen)", ["store_flags"]),
    (b"UID STORE 1:* (UNCHANGEDSINCE 99) FLAGS (\\Seen)", ["store_flags"]),
    (b"EXPUNGE", ["expunge"]),
    (b"UID EXPUNGE 1:*", ["expunge"]),
    (b"CLOSE", ["expunge"]),
    (b"UNSELECT", []),
    (b"COPY 1:3 Trash", ["get_mailbox", "copy"]),
    (b"MOVE 1:3 Trash", ["get_mailbox", "move"]),
    (b'LIST "" * RETURN (STATUS (MESSAGES UNSEEN SIZE))', ["list_mailboxes"]),
    (b"STATUS INBOX (MESSAGES RECENT)", ["get_mailbox"]),
    (b"FETCH 1:* (FLAGS UID INTERNALDATE RFC822.SIZE)", []),
    (b"SEARCH SEEN LARGER 100", []),
]


@pytest.mark.parametrize(("command", "calls"), BUDGETS)
async def test_budget(command: bytes, calls: list[str]) -> None:
    lab = await lab_with(5)
    lab.mail.flag(4, DELETED)
    wire = await lab.log_in("INBOX")
    answer = await wire.send(b"1 %b\r\n2 NOOP\r\n" % command)
    assert b"1 OK" in answer
    assert lab.calls == calls


async def test_budget_of_select() -> None:
    lab = await lab_with(5)
    wire = await lab.log_in()
    await wire.send(b"1 EXAMINE INBOX\r\n")
    assert lab.calls == ["get_mailbox", "load_view"]
    lab.calls.clear()
    await (await lab.log_in()).send(b"1 EXAMINE INBOX\r\n")
    assert lab.calls == ["get_mailbox"]  # the view is shared
    lab.mail.deliver()  # behind the feed's back
    await wire.send(b"2 EXAMINE INBOX\r\n")
    assert lab.calls[1:] == ["get_mailbox", "changes_since"]


async def test_budget_of_append_into_the_selected_mailbox() -> None:
    lab = await lab_with(1)
    wire = await lab.log_in("INBOX")
    answer = await wire.send(b"1 APPEND INBOX {5+}\r\nhello\r\n")
    assert answer.index(b"* 2 EXISTS") < answer.index(b"1 OK [APPENDUID")
    assert lab.calls == ["get_mailbox", "append", "changes_since"]


async def test_one_delivery_costs_one_read_whatever_the_number_of_sessions() -> None:
    lab = await lab_with(1)
    wires = [await lab.log_in("INBOX") for _ in range(5)]
    for _ in range(3):
        lab.mail.deliver()
        lab.announce()
    for wire in wires:
        assert b"* 4 EXISTS" in await wire.send(b"1 NOOP\r\n")
    assert lab.calls == ["changes_since"]


# --- faults ---


async def test_unavailable_store_is_a_temporary_no_and_the_session_lives() -> None:
    lab = await lab_with(3)
    wire = await lab.log_in("INBOX")
    for name, command in (
        ("store_flags", b"STORE 1 +FLAGS (\\Seen)"),
        ("expunge", b"EXPUNGE"),
        ("move", b"MOVE 1 Trash"),
        ("get_mailbox", b"COPY 1 Trash"),
        ("list_mailboxes", b'LIST "" *'),
        ("get_mailbox", b"SELECT INBOX"),
    ):
        lab.watched.faults[name] = [Unavailable("away")]
        assert b"1 NO [UNAVAILABLE]" in await wire.send(b"1 %b\r\n" % command)
        await wire.send(b"2 SELECT INBOX\r\n")


async def test_lost_commit_is_never_answered_with_ok() -> None:
    """A client that hears OK to COPY deletes the source."""
    for name, command in (("copy", b"COPY 1 Trash"), ("move", b"MOVE 1 Trash"), ("expunge", b"EXPUNGE")):
        lab = await lab_with(2)
        lab.mail.flag(2, DELETED)
        wire = await lab.log_in("INBOX")
        lab.watched.after[name] = [CommitUnknown("lost")]
        assert b"1 NO [UNAVAILABLE]" in await wire.send(b"1 %b\r\n" % command)


async def test_lost_commit_of_a_move_that_happened_shows_the_mailbox_as_it_is() -> None:
    lab = await lab_with(2)
    wire = await lab.log_in("INBOX")
    lab.watched.after["move"] = [CommitUnknown("lost")]
    answer = await wire.send(b"1 MOVE 1 Trash\r\n")
    assert answer.startswith(b"* 1 EXPUNGE\r\n1 NO [UNAVAILABLE]")


@pytest.mark.parametrize("is_committed", [True, False])
async def test_append_whose_commit_got_lost_is_looked_up(*, is_committed: bool) -> None:
    lab = await lab_with(0)
    wire = await lab.log_in("INBOX")
    faults = lab.watched.after if is_committed else lab.watched.faults
    faults["append"] = [CommitUnknown("lost")]
    answer = await wire.send(b"1 APPEND INBOX {5+}\r\nhello\r\n")
    assert b"1 OK Appended" in answer if is_committed else b"1 NO [UNAVAILABLE]" in answer
    assert len(lab.mail.rows()) == is_committed
    assert lab.calls[:3] == ["get_mailbox", "append", "delivered"]


async def test_full_disk_refuses_the_message_and_reads_over_the_rest() -> None:
    lab = await lab_with(0)
    lab.intake.fault = StagingFull("full")
    wire = await lab.log_in("INBOX")
    answer = await wire.send(b"1 APPEND INBOX {9+}\r\nx LOGOUT\n\r\n2 NOOP\r\n")
    assert answer == (
        b"1 NO [UNAVAILABLE] No room for the message right now, please try again later\r\n2 OK Done\r\n"
    )
    assert all(spool.is_closed for spool in lab.intake.spools)


async def test_spool_is_closed_when_the_peer_goes_away_in_the_middle() -> None:
    lab = await lab_with(0)
    wire = await lab.log_in()
    await wire.send(b"1 APPEND INBOX {1000}\r\nabc")
    wire.transport.vanish()
    await wire.settle()
    assert [spool.is_closed for spool in lab.intake.spools] == [True]
    assert lab.mail.rows() == {}


async def test_sessions_leave_nothing_behind() -> None:
    lab = await lab_with(1)
    wires = [await lab.log_in("INBOX") for _ in range(3)]
    for wire in wires:
        wire.transport.vanish()
        await wire.settle()
    [entry] = lab.views._open.values()
    assert not entry.sessions
    assert not entry.view._sessions


async def test_a_bug_is_reported_with_the_session_id() -> None:
    lab = await lab_with(1)
    wire = await lab.log_in("INBOX")
    lab.watched.faults["expunge"] = [RuntimeError("secret detail")]
    answer = await wire.send(b"1 EXPUNGE\r\n")
    assert b"1 NO [SERVERBUG] Internal error, session " in answer
    assert b"secret" not in answer
    assert wire.is_closed


# --- login ---


async def test_failing_authenticator_is_no_wrong_password() -> None:
    lab = await lab_with(0)
    wire = await lab.connect()
    lab.authenticator.error = AuthenticationUnavailable()
    assert b"1 NO [UNAVAILABLE]" in await wire.send(b"1 LOGIN ann@example.org secret\r\n")


async def test_guessing_ends_the_connection() -> None:
    lab = await lab_with(0)
    wire = await lab.connect()
    answer = await wire.send(b"1 LOGIN ann@example.org wrong\r\n" * 9)
    assert answer.count(b"1 NO [AUTHENTICATIONFAILED]") == MAX_FAILED_LOGINS
    assert b"* BYE Too many failed logins\r\n1 NO" in answer
    assert wire.is_closed


async def test_password_needs_tls() -> None:
    lab = await lab_with(0, insecure_auth=False)
    wire = await lab.connect()
    answer = await wire.send(b"1 CAPABILITY\r\n2 LOGIN ann@example.org secret\r\n3 AUTHENTICATE PLAIN\r\n")
    assert b" LOGINDISABLED " in answer
    assert b"AUTH=" not in answer
    assert b"2 NO [PRIVACYREQUIRED]" in answer
    assert b"3 NO [PRIVACYREQUIRED]" in answer
    secure = await lab.connect(has_tls=True)
    answer = await secure.send(b"1 CAPABILITY\r\n2 LOGIN ann@example.org secret\r\n")
    assert b"AUTH=PLAIN" in answer
    assert b"2 OK" in answer
    local = await lab.connect(peer=("127.0.0.1", 1))
    assert b"1 OK" in await local.send(b"1 LOGIN ann@example.org secret\r\n")


async def test_starttls_is_offered_only_with_a_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = cast("ssl.SSLContext", object())
    lab = await lab_with(0, tls_context=lambda: context)
    wire = await lab.connect()
    assert b" STARTTLS " in await wire.send(b"1 CAPABILITY\r\n")

    async def start_tls(connection: LineConnection) -> None:
        connection.has_tls = True

    monkeypatch.setattr(LineConnection, "start_tls", start_tls)
    assert await wire.send(b"2 STARTTLS\r\n") == b"2 OK Begin TLS now\r\n"
    answer = await wire.send(b"4 CAPABILITY\r\n5 STARTTLS\r\n")
    assert b"STARTTLS" not in answer.split(b"4 OK")[0]
    assert b"5 BAD TLS is already on" in answer


async def test_capabilities_tell_the_same_in_the_greeting_and_on_request() -> None:
    lab = await lab_with(0)
    wire = await lab.connect()
    before = await wire.send(b"1 CAPABILITY\r\n")
    line = before.partition(b"\r\n")[0].removeprefix(b"* CAPABILITY ")
    assert b"[CAPABILITY %b]" % line in wire.transport.output
    after = await wire.send(b"2 LOGIN ann@example.org secret\r\n3 CAPABILITY\r\n")
    announced = after.partition(b"]")[0].partition(b"CAPABILITY ")[2]
    assert b"* CAPABILITY %b\r\n" % announced in after
    assert {word for word in line.split() if not word.startswith(b"AUTH=")} == set(announced.split())


async def test_peer_that_does_not_speak_imap_is_shown_out() -> None:
    lab = await lab_with(0)
    wire = await lab.connect()
    answer = await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"Accept: */*\r\n" * 20)
    assert answer.count(b"BAD") == MAX_BAD_UNAUTHENTICATED
    assert b"* BYE" in answer
    assert wire.is_closed


async def test_login_without_credentials_is_timed_out() -> None:
    lab = await lab_with(0)
    wire = await lab.connect()
    wire.connection._guarded(wire.connection._tell_timeout)
    assert wire.received().startswith(b"* BYE ")
    assert wire.is_closed


async def test_shutdown_says_goodbye() -> None:
    lab = await lab_with(0)
    wire = await lab.log_in("INBOX")
    wire.connection.say_goodbye(Goodbye.SHUTDOWN)
    await wire.settle()
    assert wire.received() == b"* BYE The server is shutting down\r\n"


# --- large messages, any bytes ---


async def test_large_append_streams_and_comes_back_unchanged() -> None:
    lab = await lab_with(0)
    wire = await lab.log_in("INBOX")
    body = BODY + bytes(range(256)) * 4096
    assert await wire.send(b"1 APPEND INBOX {%d}\r\n" % len(body)) == b"+ Ready for the message\r\n"
    for at in range(0, len(body), 60_000):
        wire.feed(body[at : at + 60_000])
        assert wire.connection._machine.buffered_bytes == 0
    assert b"1 OK [APPENDUID" in await wire.send(b"\r\n")
    assert body in await wire.send(b"2 FETCH 1 BODY.PEEK[]\r\n")


words = st.sampled_from(
    b"x|x LOGIN ann@example.org secret|x SELECT INBOX|x STORE 1:* +FLAGS (\\Deleted)|x EXPUNGE|x IDLE|DONE|"
    b'x COPY 1 INBOX|x UID MOVE 1:* Trash|x FETCH 1 ALL|x LIST "" *|x APPEND INBOX {3+}|x CLOSE|x NOOP|{3}|'
    b"x SEARCH ALL|x CREATE a|x DELETE Trash|x AUTHENTICATE PLAIN|*|x ENABLE IMAP4rev2".split(b"|")
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(words | st.binary(max_size=12), max_size=12), log_in=st.booleans())
async def test_any_lines_are_answered_without_a_server_bug(lines: list[bytes], *, log_in: bool) -> None:
    lab = await lab_with(2)
    wire = await (lab.log_in("INBOX") if log_in else lab.connect())
    answer = await wire.send(b"".join(line + b"\r\n" for line in lines))
    assert b"Internal error" not in answer  # the code could be a tag
    assert wire.live.counts.bugs == 0


async def test_news_of_flags_have_the_uid_in_imap4rev2() -> None:
    """RFC 9051 §7.5.2: all FETCH responses that nobody asked for."""
    lab = ImapLab()
    for _ in range(2):
        lab.mail.deliver("INBOX")
    old, new = await lab.log_in("INBOX"), await lab.log_in()
    await new.send(b"1 ENABLE IMAP4rev2\r\n2 SELECT INBOX\r\n")
    await old.send(b"1 UID STORE 2 +FLAGS (\\Flagged)\r\n")
    assert await new.send(b"3 NOOP\r\n") == b"* 2 FETCH (UID 2 FLAGS (\\Flagged))\r\n3 OK Done\r\n"
    assert await new.send(b"4 STORE 1 +FLAGS.SILENT (\\Seen)\r\n") == b"4 OK Stored\r\n"
    assert await old.send(b"2 NOOP\r\n") == b"* 1 FETCH (FLAGS (\\Seen \\Recent))\r\n2 OK Done\r\n"
