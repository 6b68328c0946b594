"""Whatever is done in whatever order, the scripts are those of a plain model; one reply to every command."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.managesieve.service import ScriptService
from protocols.managesieve.session import managesieve_sessions
from protocols.ports import ServerPolicy
from storage.memory.scripts import MemoryScriptStore
from storage.scripts import ScriptQuota
from tests.support.mailhost import mail_host
from tests.support.scripts import MarkedCompiler
from tests.support.wire import Wire

LOGIN = b'AUTHENTICATE "PLAIN" "AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0"\r\n'
QUOTA = ScriptQuota(scripts=3, script_bytes=40)
NAMES = st.sampled_from(["a", "b", "größe", 'q"\\', "d"])
SCRIPTS = st.sampled_from([b"", b"keep;", b"error", b"warning", b"\r\nLOGOUT\r\n", b"#" * 40, b"#" * 41])


@dataclass
class Model:
    scripts: dict[str, bytes] = field(default_factory=dict)
    active: str | None = None

    def put(self, name: str, script: bytes) -> bytes:
        if len(script) > QUOTA.script_bytes:
            return b"NO (QUOTA/MAXSIZE)"
        if script == b"error":
            return b"NO "
        if name not in self.scripts and len(self.scripts) == QUOTA.scripts:
            return b"NO (QUOTA/MAXSCRIPTS)"
        self.scripts[name] = script
        return b"OK (WARNINGS)" if script == b"warning" else b"OK"

    def delete(self, name: str, _script: bytes) -> bytes:
        if name not in self.scripts:
            return b"NO (NONEXISTENT)"
        if name == self.active:
            return b"NO (ACTIVE)"
        del self.scripts[name]
        return b"OK"

    def activate(self, name: str, _script: bytes) -> bytes:
        if name not in self.scripts:
            return b"NO (NONEXISTENT)"
        self.active = name
        return b"OK"

    def deactivate(self, _name: str, _script: bytes) -> bytes:
        self.active = None
        return b"OK"

    def rename(self, name: str, _script: bytes) -> bytes:
        """To ``d``."""
        if name not in self.scripts:
            return b"NO (NONEXISTENT)"
        if name != "d" and "d" in self.scripts:
            return b"NO (ALREADYEXISTS)"
        self.scripts["d"] = self.scripts.pop(name)
        self.active = "d" if self.active == name else self.active
        return b"OK"

    @property
    def listing(self) -> bytes:
        lines = [quoted(name) + b" ACTIVE" * (name == self.active) for name in sorted(self.scripts)]
        return b"".join(line + b"\r\n" for line in lines) + b'OK "Done"\r\n'


def quoted(name: str) -> bytes:
    return b'"%b"' % name.replace("\\", "\\\\").replace('"', '\\"').encode()


def literal(data: bytes) -> bytes:
    return b"{%d+}\r\n%b" % (len(data), data)


def command(kind: str, name: str, script: bytes) -> bytes:
    name_in = literal(name.encode()) if len(script) % 2 else quoted(name)
    return {
        "put": b"PUTSCRIPT %b %b\r\n" % (name_in, literal(script)),
        "delete": b"DELETESCRIPT %b\r\n" % name_in,
        "activate": b"SETACTIVE %b\r\n" % name_in,
        "deactivate": b'SETACTIVE ""\r\n',
        "rename": b'RENAMESCRIPT %b "d"\r\n' % name_in,
    }[kind]


KINDS = st.sampled_from(["put", "put", "put", "delete", "activate", "deactivate", "rename"])


@given(st.lists(st.tuples(KINDS, NAMES, SCRIPTS), max_size=25))
@settings(max_examples=100, deadline=None)
def test_scripts_are_those_of_the_model(steps: list[tuple[str, str, bytes]]) -> None:
    asyncio.run(compare(steps))


async def compare(steps: list[tuple[str, str, bytes]]) -> None:
    host = await mail_host()
    service = ScriptService(MemoryScriptStore(host.tables), MarkedCompiler(), QUOTA)
    policy = ServerPolicy(name="x", hostname="h", insecure_auth=True)
    wire, model = Wire(managesieve_sessions(host.services, policy, service)), Model()
    await wire.send(LOGIN)
    for kind, name, script in steps:
        said = await wire.send(command(kind, name, script))
        assert said.startswith(getattr(model, kind)(name, script)), (kind, name, script)
        assert said.count(b"\r\n") == 1
        assert await wire.send(b"LISTSCRIPTS\r\n") == model.listing
    for name, script in model.scripts.items():
        said = await wire.send(b"GETSCRIPT %b\r\n" % quoted(name))
        assert said == b'{%d}\r\n%b\r\nOK "Done"\r\n' % (len(script), script)
    assert host.services.memory.used_bytes == 0
