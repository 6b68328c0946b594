from __future__ import annotations

import logging

import pytest

from cluster.address import Address
from cluster.effects import Rejected
from cluster.errors import Reason
from cluster.faultlog import FaultLog, RejectionLog


def rejected(ip: str, reason: Reason = Reason.KEY) -> Rejected:
    return Rejected(Address(ip, 7946), reason, "")


def test_the_first_of_a_reason_is_logged_the_others_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    notes = RejectionLog()
    for second in range(600):
        for n in range(50):
            notes.note(rejected(f"192.0.2.{n % 3}"), float(second))
        notes.note(rejected("192.0.2.9", Reason.LABEL), float(second))
        notes.summarize(float(second))
    by_reason = [record.fields["reason"] for record in caplog.records]
    assert by_reason.count("key") == 10
    assert by_reason.count("label") == 10
    summary = caplog.records[2].fields
    assert summary["count"] == 61 * 50 - 1
    assert summary["senders"] == 3


def test_a_reason_that_was_quiet_is_news_again(caplog: pytest.LogCaptureFixture) -> None:
    notes = RejectionLog()
    notes.note(rejected("192.0.2.1"), 0.0)
    notes.summarize(61.0)
    notes.note(rejected("192.0.2.2"), 70.0)
    assert [record.fields["ip"] for record in caplog.records] == ["192.0.2.1", "192.0.2.2"]


def test_many_senders_take_no_more_room() -> None:
    notes = RejectionLog()
    for n in range(70_000):
        notes.note(rejected(f"10.0.{n >> 8}.{n & 255}"), 0.0)
    assert max(len(counts) for counts in notes._since.values()) <= 65


def test_faults_are_counted_and_logged_with_their_traceback_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = FaultLog()
    for second in range(120):
        faults.note(ZeroDivisionError("x"), "a datagram", float(second))
    assert faults.count == 120
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    assert all(record.levelno == logging.ERROR for record in caplog.records)
