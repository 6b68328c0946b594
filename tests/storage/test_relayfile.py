"""One file of the relay queue: what is written is read, and what a crash tore does not count."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import Corrupt
from storage.relayfile import (
    Fate,
    Progress,
    Record,
    RelayEnvelope,
    Verdict,
    encode_head,
    encode_record,
    fold_tail,
    parse_head,
    parse_record,
    read_body,
    read_message,
)

ENVELOPE = RelayEnvelope(
    "1a-2b", "ann@example.test", ("bob@example.org", "é@example.org"), "redirect", 7, 12.5, 5
)
TAKEN = Verdict(Fate.TAKEN, "2.0.0", "250 ok", "mx")
REFUSED = Verdict(Fate.REFUSED, "5.1.1", "550 nobody", "mx")
DEFERRED = Verdict(Fate.DEFERRED, "4.2.2", "452 full", "mx")
RECORDS = (
    Record(1.0, {0: TAKEN, 1: DEFERRED}, is_attempt=True),
    Record(2.0, {1: REFUSED}, is_attempt=True),
    Record(3.0, told=frozenset({1})),
)
TAIL = b"".join(map(encode_record, RECORDS))

texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    texts, st.lists(texts, min_size=1, max_size=4), st.none() | st.integers(1, 2**40), st.integers(0, 2**40)
)
def test_an_envelope_is_read_as_it_was_written(
    sender: str, recipients: list[str], account: int | None, size: int
) -> None:
    envelope = RelayEnvelope("k1", sender, tuple(recipients), "notify", account, 1.25, size)
    raw = encode_head(envelope)
    assert raw.count(b"\n") == 1
    assert parse_head(raw) == envelope


WITH_DSN = Record(4.0, {0: replace(TAKEN, has_dsn=True), 1: TAKEN})


@pytest.mark.parametrize("record", [*RECORDS, WITH_DSN])
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert parse_record(encode_record(record).rstrip(b"\n")) == record


@pytest.mark.parametrize("cut", range(len(TAIL)))
def test_a_torn_end_does_not_count_and_the_rest_does(cut: int) -> None:
    whole = TAIL[:cut].count(b"\n")
    progress, used = fold_tail(TAIL[:cut])
    expected = Progress()
    for record in RECORDS[:whole]:
        expected.fold(record)
    assert progress == expected
    assert used == len(b"".join(map(encode_record, RECORDS[:whole])))


def test_a_changed_octet_ends_what_counts() -> None:
    broken = TAIL.replace(b"250 ok", b"250 oo")
    assert fold_tail(broken) == (Progress(), 0)


def test_a_record_has_the_form_that_other_versions_read() -> None:
    plain = json.loads(encode_record(WITH_DSN).partition(b" ")[2])
    assert plain["verdicts"]["0"] == ["taken", "2.0.0", "250 ok", "mx"]
    assert plain["dsn"] == [0]
    assert b"dsn" not in TAIL


def test_who_was_told_of_a_success_is_not_told_again_after_a_reset() -> None:
    progress = Progress()
    records = (WITH_DSN, Record(5.0, {2: REFUSED}), Record(6.0, told=frozenset({1, 2})))
    for record in (*records, Record(7.0, is_reset=True)):
        progress.fold(record)
    assert (progress.told, sorted(progress.verdicts)) == ({1}, [0, 1])


def test_progress() -> None:
    progress, _ = fold_tail(TAIL)
    assert (progress.attempts, progress.last_attempt_at, progress.refused_at) == (2, 2.0, 2.0)
    assert (progress.with_fate(Fate.TAKEN), progress.with_fate(Fate.REFUSED), progress.told) == (
        [0],
        [1],
        {1},
    )


def test_a_reset_keeps_only_who_got_it() -> None:
    progress, _ = fold_tail(TAIL + encode_record(Record(9.0, is_reset=True)))
    assert progress.verdicts == {0: TAKEN}
    assert (progress.attempts, progress.told) == (0, set())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'{"v": 2}',
        b'{"v": 1}',
        encode_head(ENVELOPE).replace(b'"size": 5', b'"size": -1'),
        encode_head(ENVELOPE).replace(b'"to": ["bob@example.org", "\\u00e9@example.org"]', b'"to": []'),
        b"[" * 100_000,
    ],
)
def test_a_head_that_is_none(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_head(raw)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(encode_head(ENVELOPE) + b"he\nlo" + TAIL + b"torn")
    fd = os.open(path, os.O_RDONLY)
    try:
        message = read_message(fd)
        assert message.envelope == ENVELOPE
        assert read_body(fd, message) == b"he\nlo"
        assert read_body(fd, message, 3) == b"he\n"
        assert message.tail_at == path.stat().st_size - 4
        assert message.open_positions == []
    finally:
        os.close(fd)


@pytest.mark.parametrize("content", [b"", b"no line", encode_head(ENVELOPE) + b"shor", b"x" * 5_000])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(Corrupt):
            read_message(fd)
    finally:
        os.close(fd)


def test_many_recipients_fit(tmp_path: Path) -> None:
    envelope = RelayEnvelope(
        "k", "", tuple(f"{n:04d}" + "é" * 150 for n in range(1_000)), "redirect", None, 0.0, 0
    )
    path = tmp_path / "file"
    path.write_bytes(encode_head(envelope))
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_message(fd).envelope == envelope
    finally:
        os.close(fd)
