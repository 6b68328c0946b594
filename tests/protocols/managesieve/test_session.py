"""ManageSieve conversations against stores in memory: transcripts, quotas, memory, time, trouble."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from protocols.errors import AuthenticationUnavailable, TooManySessions
from protocols.managesieve.service import ScriptService
from protocols.managesieve.session import managesieve_sessions
from protocols.memory import NodeMemory
from protocols.ports import Goodbye, Identity, ServerPolicy, SessionFactory, Unregistered
from storage.errors import CommitUnknown, Corrupt, OverQuota, Unavailable
from storage.memory.scripts import MemoryScriptStore
from storage.scripts import ScriptQuota
from tests.support.mailhost import MailHost, Watched, mail_host
from tests.support.scripts import MarkedCompiler
from tests.support.stuck import Stuck
from tests.support.wire import Wire, play

TRANSCRIPTS = sorted((Path(__file__).parents[2] / "transcripts" / "managesieve").glob("*.txt"))
LOGIN = b'AUTHENTICATE "PLAIN" "AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0"\r\n'
BOB = b'AUTHENTICATE "PLAIN" "AGJvYkBleGFtcGxlLnRlc3QAc2VjcmV0"\r\n'
LOGGED_IN = b'OK "Logged in"\r\n'
POLICY = ServerPolicy(name="managesieve", hostname="mail.example.test", insecure_auth=True)


@dataclass
class Office:
    """A server and what it works on."""

    host: MailHost
    store: Watched
    compiler: MarkedCompiler = field(default_factory=MarkedCompiler)
    policy: ServerPolicy = POLICY
    quota: ScriptQuota = field(default_factory=ScriptQuota)

    @property
    def factory(self) -> SessionFactory:
        service = ScriptService(self.store, self.compiler, self.quota)
        return managesieve_sessions(self.host.services, self.policy, service)

    async def login(self, who: bytes = LOGIN) -> Wire:
        wire = Wire(self.factory)
        assert (await wire.send(who)).endswith(LOGGED_IN)
        return wire

    async def put(self, name: str, script: bytes = b"keep;") -> None:
        account = await self.host.account_store.account("ann@example.test")
        await self.store.real.put(account.id, name, script, self.quota)


@pytest.fixture
async def office() -> Office:
    host = await mail_host()
    return Office(host, Watched(MemoryScriptStore(host.tables)))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_transcript(path: Path, office: Office) -> None:
    await play(office.factory, path.read_text())


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 2


# --- capabilities -------------------------------------------------------------------------------------


async def test_passwords_are_not_offered_in_the_clear(office: Office) -> None:
    office.policy = replace(POLICY, insecure_auth=False)
    wire = Wire(office.factory)
    assert b'"SASL" ""\r\n' in await wire.greeting()
    assert await wire.send(LOGIN) == b'NO (ENCRYPT-NEEDED) "Passwords need TLS here: use STARTTLS first"\r\n'
    assert office.host.passwords.asked == []
    assert b'"SASL" "PLAIN LOGIN"\r\n' in await Wire(office.factory, has_tls=True).greeting()


async def test_what_the_engine_can_do_is_told(office: Office) -> None:
    wire = Wire(office.factory)
    assert b"NOTIFY" not in await wire.greeting()
    office.compiler.notify_schemes = ("mailto",)
    office.compiler.list_schemes = ("tag",)
    office.compiler.max_redirects = 4
    office.compiler.extensions = ("enotify",)
    told = await wire.send(b"CAPABILITY\r\n")
    assert b'"SIEVE" "enotify"\r\n' in told
    assert b'"NOTIFY" "mailto"\r\n' in told
    assert b'"MAXREDIRECTS" "4"\r\n' in told
    assert b'"EXTLISTS" "tag"\r\n' in told


async def test_the_owner_is_told_after_login_only(office: Office) -> None:
    await office.host.add_alias("bob@example.test", "robert@example.test")
    wire = Wire(office.factory)
    assert b"OWNER" not in await wire.greeting()
    await wire.send(BOB)
    assert b'"OWNER" "bob@example.test"\r\n' in await wire.send(b"CAPABILITY\r\n")
    await wire.send(b"UNAUTHENTICATE\r\n")
    assert b"OWNER" not in await wire.send(b"CAPABILITY\r\n")


# --- login --------------------------------------------------------------------------------------------


async def test_login_that_cannot_be_decided_is_for_later(office: Office) -> None:
    office.host.passwords.faults.append(AuthenticationUnavailable())
    wire = Wire(office.factory)
    assert b'NO (TRYLATER) "Login is not possible now' in await wire.send(LOGIN)
    assert await wire.send(LOGIN) == LOGGED_IN


async def test_guessing_ends_the_connection(office: Office) -> None:
    wire = Wire(office.factory)
    said = await wire.send(b'AUTHENTICATE "PLAIN" "AGFubkBleGFtcGxlLnRlc3QAd3Jvbmc="\r\n' * 20)
    assert said.count(b'NO "User name or password not accepted"') == 10
    assert said.endswith(b'BYE "Too many errors"\r\n')
    assert wire.is_closed


class Counted(Unregistered):
    """One login at a time."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()

    async def logged_in(self, session_id: str, identity: Identity) -> None:
        if self.sessions:
            raise TooManySessions("Too many connections: 1 are allowed")
        self.sessions.add(session_id)

    def logged_out(self, session_id: str) -> None:
        self.sessions.discard(session_id)


