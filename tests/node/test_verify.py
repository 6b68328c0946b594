"""What a password check costs: counted, never timed."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator

import pytest

from node.verify import NICER, REMEMBER_S, SUSPECT_S, PasswordVerifier, Remembered, Verdict
from protocols.errors import AuthenticationUnavailable
from tests.support.passwords import Clock, CountedChecks, cheap_hash, ssha512, verifier

ANN = "ann@example.org"
STORED = cheap_hash(b"secret")
YES, NO = Verdict(True), Verdict(False)
YES_AGAIN, NO_AGAIN = Verdict(True, is_remembered=True), Verdict(False, is_remembered=True)


@pytest.fixture
def checks() -> CountedChecks:
    return CountedChecks()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def passwords(checks: CountedChecks, clock: Clock) -> AsyncIterator[PasswordVerifier]:
    made = verifier(checks, clock)
    yield made
    checks.release()
    await made.close()


async def test_right_and_wrong(passwords: PasswordVerifier) -> None:
    assert await passwords.verify(ANN, STORED, b"secret") == YES
    assert await passwords.verify(ANN, STORED, b"Secret") == NO


async def test_a_success_is_remembered_for_a_while(
    passwords: PasswordVerifier, checks: CountedChecks, clock: Clock
) -> None:
    await passwords.verify(ANN, STORED, b"secret")
    clock.now += REMEMBER_S - 1
    assert await passwords.verify(ANN, STORED, b"secret") == YES_AGAIN
    assert len(checks.stored) == 1
    clock.now += 1
    assert await passwords.verify(ANN, STORED, b"secret") == YES
    assert len(checks.stored) == 2


async def test_a_changed_hash_is_checked_anew(passwords: PasswordVerifier, checks: CountedChecks) -> None:
    await passwords.verify(ANN, STORED, b"secret")
    await passwords.verify(ANN, STORED, b"other")
    changed = cheap_hash(b"other")
    assert await passwords.verify(ANN, changed, b"secret") == NO
    assert await passwords.verify(ANN, changed, b"other") == YES
    assert len(checks.stored) == 4


async def test_nothing_is_shared_between_users(passwords: PasswordVerifier, checks: CountedChecks) -> None:
    await passwords.verify(ANN, STORED, b"secret")
    assert await passwords.verify("bob@example.org", STORED, b"secret") == YES
    assert len(checks.stored) == 2


async def test_the_same_wrong_password_is_hashed_once(
    passwords: PasswordVerifier, checks: CountedChecks
) -> None:
    assert await passwords.verify(ANN, STORED, b"wrong") == NO
    for _ in range(5):
        assert await passwords.verify(ANN, STORED, b"wrong") == NO_AGAIN
    assert len(checks.stored) == 1


async def test_an_unknown_user_costs_what_a_known_one_costs(
    passwords: PasswordVerifier, checks: CountedChecks
) -> None:
    """Per attempt, including repeated ones."""
    for stored in (STORED, None, ssha512(b"secret"), "{MD5}unsupported"):
        checks.stored.clear()
        spent = []
        for password in (b"wrong", b"wrong", b"other", b"wrong"):
            assert not (await passwords.verify(ANN, stored, password)).is_match
            spent.append(len(checks.costly))
        assert spent == [1, 1, 2, 2], stored


async def test_no_password_opens_an_unknown_user(clock: Clock) -> None:
    always = PasswordVerifier(threads=1, clock=clock, check=lambda *_args, **_kw: True, make=cheap_hash)
    assert await always.verify("nobody@example.org", None, b"x") == NO
    assert await always.verify("nobody@example.org", None, b"x") == NO_AGAIN
    await always.close()


async def test_a_success_with_a_cheap_scheme_costs_no_dummy(
    passwords: PasswordVerifier, checks: CountedChecks
) -> None:
    assert await passwords.verify(ANN, ssha512(b"secret"), b"secret") == YES
    assert checks.costly == []


async def test_a_reconnect_storm_hashes_once(passwords: PasswordVerifier, checks: CountedChecks) -> None:
    checks.hold()
    storm = [asyncio.create_task(passwords.verify(ANN, STORED, b"secret")) for _ in range(50)]
    await asyncio.sleep(0)
    checks.release()
    assert await asyncio.gather(*storm) == [YES] * 50
    assert len(checks.stored) == 1


async def test_a_cancelled_caller_takes_nobody_along(
    passwords: PasswordVerifier, checks: CountedChecks
) -> None:
    checks.hold()
    first = asyncio.create_task(passwords.verify(ANN, STORED, b"secret"))
    second = asyncio.create_task(passwords.verify(ANN, STORED, b"secret"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    checks.release()
    assert await second == YES
    assert first.cancelled()
    assert len(checks.stored) == 1


async def test_beyond_the_queue_the_answer_is_unavailable(
    passwords: PasswordVerifier, checks: CountedChecks
) -> None:
    checks.hold()
    waiting = [asyncio.create_task(passwords.verify(ANN, STORED, b"%d" % n)) for n in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(AuthenticationUnavailable):
        await passwords.verify(ANN, STORED, b"secret")
    with pytest.raises(AuthenticationUnavailable):
        await passwords.verify("nobody@example.org", None, b"secret")
    joined = asyncio.create_task(passwords.verify(ANN, STORED, b"3"))  # rides along
    await asyncio.sleep(0)
    checks.release()
    assert await asyncio.gather(*waiting, joined) == [NO] * 9
    assert await passwords.verify(ANN, STORED, b"secret") == YES
    assert len(checks.stored) == 9


async def test_what_is_remembered_is_answered_even_when_the_queue_is_full(
    passwords: PasswordVerifier, checks: CountedChecks
) -> None:
    await passwords.verify(ANN, STORED, b"secret")
    checks.hold()
    waiting = [asyncio.create_task(passwords.verify(ANN, STORED, b"%d" % n)) for n in range(8)]
    await asyncio.sleep(0)
    assert await passwords.verify(ANN, STORED, b"secret") == YES_AGAIN
    checks.release()
    await asyncio.gather(*waiting)


async def test_shutdown_is_unavailable_never_wrong(
    passwords: PasswordVerifier, checks: CountedChecks
) -> None:
    checks.hold()
    running = asyncio.create_task(passwords.verify(ANN, STORED, b"secret"))
    queued = asyncio.create_task(passwords.verify(ANN, STORED, b"wrong"))
    await asyncio.sleep(0)
    await asyncio.to_thread(checks.started.acquire)
    closing = asyncio.create_task(passwords.close())
    with pytest.raises(AuthenticationUnavailable):
        await queued
    assert not closing.done()
    checks.release()
    await closing
    assert await running == YES
    with pytest.raises(AuthenticationUnavailable):
        await passwords.verify(ANN, STORED, b"new")
    with pytest.raises(AuthenticationUnavailable):
        await passwords.hash(b"new")


async def test_out_of_memory_is_unavailable_and_not_remembered(clock: Clock) -> None:
    outcomes = [MemoryError("full"), True]

    def check(*_args: object, **_kw: object) -> bool:
        outcome = outcomes.pop(0)
        if isinstance(outcome, MemoryError):
            raise outcome
        return outcome

    passwords = PasswordVerifier(threads=1, clock=clock, check=check, make=cheap_hash)
    with pytest.raises(AuthenticationUnavailable):
        await passwords.verify(ANN, STORED, b"secret")
    assert await passwords.verify(ANN, STORED, b"secret") == YES
    await passwords.close()


async def test_an_unusable_hash_is_logged_without_itself(
    passwords: PasswordVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert await passwords.verify(ANN, "{MD5}X03MO1qnZdYdgyfeuILPmQ==", b"secret") == NO
        assert await passwords.verify(ANN, "{MD5}X03MO1qnZdYdgyfeuILPmQ==", b"secret") == NO_AGAIN
    (record,) = (each for each in caplog.records if each.name.startswith("sora"))
    assert ANN in record.getMessage()
    assert "X03MO" not in caplog.text
    assert "secret" not in caplog.text


def test_remembered_is_bounded_and_forgets_the_least_recently_used() -> None:
    memory = Remembered(limit=3, ttl_s=10)
    for n in (1, 2, 3):
        memory.add(b"%d" % n, now=0.0)
    assert memory.has(b"1", now=1.0)
    memory.add(b"4", now=1.0)
    assert [memory.has(b"%d" % n, now=1.0) for n in (1, 2, 3, 4)] == [True, False, True, True]
    assert len(memory) == 3
    assert not memory.has(b"1", now=10.0)
    assert len(memory) == 2


async def test_the_dummy_hash_is_of_the_default_profile(clock: Clock) -> None:
    seen: list[str] = []

    def check(stored: str, _password: bytes, **_kw: object) -> bool:
        seen.append(stored)
        return False

    passwords = PasswordVerifier(threads=1, clock=clock, check=check)
    await passwords.verify("nobody@example.org", None, b"x")
    await passwords.close()
    assert len(seen) == 1
    assert seen[0].startswith("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$")


async def test_addresses_whose_last_check_failed_come_after_others(
    passwords: PasswordVerifier, checks: CountedChecks, clock: Clock
) -> None:
    origins = {"g": 1, "h": 2}
    assert await passwords.verify(ANN, STORED, b"guess", origin=origins["g"]) == NO
    stored = {name: cheap_hash(name.encode()) for name in ("g1", "g2", "h1", "h2")}

    async def order() -> list[str]:
        checks.hold()
        del checks.stored[:]
        running = asyncio.create_task(passwords.verify("x", STORED, b"%d" % clock.now, origin=3))
        while not checks.stored:
            await asyncio.sleep(0)
        asked = [
            passwords.verify(name, stored[name], b"%f" % clock.now, origin=origins[name[0]])
            for name in ("g1", "g2", "h1", "h2")
        ]
        tasks = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0)
        checks.release()
        await asyncio.gather(running, *tasks)
        named = {hashed: name for name, hashed in stored.items()}
        return [named[each] for each in checks.stored[1:]]

    assert await order() == ["h1", "h2", "g1", "g2"]
    clock.now += SUSPECT_S  # forgotten; h1 and h2 have failed at the same time, too
    assert await order() == ["g1", "h1", "g2", "h2"]
    clock.now += 1  # other passwords
    # who gets in is nobody to be suspicious of
    assert await passwords.verify(ANN, STORED, b"secret", origin=origins["g"]) == YES
    assert (await order())[0] == "g1"


async def test_hashing_leaves_the_processor_to_others(clock: Clock) -> None:
    priorities = []

    def check(stored: str, password: bytes, *, allow_plain: bool = False) -> bool:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return True

    made = PasswordVerifier(threads=1, clock=clock, check=check, make=cheap_hash)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert await made.verify(ANN, STORED, b"secret") == YES
    await made.close()
    assert priorities == [min(before + NICER, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
