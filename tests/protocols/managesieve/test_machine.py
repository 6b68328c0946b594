"""The ManageSieve machine by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MachineMisuse
from protocols.managesieve import commands as c
from protocols.managesieve import machine as m
from protocols.managesieve import replies
from protocols.managesieve.machine import MAX_ERRORS, MAX_LINE_BYTES, ManageSieveMachine

MAX_SCRIPT = 100


class Agreeable(ManageSieveMachine):
    """Says yes to everything but scripts over MAX_SCRIPT octets."""

    __slots__ = ()

    def next_event(self) -> c.Event | None:
        event = super().next_event()
        if isinstance(event, c.ScriptAnnounced):
            if event.size_bytes <= MAX_SCRIPT:
                self.accept_script()
            else:
                self.refuse_script(replies.too_large(event.size_bytes, MAX_SCRIPT))
        elif isinstance(event, c.Authenticate) and event.initial is None:
            self.challenge(b"")
        elif event is not None and not isinstance(event, c.GiveUp):
            self.send(replies.DONE)
        return event


def collect(data: bytes, step: int) -> tuple[list[c.Event], bytes]:
    machine, events = Agreeable(), list[c.Event]()
    for i in range(0, len(data), step):
        machine.receive_data(data[i : i + step])
        while (event := machine.next_event()) is not None:
            events.append(event)
            if isinstance(event, c.GiveUp):
                return events, machine.data_to_send()
    return events, machine.data_to_send()


LOGIN = b'AUTHENTICATE "PLAIN" "AAAA"\r\n'
LOGGED_IN = c.Authenticate("PLAIN", b"AAAA")
OK = replies.DONE.encode()


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"capability\r\nLogout\r\n", [c.Capability(), c.Logout()]),
        (LOGIN + b"LISTSCRIPTS\r\nUNAUTHENTICATE\r\n", [LOGGED_IN, c.ListScripts(), c.Unauthenticate()]),
        (
            b'AUTHENTICATE "plain"\r\n"AAAA"\r\nLISTSCRIPTS\r\n',
            [c.Authenticate("PLAIN", None), c.SaslResponse(b"AAAA"), c.ListScripts()],
        ),
        (
            b'AUTHENTICATE "LOGIN"\r\n{4+}\r\nAAAA\r\n',
            [c.Authenticate("LOGIN", None), c.SaslResponse(b"AAAA")],
        ),
        (b'AUTHENTICATE "PLAIN" {4+}\r\nAAAA\r\n', [LOGGED_IN]),
        (b'AUTHENTICATE {5+}\r\nPLAIN "AAAA"\r\n', [LOGGED_IN]),
        (
            LOGIN + b'HAVESPACE "a" 99\r\nGETSCRIPT "a"\r\nDELETESCRIPT {1+}\r\na\r\n',
            [LOGGED_IN, c.HaveSpace("a", 99), c.GetScript("a"), c.DeleteScript("a")],
        ),
        (
            LOGIN + b'SETACTIVE "a"\r\nSETACTIVE ""\r\nSETACTIVE {0+}\r\n\r\n',
            [LOGGED_IN, c.SetActive("a"), c.SetActive(None), c.SetActive(None)],
        ),
        (
            LOGIN + b'RENAMESCRIPT "a" "b"\r\nRENAMESCRIPT {1+}\r\nc {1+}\r\nd\r\n',
            [LOGGED_IN, c.RenameScript("a", "b"), c.RenameScript("c", "d")],
        ),
        (
            LOGIN + b'PUTSCRIPT "a" {8+}\r\nkeep;\r\n \r\n',
            [LOGGED_IN, c.ScriptAnnounced(b"PUTSCRIPT", 8), c.PutScript("a", b"keep;\r\n ")],
        ),
        (
            LOGIN + b'PUTSCRIPT {1+}\r\na {0+}\r\n\r\nputscript "b" "stop;"\r\n',
            [
                LOGGED_IN,
                c.ScriptAnnounced(b"PUTSCRIPT", 0),
                c.PutScript("a", b""),
                c.PutScript("b", b"stop;"),
            ],
        ),
        (
            LOGIN + b'CHECKSCRIPT {3+}\r\n\x00\xff\r\r\nCHECKSCRIPT "x"\r\n',
            [
                LOGGED_IN,
                c.ScriptAnnounced(b"CHECKSCRIPT", 3),
                c.CheckScript(b"\0\xff\r"),
                c.CheckScript(b"x"),
            ],
        ),
        (b"STARTTLS\r\nLOGOUT\r\n", [c.StartTls()]),
    ],
)
def test_events_however_bytes_arrive(data: bytes, events: list[c.Event], step: int) -> None:
    assert collect(data, step)[0] == events


REFUSED = [
    (b"\r\n", replies.BAD_SYNTAX),
    (b"XYZZY\r\n", replies.UNKNOWN_COMMAND),
    (b'"NOOP"\r\n', replies.BAD_SYNTAX),
    (b"LOGOUT now\r\n", replies.BAD_SYNTAX),
    (b"STARTTLS\r\n", replies.NEEDS_LOGOUT),
    (b'AUTHENTICATE "PLAIN"\r\n', replies.NEEDS_LOGOUT),
    (b"HAVESPACE a 1\r\n", replies.BAD_SYNTAX),
    (b'HAVESPACE "a" "1"\r\n', replies.BAD_SYNTAX),
    (b'HAVESPACE "a" 4294967296\r\n', replies.BAD_SYNTAX),
    (b'GETSCRIPT "a" "b"\r\n', replies.BAD_SYNTAX),
    (b'GETSCRIPT ""\r\n', replies.no("Not allowed: a script needs a name")),
    (b"GETSCRIPT {2+}\r\na\n\r\n", replies.no("Not allowed: name of a script with a control character")),
    (b"GETSCRIPT {1+}\r\n\xff\r\n", replies.no("Not allowed: name of a script that is not UTF-8")),
    # no octet of a literal is a command, whatever is wrong with the command
    (b'PUTSCRIPT "" {8+}\r\nLOGOUT\r\n\r\n', replies.no("Not allowed: a script needs a name")),
    (b'PUTSCRIPT "a" "b" {8+}\r\nLOGOUT\r\n\r\n', replies.BAD_SYNTAX),
    (b"XYZZY {8+}\r\nLOGOUT\r\n {8+}\r\nLOGOUT\r\n\r\n", replies.UNKNOWN_COMMAND),
    (b'"broken {8+}\r\nLOGOUT\r\n\r\n', replies.BAD_SYNTAX),
    (b"GETSCRIPT {8+}\r\nLOGOUT\r\nLOGOUT\r\n", replies.BAD_SYNTAX),
    (b"NOOP {20000+}\r\n" + b"LOGOUT\r\n" * 2500 + b"\r\n", replies.STRING_TOO_LONG),
    (b'PUTSCRIPT "a" {200+}\r\n' + b"LOGOUT\r\n" * 25 + b"\r\n", replies.too_large(200, MAX_SCRIPT)),
    (b'PUTSCRIPT "a" {8+}\r\nLOGOUT\r\n "more"\r\n', replies.BAD_SYNTAX),
]


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize(("data", "reply"), REFUSED)
def test_refusals_keep_the_connection_in_step(data: bytes, reply: replies.Reply, step: int) -> None:
    events, output = collect(LOGIN + data + b"CAPABILITY\r\n", step)
    assert output == OK + reply.encode() + OK
    assert events[-1] == c.Capability()
    assert c.Logout() not in events


@pytest.mark.parametrize(
    "command", [b"LISTSCRIPTS\r\n", b'PUTSCRIPT "a" {3+}\r\nabc\r\n', b"UNAUTHENTICATE\r\n"]
)
def test_scripts_need_a_login(command: bytes) -> None:
    assert collect(command, 1) == ([], replies.NEEDS_LOGIN.encode())


def test_unauthenticate_takes_the_rights_away() -> None:
    events, output = collect(LOGIN + b"UNAUTHENTICATE\r\nLISTSCRIPTS\r\n" + LOGIN + b"LISTSCRIPTS\r\n", 1)
    assert output == OK + OK + replies.NEEDS_LOGIN.encode() + OK + OK
    assert events[-1] == c.ListScripts()


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize(
    ("data", "goodbye"),
    [
        (LOGIN + b'PUTSCRIPT "a" {5}\r\nLOGOUT\r\n', replies.WAITING_LITERAL),
        (LOGIN + b'PUTSCRIPT "a" {4000000000+}\r\nLOGOUT\r\n', None),
        (b'PUTSCRIPT "a" {70000+}\r\nLOGOUT\r\n', replies.bye("AUTHENTICATE first")),
        (b"A" * (MAX_LINE_BYTES + 2) + b"\r\n", replies.LINE_TOO_LONG),
    ],
)
def test_what_cannot_be_read_over_ends_the_connection(
    data: bytes, goodbye: replies.Reply | None, step: int
) -> None:
    goodbye = goodbye or replies.bye(replies.too_large(4_000_000_000, MAX_SCRIPT).text, replies.MAXSIZE)
    events, output = collect(data, step)
    assert events[-1] == c.GiveUp()
    assert c.Logout() not in events
    assert output.endswith(goodbye.encode())


def test_noop_gives_the_tag_back() -> None:
    tags = b'NOOP\r\nNOOP "STARTTLS-SYNC-42"\r\nNOOP {2+}\r\n\r\n\r\n'
    assert collect(tags, 1)[1] == (
        b'OK "Done"\r\nOK (TAG "STARTTLS-SYNC-42") "Done"\r\nOK (TAG {2}\r\n\r\n) "Done"\r\n'
    )


def test_bytes_behind_starttls_are_never_commands() -> None:
    machine = ManageSieveMachine()
    machine.receive_data(b"STARTTLS\r\nLOGOUT\r\n")
    assert machine.next_event() == c.StartTls()
    machine.send(replies.TLS_READY)
    assert machine.next_event() is None
    assert machine.discard_input() == len(b"LOGOUT\r\n")
    machine.tls_started()
    assert machine.next_event() is None
    assert machine.data_to_send() == replies.TLS_READY.encode()


@pytest.mark.parametrize("begun", [b'PUTSCRIPT "a" {50+}\r\nabc', b"NOOP {5+}\r\nab", b"XYZZY {50+}\r\nabc"])
def test_a_half_command_can_be_forgotten(begun: bytes) -> None:
    machine = Agreeable()
    machine.receive_data(LOGIN + begun)
    while machine.next_event() is not None:
        pass
    assert machine.is_mid_input
    machine.discard_input()
    assert not machine.is_mid_input
    machine.receive_data(b"CAPABILITY\r\n")
    assert machine.next_event() == c.Capability()


def test_a_client_that_says_too_much_before_login_costs_little() -> None:
    machine = Agreeable()
    for _ in range(100):
        machine.receive_data(b"NOOP {12000+}\r\n" + b"x" * 12_000 + b' "y"' * 3 + b" {60000+}\r\n")
        machine.receive_data(b"z" * 59_000)
        assert machine.next_event() is None
        assert machine.buffered_bytes == 0
        machine.receive_data(b"z" * 1000 + b"\r\n")
        if machine.next_event() == c.GiveUp():
            break
    else:
        pytest.fail("it may go on for ever")


def test_too_many_errors() -> None:
    events, output = collect(b"XYZZY {2+}\r\nab\r\n" * 50, 1000)
    assert events == [c.GiveUp()]
    assert output == replies.UNKNOWN_COMMAND.encode() * (MAX_ERRORS - 1) + replies.TOO_MANY_ERRORS.encode()


def test_failed_logins_count_but_unavailability_does_not() -> None:
    machine = ManageSieveMachine()
    machine.receive_data(LOGIN * 50)
    logins = 0
    while not isinstance(machine.next_event(), c.GiveUp):
        logins += 1
        machine.send(replies.LOGIN_UNAVAILABLE if logins < 20 else replies.LOGIN_FAILED)
    assert logins == 19 + MAX_ERRORS
    assert machine.data_to_send().endswith(replies.LOGIN_FAILED.encode() + replies.TOO_MANY_ERRORS.encode())


def test_misuse_is_noticed() -> None:
    machine = ManageSieveMachine()
    with pytest.raises(MachineMisuse):
        machine.send(replies.DONE)
    machine.receive_data(LOGIN + b"CHECKSCRIPT {1+}\r\nx\r\n")
    machine.next_event()
    with pytest.raises(MachineMisuse):
        machine.next_event()
    with pytest.raises(MachineMisuse):
        machine.accept_script()
    machine = ManageSieveMachine()
    machine.receive_data(LOGIN + b"CHECKSCRIPT {1+}\r\nx\r\n")
    machine.next_event()
    machine.send(replies.LOGGED_IN)
    assert machine.next_event() == c.ScriptAnnounced(b"CHECKSCRIPT", 1)
    with pytest.raises(MachineMisuse):
        machine.send(replies.DONE)
    machine = ManageSieveMachine()
    machine.receive_data(b"CAPABILITY\r\n")
    machine.next_event()
    with pytest.raises(MachineMisuse):
        machine.challenge(b"")


def test_secrets_are_not_shown() -> None:
    for event in (c.Authenticate("PLAIN", b"hush"), c.SaslResponse(b"hush"), c.PutScript("a", b"hush")):
        assert "hush" not in repr(event)


def test_replies_with_several_lines_and_codes() -> None:
    assert replies.no("line 1\nline 2").encode() == b"NO {14}\r\nline 1\r\nline 2\r\n"
    assert replies.ok('odd "one"', b"WARNINGS").encode() == b'OK (WARNINGS) "odd \\"one\\""\r\n'
    assert replies.tagged(b"x").encode() == b'OK (TAG "x") "Done"\r\n'


COMMANDS = [
    b'AUTHENTICATE "PLAIN"',
    b'AUTHENTICATE "PLAIN" "AA=="',
    b'"AA=="',
    b'"*"',
    b"CAPABILITY",
    b"LOGOUT",
    b"NOOP",
    b'NOOP "x"',
    b"UNAUTHENTICATE",
    b'HAVESPACE "a" 1',
    b'PUTSCRIPT "a" {4+}\r\nkeep',
    b'PUTSCRIPT "a" {150+}\r\n' + b"x" * 150,
    b"CHECKSCRIPT {4+}\r\n\r\n\r\n",
    b"LISTSCRIPTS",
    b'SETACTIVE ""',
    b'GETSCRIPT "a"',
    b"DELETESCRIPT {1+}\r\na",
    b'RENAMESCRIPT "a" {1+}\r\nb',
    b"STARTTLS x",
    b"XYZZY {3+}\r\n\r\n.",
    b"",
    b"\xff",
]


def count_replies(output: bytes) -> int:
    return sum(output.count(b"\r\n" + word) for word in (b"OK ", b"NO ", b'""')) + 1


@given(st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=9), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_every_command_gets_exactly_one_reply(lines: list[bytes], step: int) -> None:
    _, output = collect(b"".join(line + b"\r\n" for line in lines), step)
    assert count_replies(output) == len(lines)


PIECES = [
    *COMMANDS,
    b"\r\n",
    b"\n",
    b"{5+}",
    b" {5+}\r\n",
    b"{5}",
    b' "',
    LOGIN,
    b"Z" * 14_000,
    b"{99999+}\r\n",
]


@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=9), max_size=20), st.sampled_from([b"", b"\r\n"])
)
@settings(max_examples=200, deadline=None)
def test_foreign_bytes_never_raise_and_framing_does_not_depend_on_packets(
    pieces: list[bytes], between: bytes
) -> None:
    data = between.join(pieces)
    assert collect(data, 7) == collect(data, len(data) or 1)
    assert collect(LOGIN + data, 5) == collect(LOGIN + data, len(LOGIN + data))


def test_limits_of_strings_before_login() -> None:
    assert m.MAX_TOKENS * m.MAX_STRING_BYTES < 64 * 1024