async def test_logins_are_registered_and_given_back(office: Office) -> None:
    office.host.services.sessions = Counted()
    wire = await office.login()
    assert b'NO (TRYLATER) "Too many connections' in await Wire(office.factory).send(LOGIN)
    assert wire.connection.user == "ann@example.test"
    await wire.send(b"UNAUTHENTICATE\r\n")
    assert wire.connection.user == ""
    await office.login()


async def test_users_see_their_own_scripts(office: Office) -> None:
    await office.put("mine")
    wire = await office.login(BOB)
    assert await wire.send(b"LISTSCRIPTS\r\n") == b'OK "Done"\r\n'
    assert (await wire.send(b'GETSCRIPT "mine"\r\n')).startswith(b"NO (NONEXISTENT)")
    await wire.send(b"UNAUTHENTICATE\r\n" + LOGIN)
    assert await wire.send(b"LISTSCRIPTS\r\n") == b'"mine"\r\nOK "Done"\r\n'


# --- quotas -------------------------------------------------------------------------------------------


async def test_number_of_scripts_is_limited(office: Office) -> None:
    office.quota = ScriptQuota(scripts=2)
    wire = await office.login()
    for name in (b"a", b"b"):
        assert (await wire.send(b'PUTSCRIPT "%b" "keep;"\r\n' % name)).startswith(b"OK")
    full = b"NO (QUOTA/MAXSCRIPTS)"
    assert (await wire.send(b'PUTSCRIPT "c" "keep;"\r\n')).startswith(full)
    assert (await wire.send(b'HAVESPACE "c" 5\r\n')).startswith(full)
    assert (await wire.send(b'HAVESPACE "b" 5\r\n')).startswith(b"OK")
    assert (await wire.send(b'PUTSCRIPT "b" "stop;"\r\n')).startswith(b"OK")
    await wire.send(b'DELETESCRIPT "a"\r\n')
    assert (await wire.send(b'HAVESPACE "c" 5\r\n')).startswith(b"OK")


@pytest.mark.parametrize("command", [b'PUTSCRIPT "a"', b"CHECKSCRIPT"])
async def test_a_script_may_have_exactly_the_limit(office: Office, command: bytes) -> None:
    office.quota = ScriptQuota(script_bytes=40_000)
    wire = await office.login()
    assert (await wire.send(command + b" {40000+}\r\n" + b"#" * 40_000 + b"\r\n")).startswith(b"OK")
    said = await wire.send(command + b" {40001+}\r\n" + b"#" * 40_001 + b"\r\nNOOP\r\n")
    assert said == b'NO (QUOTA/MAXSIZE) "The script has 40001 octets, 40000 are allowed"\r\nOK "Done"\r\n'
    office.quota = ScriptQuota(script_bytes=100)
    wire = await office.login()
    said = await wire.send(command + b' "' + b"#" * 101 + b'"\r\n')
    assert said.startswith(b"NO (QUOTA/MAXSIZE)")
    assert len(office.compiler.checked) == 1


async def test_a_huge_script_is_refused_before_it_comes(office: Office) -> None:
    wire = await office.login()
    said = await wire.send(b'PUTSCRIPT "a" {2000000000+}\r\n')
    assert said == b'BYE (QUOTA/MAXSIZE) "The script has 2000000000 octets, 16384 are allowed"\r\n'
    assert wire.is_closed
    assert office.store.calls == []


