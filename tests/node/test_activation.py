"""What a service manager hands over, from the environment and the descriptors themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import activation
from node.config import Server
from node.config.model import Config
from node.sockets import ListenFailed, Sockets, bind
from node.units import parse_address

FIRST = 200  # pytest has the low numbers


@pytest.fixture(autouse=True)
def _high_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "FIRST_DESCRIPTOR", FIRST)


def environment(names: str, count: int, pid: int | None = None) -> dict[str, str]:
    return {
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDS": str(count),
        "LISTEN_FDNAMES": names,
        "OTHER": "stays",
    }


@pytest.fixture
def given() -> Iterator[list[socket.socket]]:
    """Two that listen, as FIRST and the next number."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for number, each in enumerate(made, start=FIRST):
        os.dup2(each.fileno(), number)
    yield made
    for number in (FIRST, FIRST + 1):
        try:
            os.close(number)
        except OSError:
            continue  # its owner did
    for each in made:
        each.close()


def test_sockets_come_with_their_names(given: list[socket.socket]) -> None:
    told = environment("imap:pop3", 2)
    found = activation.take(told)
    assert told == {"OTHER": "stays"}
    assert [each.name for each in found] == ["imap", "pop3"]
    for each, sock in zip(found, given, strict=True):
        assert each.sock is not None
        assert each.sock.getsockname() == sock.getsockname()
        assert not os.get_inheritable(each.sock.fileno())
        each.sock.close()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"LISTEN_FDS": "2"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
)
def test_what_is_for_somebody_else_is_left_alone(given: list[socket.socket], told: dict[str, str]) -> None:
    assert activation.take(told) == []
    assert told == {}
    assert os.fstat(FIRST)


def test_names_may_be_fewer_than_sockets(given: list[socket.socket]) -> None:
    found = activation.take(environment("", 2))
    assert [each.name for each in found] == ["", ""]
    assert str(found[1]) == f"descriptor {FIRST + 1}"
    for each in found:
        assert each.sock is not None
        each.sock.close()


def no_socket(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


def silent(_path: Path) -> int:
    return socket.socket().detach()


def datagrams(_path: Path) -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def closed(_path: Path) -> int:
    return -1


@pytest.mark.parametrize(
    ("make", "flaw"),
    [
        (no_socket, "it is no socket"),
        (silent, "it does not listen"),
        (datagrams, "it is no TCP socket"),
        (closed, "Bad file descriptor"),
    ],
)
def test_what_cannot_be_used_says_why(tmp_path: Path, make: object, flaw: str) -> None:
    assert callable(make)
    made = make(tmp_path)
    if made >= 0:
        os.dup2(made, FIRST)
        os.close(made)
    (found,) = activation.take(environment("imap", 1))
    assert found.sock is None
    assert flaw in found.flaw


# --- which server gets which -------------------------------------------------------------------------


def server(name: str, addr: str, kind: str = "imap") -> Server:
    return Server(name=name, type=kind, addr=parse_address(addr, 0))


def handed(sock: socket.socket, name: str = "") -> activation.Handed:
    return activation.Handed(7, name, sock)


def taken(config: Config, *passed: activation.Handed) -> Sockets:
    sockets = Sockets(config, passed)
    sockets.bind()
    return sockets


def test_a_name_comes_before_an_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        at_one = server("a", f"127.0.0.1:{one.getsockname()[1]}")
        other = server("b", "127.0.0.1:0")
        sockets = taken(Config(servers=(at_one, other)), handed(one, "b"), handed(two, "a"))
        assert sockets.of(at_one).sockets == [two]
        assert sockets.of(other).sockets == [one]
        assert sockets.handed_names() == ["a", "b"]


def test_everywhere_is_matched_by_everywhere_and_the_rest_is_complained_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as wide, socket.create_server(("127.0.0.1", 0)) as stray:
        everywhere = server("a", f":{wide.getsockname()[1]}")
        sockets = taken(Config(servers=(everywhere,)), handed(stray), handed(wide, "sora.socket"))
        assert sockets.of(everywhere).sockets == [wide]
        assert "no server wants it" in caplog.text
        assert stray.fileno() == -1
        sockets.close()


def test_a_server_that_does_not_start_wants_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        off = Server(name="imap", start=False)
        sockets = taken(Config(servers=(off,)), handed(sock, "imap"))
        sockets.bind()
        assert caplog.text.count("no server wants it") == 1


# --- sockets of our own ------------------------------------------------------------------------------


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_bound_is_not_open_and_shut_can_be_opened_again() -> None:
    """Also on a port that the kernel chose."""
    imap = server("imap", "127.0.0.1:0")
    sockets = taken(Config(servers=(imap,)))
    address = sockets.of(imap).sockets[0].getsockname()
    assert address[1] > 0
    assert refused(address)
    for _ in range(3):
        sockets.reopen([imap])
        assert not refused(address)
        sockets.shut([imap])
        sockets.shut([imap])
        assert refused(address)
    sockets.close()


def test_all_or_none_are_opened_again() -> None:
    one, two = server("one", "127.0.0.1:0"), server("two", "127.0.0.1:0")
    sockets = taken(Config(servers=(one, two)))
    first, second = (sockets.of(each).sockets[0].getsockname() for each in (one, two))
    with socket.create_server(second):  # while ours does not listen, another program may
        with pytest.raises(ListenFailed, match="server two: cannot listen on"):
            sockets.reopen([one, two])
        assert refused(first)
    sockets.reopen([one, two])
    assert not refused(second)
    sockets.close()


def test_a_failed_bind_holds_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        good, bad = server("good", "127.0.0.1:0"), server("bad", f"127.0.0.1:{squatter.getsockname()[1]}")
        sockets = Sockets(Config(servers=(good, bad)))
        with pytest.raises(ListenFailed, match=r"server bad: .* another program on that port"):
            sockets.bind()
        assert sockets.of(good).sockets[0].fileno() == -1


def test_the_socket_that_found_a_free_port_is_closed() -> None:
    made: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, *arguments: int) -> None:
            super().__init__(*arguments)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.sockets.socket.socket", Noted)
        (bound,) = bind(parse_address("127.0.0.1:0", 0))
    assert [each.fileno() == -1 for each in made] == [True, False]
    bound.close()


def test_a_name_is_bound_for_every_family() -> None:
    found = bind(parse_address("localhost:0", 0))
    assert {each.family for each in found} <= {socket.AF_INET, socket.AF_INET6}
    for each in found:
        each.close()
