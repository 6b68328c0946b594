"""What senders want to be told, on its way through the queue."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.dsn import (
    NO_REQUEST,
    DsnRequest,
    MessageDsn,
    Notify,
    RecipientDsn,
    notify_from,
    notify_words,
)
from storage.errors import Corrupt
from storage.relayfile import RelayEnvelope, encode_head, parse_head

ENVELOPE = RelayEnvelope("1-2", "a@x.test", ("b@x.test", "c@x.test"), "redirect", 1, 1_800_000_000.0, 10)
words = st.sets(st.sampled_from([Notify.SUCCESS, Notify.FAILURE, Notify.DELAY]), min_size=1)
notify = st.none() | st.just(frozenset({Notify.NEVER})) | words.map(frozenset)
recipient = st.builds(RecipientDsn, notify, st.sampled_from(["", "rfc822;b+2Bx@x.test", "utf-8;\\x{FC}"]))
message = st.builds(MessageDsn, st.sampled_from(["", "FULL", "HDRS"]), st.sampled_from(["", "id+2B7"]))


@settings(max_examples=100)
@given(message, recipient, recipient)
def test_a_request_is_read_as_it_was_written(
    message: MessageDsn, one: RecipientDsn, other: RecipientDsn
) -> None:
    request = DsnRequest(message, (one, other))
    found = parse_head(encode_head(replace(ENVELOPE, dsn=request)))
    assert found.dsn == (request if request else NO_REQUEST)
    assert [found.dsn.of(at) for at in (0, 1)] == [one, other]


def test_files_of_other_versions() -> None:
    """One that asks for nothing looks as it always did, and of one that does others read the rest."""
    plain = json.loads(encode_head(ENVELOPE))
    assert "dsn" not in plain
    assert parse_head(json.dumps(plain).encode()) == ENVELOPE
    for damaged in (
        {"ret": ""},
        {"ret": "", "envid": "", "recipients": [["SUCCESS", ""]]},
        5,
        {"recipients": 1},
    ):
        with pytest.raises(Corrupt):
            parse_head(json.dumps({**plain, "dsn": damaged}).encode())


def test_parts_of_a_message() -> None:
    one, other = RecipientDsn(orcpt="rfc822;a"), RecipientDsn(orcpt="rfc822;b")
    request = DsnRequest(MessageDsn("FULL"), (one, other))
    assert request.only([1]) == DsnRequest(MessageDsn("FULL"), (other,))
    assert NO_REQUEST.of(7) == RecipientDsn()


def test_notify() -> None:
    assert notify_words(RecipientDsn(notify_from("delay,SUCCESS"))) == "SUCCESS,DELAY"
    assert notify_from("") is None
    for wrong in ("NEVER,DELAY", "DELAY,DELAY", "X", ","):
        with pytest.raises(ValueError):
            notify_from(wrong)
    assert [
        RecipientDsn(notify_from(each)).wants_failure for each in ("", "FAILURE", "SUCCESS", "NEVER")
    ] == [*(True, True, False, False)]