async def test_a_refused_script_is_not_kept_while_it_comes(office: Office) -> None:
    wire = await office.login()
    wire.feed(b'PUTSCRIPT "a" {4000000+}\r\n')
    for _ in range(400):
        wire.feed(b"x" * 10_000)
        await wire.settle()
        assert wire.connection._machine.buffered_bytes < 20_000
    assert (await wire.send(b"\r\n")).startswith(b"NO (QUOTA/MAXSIZE)")
    assert (await wire.send(b"LISTSCRIPTS\r\n")) == b'OK "Done"\r\n'


# --- memory and time ----------------------------------------------------------------------------------


async def test_large_scripts_are_charged_and_given_back(office: Office) -> None:
    office.quota = ScriptQuota(script_bytes=100_000)
    memory = office.host.services.memory = NodeMemory(150_000)
    wire, other = await office.login(), await office.login()
    wire.feed(b'PUTSCRIPT "a" {100000+}\r\n')
    await wire.settle()
    assert memory.used_bytes == 100_000
    said = await other.send(b"CHECKSCRIPT {90000+}\r\n" + b"#" * 90_000 + b"\r\nNOOP\r\n")
    assert said.startswith(b'NO (TRYLATER) "That needs too much memory')
    assert said.endswith(b'OK "Done"\r\n')
    assert (await wire.send(b"#" * 100_000 + b"\r\n")).startswith(b"OK")
    assert memory.used_bytes == 0
    assert b"{100000}\r\n###" in await other.send(b'GETSCRIPT "a"\r\n')
    assert memory.used_bytes == 0
    memory.total_bytes = 90_000
    assert (await other.send(b'GETSCRIPT "a"\r\n')).startswith(b"NO (TRYLATER)")


async def test_what_was_charged_is_given_back_whatever_becomes_of_the_script(office: Office) -> None:
    office.quota = ScriptQuota(script_bytes=100_000)
    memory = office.host.services.memory
    wire = await office.login()
    big = b"{50000+}\r\n" + b"#" * 50_000
    assert (await wire.send(b'PUTSCRIPT "a" %b "more"\r\n' % big)).startswith(b"NO")
    assert (await wire.send(b"CHECKSCRIPT %b\r\n" % big)).startswith(b"OK")
    assert memory.used_bytes == 0
    office.compiler.faults.append(Unavailable("engine"))
    assert (await wire.send(b"CHECKSCRIPT %b\r\n" % big)).startswith(b"NO (TRYLATER)")
    assert memory.used_bytes == 0
    await wire.send(b'PUTSCRIPT "a" ' + big[:30_000])
    assert memory.used_bytes == 50_000
    wire.transport.vanish()
    await wire.settle()
    assert memory.used_bytes == 0


async def test_commands_end_in_time(office: Office) -> None:
    office.policy = replace(POLICY, command_limits_s={"LISTSCRIPTS": 60.0, "PUTSCRIPT": 60.0})
    stuck = Stuck(office.store.real, passing_s=61.0)
    office.store.real = stuck
    stuck.hanging.update({"scripts", "put"})
    wire = await office.login()
    for command in (b"LISTSCRIPTS\r\n", b'PUTSCRIPT "a" "keep;"\r\n'):
        assert (await wire.send(command)).startswith(b'NO (TRYLATER) "The command took too long')
    stuck.hanging.clear()
    assert (await wire.send(b"LISTSCRIPTS\r\n")) == b'OK "Done"\r\n'


# --- trouble ------------------------------------------------------------------------------------------

WRITES = {
    "put": b'PUTSCRIPT "a" "stop;"\r\n',
    "activate": b'SETACTIVE "a"\r\n',
    "delete": b'DELETESCRIPT "a"\r\n',
    "rename": b'RENAMESCRIPT "a" "b"\r\n',
}
READS = {
    "scripts": b"LISTSCRIPTS\r\n",
    "script": b'GETSCRIPT "a"\r\n',
}


