"""Two node processes on one database, object store and staging directory are one mail server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.lineclient import LineClient
from tests.support.livenode import deliver, imap_inbox, message, pop3, stored
from tests.support.nodeprocess import NodeProcess
from tests.support.sieveeditor import SieveEditor

SOON_S = 9.0  # the safety net compares every 15 s, a script is remembered for 10: what is slower came by them

Pair = tuple[NodeProcess, NodeProcess]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    def edit(text: str) -> str:
        """Leases of a node that died end soon."""
        text = text.replace("[uploader]\n", '[uploader]\nretry_interval = "2s"\n')
        return text.replace("[s3]\n", '[s3]\ntimeout = "2s"\n')

    with NodeProcess().prepare(edit) as first, first.beside("second") as second:
        yield first, second


def start_idle(client: LineClient) -> None:
    client.send(b"i IDLE\r\n")
    while not (line := client.line()).startswith(b"+ "):
        assert line.startswith(b"* ")


def wait_for(client: LineClient, ending: bytes) -> None:
    """A line that ends so, in time."""
    started = time.monotonic()
    while ending not in (line := client.line()):
        assert line
    assert time.monotonic() - started < SOON_S


def test_idle_on_one_hears_of_deliveries_and_flags_through_the_other(pair: Pair) -> None:
    before = len(stored(pair[0]))
    for round_, (listening, working) in enumerate((pair, pair[::-1])):
        before += 1
        with imap_inbox(listening) as idler, imap_inbox(working) as worker:
            start_idle(idler)
            assert deliver(working, working.address, message(900 + round_)).startswith(b"250")
            wait_for(idler, b"%d EXISTS" % before)
            worker.imap(b"NOOP")
            assert worker.imap(rb"STORE %d +FLAGS (\Flagged $Work)" % before)[0].startswith(b"OK")
            wait_for(idler, rb"\Flagged")
            assert worker.imap(rb"STORE %d +FLAGS (\Deleted)" % before)[0].startswith(b"OK")
            wait_for(idler, rb"\Deleted")
            assert worker.imap(b"EXPUNGE")[0].startswith(b"OK")
            wait_for(idler, b"%d EXPUNGE" % before)
            before -= 1
            idler.send(b"DONE\r\n")
            while not (line := idler.line()).startswith(b"i "):
                assert line
    assert len(stored(pair[1])) == before


def unique_ids(client: LineClient) -> list[bytes]:
    return [line.split()[1] for line in client.pop3_lines(b"UIDL")[1].splitlines()]


def test_a_maildrop_is_the_same_through_either(pair: Pair) -> None:
    first, second = pair
    sent = [message(number, 3000) for number in range(100, 110)]
    for number, mail in enumerate(sent):
        assert deliver(pair[number % 2], first.address, mail).startswith(b"250")
    assert set(stored(first)) >= set(sent)
    assert stored(first) == stored(second)
    one, answer = pop3(first)
    with one:
        assert answer.startswith(b"+OK")
        ids = unique_ids(one)
        texts = [one.pop3_lines(b"RETR %d" % (n + 1))[1] for n in range(len(sent))]
        assert one.pop3(b"DELE 1").startswith(b"+OK")
        with imap_inbox(second) as watcher:
            start_idle(watcher)
            assert one.pop3(b"QUIT").startswith(b"+OK")
            wait_for(watcher, b"1 EXPUNGE")
    other, answer = pop3(second)
    with other:
        assert answer.startswith(b"+OK")
        assert unique_ids(other) == ids[1:]
        assert other.pop3_lines(b"RETR 1")[1] == texts[1]


def test_one_may_be_killed_and_the_other_goes_on(pair: Pair) -> None:
    first, second = pair
    with imap_inbox(first) as idler:
        start_idle(idler)
        mail = message(500)
        assert deliver(second, first.address, mail).startswith(b"250")
        wait_for(idler, b"EXISTS")
        second.kill()
        assert deliver(first, first.address, message(501)).startswith(b"250")
        wait_for(idler, b"EXISTS")
    first.wait_until_uploaded()  # what the other had leased and uploaded or not
    second.start()
    with imap_inbox(second) as idler:
        start_idle(idler)
        assert deliver(first, first.address, message(502)).startswith(b"250")
        wait_for(idler, b"EXISTS")
    assert stored(first) == stored(second)
    assert {message(500), message(501), message(502)} <= set(stored(first))


def test_script_of_a_mailbox_named_through_one_runs_on_the_other(pair: Pair) -> None:
    """Both have asked a moment ago, and remember the answer for ten seconds if nobody tells them."""
    script = b'require ["imapsieve", "imap4flags"]; addflag "%b";'
    with (
        SieveEditor(pair[0], pair[0].address, pair[0].password) as editor,
        imap_inbox(pair[0]) as one,
        imap_inbox(pair[1]) as other,
    ):
        assert one.imap(b"CREATE Watched")[0].startswith(b"OK")
        append = b"APPEND Watched {15+}\r\nSubject: x\r\n\r\nx"
        for word in (b"First", b"Second"):
            text = script % word
            put = b'PUTSCRIPT "%b" {%d+}\r\n%b\r\n' % (word, len(text), text)
            assert editor.ask(put)[0].startswith(b"OK")
            for session in (one, other):
                assert session.imap(append)[0].startswith(b"OK")
            started = time.monotonic()
            named = b'SETMETADATA Watched (/shared/imapsieve/script "%b")' % word
            assert one.imap(named)[0].startswith(b"OK")
            while not acts(other, append, word):
                assert time.monotonic() - started < SOON_S


def acts(session: LineClient, append: bytes, word: bytes) -> bool:
    """Whether a message that was appended, now or the time before, has the keyword."""
    assert session.imap(append)[0].startswith(b"OK")
    assert session.imap(b"SELECT Watched")[0].startswith(b"OK")
    return b"COUNT 0" not in session.imap(b"SEARCH RETURN (COUNT) KEYWORD " + word)[1][0]
