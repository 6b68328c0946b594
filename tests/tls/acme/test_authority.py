"""What a talk with a CA raises."""

from __future__ import annotations

import pytest

from storage.errors import Unavailable
from tls.acme import authority
from tls.acme.thread import Talk
from tls.ports import BucketUnavailable, Failure, IssuingFailed


async def test_what_nobody_foresaw_is_a_failure_of_this_attempt(caplog: pytest.LogCaptureFixture) -> None:
    def work(_talk: Talk) -> None:
        raise OverflowError("date value out of range")

    with pytest.raises(IssuingFailed) as failed:
        await authority._guarded("order", 5, work)
    assert (failed.value.failure, failed.value.is_permanent) == (Failure.INTERNAL, False)
    assert "date value out of range" in failed.value.text
    assert "OverflowError" in caplog.text, "with its traceback"


@pytest.mark.parametrize(
    "error", [IssuingFailed(Failure.TIMEOUT, "x"), BucketUnavailable("x"), Unavailable("x")]
)
async def test_what_callers_know_passes(error: Exception) -> None:
    def work(_talk: Talk) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await authority._guarded("order", 5, work)
    assert raised.value is error