@pytest.mark.parametrize("call", [*WRITES, *READS])
async def test_a_database_that_is_away_is_for_later(office: Office, call: str) -> None:
    await office.put("a")
    office.store.faults[call] = [Unavailable("db")]
    wire = await office.login()
    command = {**WRITES, **READS}[call]
    assert (await wire.send(command)).startswith(b"NO (TRYLATER)")
    assert (await wire.send(command)).endswith(b'"\r\n')
    assert not wire.is_closed


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("call", WRITES)
async def test_an_unknown_commit_is_found_out(office: Office, call: str, is_done: bool) -> None:
    await office.put("a")
    (office.store.after if is_done else office.store.faults)[call] = [CommitUnknown("lost")]
    wire = await office.login()
    assert (await wire.send(WRITES[call])).startswith(b"OK")
    assert office.store.calls == [call, call]


@pytest.mark.parametrize("call", WRITES)
async def test_a_commit_that_stays_unknown_is_not_called_done(office: Office, call: str) -> None:
    await office.put("a")
    office.store.faults[call] = [CommitUnknown("lost"), CommitUnknown("again")]
    wire = await office.login()
    assert (await wire.send(WRITES[call])).startswith(b"NO (TRYLATER)")


async def test_a_quota_of_the_store_and_damage_are_told(office: Office) -> None:
    await office.put("a")
    office.store.faults = {"put": [OverQuota("n")], "script": [Corrupt("hash")]}
    wire = await office.login()
    assert (await wire.send(WRITES["put"])).startswith(b"NO (QUOTA/MAXSCRIPTS)")
    assert (await wire.send(READS["script"])).startswith(b'NO "The script is damaged')


async def test_a_script_with_errors_is_not_stored(office: Office) -> None:
    await office.put("a", b"keep;")
    wire = await office.login()
    assert await wire.send(b'PUTSCRIPT "a" "error: here"\r\n') == b'NO "error: here"\r\n'
    assert office.store.calls == []
    assert await wire.send(b'GETSCRIPT "a"\r\n') == b'{5}\r\nkeep;\r\nOK "Done"\r\n'


async def test_scripts_come_back_octet_for_octet(office: Office) -> None:
    wire = await office.login()
    script = "# \r \n \r\n größe {5+} \u2028".encode() + bytes(range(32))
    await wire.send_bytewise(b'PUTSCRIPT "a" {%d+}\r\n%b\r\n' % (len(script), script))
    said = await wire.send(b'GETSCRIPT "a"\r\n')
    assert said == b'{%d}\r\n%b\r\nOK "Done"\r\n' % (len(script), script)


async def test_names_in_utf8(office: Office) -> None:
    wire = await office.login()
    await wire.send('PUTSCRIPT "Größe 日本" "keep;"\r\n'.encode())
    composed_otherwise = 'SETACTIVE "Gro\u0308ße 日本"\r\n'.encode()
    assert (await wire.send(composed_otherwise)).startswith(b"OK")
    assert await wire.send(b"LISTSCRIPTS\r\n") == '"Größe 日本" ACTIVE\r\nOK "Done"\r\n'.encode()


async def test_an_unexpected_error_says_so_and_closes(office: Office) -> None:
    office.compiler.faults.append(ZeroDivisionError())
    wire = await office.login()
    said = await wire.send(b'CHECKSCRIPT "keep;"\r\n')
    assert said.startswith(b'BYE (TRYLATER) "Server bug, logged with session')
    assert wire.is_closed


@pytest.mark.parametrize("why", list(Goodbye))
async def test_goodbyes(office: Office, why: Goodbye) -> None:
    wire = await office.login()
    wire.connection.say_goodbye(why)
    await wire.settle()
    assert wire.received().startswith(b"BYE (TRYLATER)")
    assert wire.is_closed


async def test_pipelined_commands_are_answered_in_order(office: Office) -> None:
    wire = Wire(office.factory)
    await wire.greeting()
    said = await wire.send(
        LOGIN
        + b'PUTSCRIPT "a" {5+}\r\nkeep;\r\nNOOP "1"\r\nSETACTIVE "a"\r\nLISTSCRIPTS\r\nLOGOUT\r\nNOOP\r\n'
    )
    assert said.split(b"\r\n") == [
        b'OK "Logged in"',
        b'OK "Script stored"',
        b'OK (TAG "1") "Done"',
        b'OK "Script is active"',
        b'"a" ACTIVE',
        b'OK "Done"',
        b'OK "Bye"',
        b"",
    ]
    assert wire.is_closed
