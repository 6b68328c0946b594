"""A CA that is dead, hangs, breaks off, forgets or talks nonsense; and orders that another goes on with."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.acmefront import Seen
from tests.support.challenges import ChallengeAnswers
from tests.support.pebble import Pebble, Rule, require_pebble
from tls.acme.authority import AcmeAuthority
from tls.ports import Account, CaSettings, Failure, IssuingFailed, Journal
from tls.wanted import Wanted

from .acme import Ordering, authority, verify
from .acmechild import load_journal, write_account


@pytest.fixture(scope="module")
def ca() -> Iterator[Pebble]:
    require_pebble()
    with Pebble() as ca:
        yield ca


@pytest.fixture(autouse=True)
def _no_rules(ca: Pebble) -> None:
    ca.front.clear()


@pytest.fixture(scope="module")
def answers(ca: Pebble) -> Iterator[ChallengeAnswers]:
    with ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
        yield answers


def fresh() -> Wanted:
    return Wanted((f"mail.{uuid.uuid4().hex[:10]}.example.test",))


async def failing(call: object) -> IssuingFailed:
    with pytest.raises(IssuingFailed) as failed:
        await call  # type: ignore[misc]
    return failed.value


# --- the CA is in trouble ------------------------------------------------------------------------


async def test_a_ca_whose_port_is_closed() -> None:
    require_pebble()
    with Pebble() as ca:
        acme = authority(ca, directory=ca.direct_directory)
        account = await acme.account(None)
        ca.stop()
        failure = await failing(acme.account(account))
        assert failure.failure is Failure.UNREACHABLE
        assert "refused" in failure.text.lower()
        failure = await failing(acme.issue(account, fresh(), Ordering(fresh()).steps()))
        assert failure.failure is Failure.UNREACHABLE
        assert (await failing(acme.profiles())).failure is Failure.UNREACHABLE


async def test_a_ca_whose_name_is_nowhere() -> None:
    failure = await failing(AcmeAuthority(CaSettings("https://ca.invalid/dir")).account(None))
    assert failure.failure is Failure.UNREACHABLE


async def test_a_ca_that_hangs_costs_one_timeout(answers: ChallengeAnswers) -> None:
    require_pebble()
    with Pebble() as ca:
        patient = authority(ca, directory=ca.direct_directory)
        acme = authority(ca, directory=ca.direct_directory, call_timeout_s=0.5)
        account = await patient.account(None)
        ca.hang()
        started = time.monotonic()
        failure = await failing(acme.issue(account, fresh(), Ordering(fresh(), answers).steps()))
        assert failure.failure is Failure.TIMEOUT
        assert time.monotonic() - started < 60
        ca.go_on()
        assert await patient.account(account) == account


async def test_an_answer_that_drips_costs_one_timeout(ca: Pebble) -> None:
    """Each octet comes in time; the whole never does."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
        with pytest.raises((ConnectionError, asyncio.CancelledError)):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    acme = authority(ca, directory=f"http://127.0.0.1:{port}/dir", call_timeout_s=0.5)
    started = time.monotonic()
    failure = await failing(acme.profiles())
    assert failure.failure is Failure.TIMEOUT
    assert time.monotonic() - started < 60
    server.close()


async def test_an_order_ends_at_its_own_limit(ca: Pebble, answers: ChallengeAnswers) -> None:
    """The CA answers every call in time and never decides."""
    account = await authority(ca).account(None)
    waiting = b'{"status": "processing", "authorizations": [], "finalize": "https://localhost/f"}'
    headers = {"Replay-Nonce": "AAAA"}
    for limit_s in (3.0, 60.0):  # the longer one where it takes longer to come to the end
        ca.front.clear()
        ca.front.add(Rule("finalize", status=200, body=waiting, headers=headers))
        ca.front.add(Rule("order", status=200, body=waiting, headers=headers, skip=1))
        ordering = Ordering(fresh(), answers)
        started = time.monotonic()
        acme = authority(ca, order_timeout_s=limit_s)
        failure = await failing(acme.issue(account, ordering.wanted, ordering.steps()))
        assert failure.failure is Failure.TIMEOUT
        assert limit_s - 0.1 < time.monotonic() - started < limit_s + 60
        if ca.front.count("finalize"):
            break
    ca.front.clear()
    issued = await authority(ca).resume(account, ordering.journals[0], ordering.steps())
    verify(issued.chain_pem, ca.root_pem())
    assert ca.front.count("new-order") == 0


async def test_a_step_of_ours_that_hangs_ends_with_the_order(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca, order_timeout_s=1.5)
    ordering = Ordering(fresh(), answers)

    async def publish(name: str, token: str, key_authorisation: str) -> None:
        await asyncio.Event().wait()

    steps = replace(ordering.steps(), publish_http=publish)
    failure = await failing(acme.issue(await acme.account(None), ordering.wanted, steps))
    assert failure.failure is Failure.TIMEOUT


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_errors_of_the_server(ca: Pebble, status: int) -> None:
    ca.front.add(Rule("directory", status=status, body=b"<html>sorry</html>", headers={"Retry-After": "120"}))
    failure = await failing(authority(ca).account(None))
    assert failure.failure is Failure.UNREACHABLE
    assert failure.retry_after_s == 120
    assert str(status) in failure.text


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in to the hotel's network</html>",
        b"",
        b"[]",
        b"7",
        b"{}",
        b'{"newNonce": 7, "newAccount": [], "newOrder": {}}',
        b"\xff\xfe",
        b'{"meta": 1, "newNonce": "", "newAccount": "a", "newOrder": "b"}',
        b'{"newNonce": "a", "newAccount": "b", "newOrder": "c"}',
        b'{"newNonce": "file:///etc/passwd", "newAccount": "b", "newOrder": "c"}',
        b'{"newNonce": "https://\\ud800/", "newAccount": "https://[::1", "newOrder": "c"}',
        b'{"newNonce": "https://a..b:99999/", "newAccount": "b", "newOrder": "c"}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_directory(ca: Pebble, body: bytes) -> None:
    ca.front.add(Rule("directory", status=200, body=body))
    failure = await failing(authority(ca).account(None))
    assert failure.failure is Failure.UNREACHABLE
    assert len(failure.text) < 1000


async def test_an_endless_answer(ca: Pebble) -> None:
    ca.front.add(Rule("directory", status=200, body=b" " * (5 << 20)))
    failure = await failing(authority(ca).profiles())
    assert failure.failure is Failure.UNREACHABLE


NONSENSE = [b"", b"null", b"[]", b"{}", b'{"status": 7}', b'{"status": "valid"}', b"\x00\x01", b'"ready"']


@pytest.mark.parametrize(
    "kind", ["new-account", "new-order", "authorisation", "order", "finalize", "certificate"]
)
@pytest.mark.parametrize("body", NONSENSE)
async def test_nonsense_at_every_step_is_a_failure_with_a_class(
    ca: Pebble, answers: ChallengeAnswers, kind: str, body: bytes
) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    ca.front.add(Rule(kind, status=200, body=body, headers={"Replay-Nonce": "AAAA"}, times=3))
    ordering = Ordering(fresh(), answers)
    if kind == "new-account":
        failure = await failing(acme.account(None))
    else:
        failure = await failing(acme.issue(account, ordering.wanted, ordering.steps()))
    assert failure.failure in (Failure.UNREACHABLE, Failure.REFUSED), failure


async def test_a_chain_for_somebody_elses_key(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    other = await acme.issue(account, (wanted := fresh()), Ordering(wanted, answers).steps())
    ca.front.add(Rule("certificate", status=200, body=other.chain_pem, headers={"Replay-Nonce": "AAAA"}))
    ordering = Ordering(fresh(), answers)
    failure = await failing(acme.issue(account, ordering.wanted, ordering.steps()))
    assert failure.failure is Failure.REFUSED
    assert "does not belong" in failure.text


async def test_a_rate_limit_of_the_order(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    problem = {
        "type": "urn:ietf:params:acme:error:rateLimited",
        "detail": "too many certificates (5) already issued\r\nfor this exact set",
    }
    ca.front.add(Rule("new-order", status=429, problem=problem, headers={"Retry-After": "3600"}))
    failure = await failing(acme.issue(account, fresh(), Ordering(fresh(), answers).steps()))
    assert failure.failure is Failure.RATE_LIMITED
    assert failure.retry_after_s == 3600
    assert failure.text == "too many certificates (5) already issued for this exact set (rateLimited)"


async def test_an_account_that_the_ca_forgot(answers: ChallengeAnswers) -> None:
    require_pebble()
    with Pebble() as ca, ChallengeAnswers(ca.options.ip, ca.options.http_port) as own:
        acme, wanted = authority(ca), fresh()
        account = await acme.account(None)
        ca.stop()
        ca.start()
        assert (await failing(acme.account(account))).failure is Failure.LOST_ACCOUNT
        failure = await failing(acme.issue(account, wanted, Ordering(wanted, own).steps()))
        assert failure.failure is Failure.LOST_ACCOUNT
        again = await acme.account(replace(account, uri=""))
        assert again.key_json == account.key_json
        issued = await acme.issue(again, wanted, Ordering(wanted, own).steps())
        verify(issued.chain_pem, ca.root_pem())


# --- cancelled -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["new-order", "authorisation", "challenge", "order", "finalize", "certificate"]
)
async def test_a_cancelled_order_can_be_resumed(ca: Pebble, answers: ChallengeAnswers, kind: str) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    ordering = Ordering(fresh(), answers)
    task = asyncio.create_task(acme.issue(account, ordering.wanted, ordering.steps()))
    loop = asyncio.get_running_loop()

    def cancel(seen: Seen) -> None:
        if seen.kind == kind:
            loop.call_soon_threadsafe(task.cancel)
            ca.front.on_answer = None

    ca.front.on_answer = cancel
    with pytest.raises(asyncio.CancelledError):
        await task
    steps_then = list(ordering.done)
    assert ordering.journals, "an order that was made is in the journal, come what may"
    issued = await acme.resume(account, ordering.journals[0], ordering.steps())
    verify(issued.chain_pem, ca.root_pem())
    assert ordering.done[: len(steps_then)] == steps_then
    assert ca.front.count("new-order") == 1
    assert ca.front.count("finalize") == 1


async def test_a_cancelled_caller_does_not_wait_for_a_ca_that_hangs(ca: Pebble) -> None:
    ca.front.add(Rule("new-account", hang=True))
    task = asyncio.create_task(authority(ca, call_timeout_s=30).account(None))
    while not ca.front.requests("new-account"):
        await asyncio.sleep(0.01)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 60


# --- another goes on -----------------------------------------------------------------------------


def nth(number: int) -> Callable[[Seen], bool]:
    """True from the n-th request on."""
    count = 0

    def reached(_: Seen) -> bool:
        nonlocal count
        count += 1
        return count > number

    return reached


@pytest.mark.parametrize("lose_answer", [False, True], ids=["never arrives", "answer lost"])
async def test_the_ca_breaks_off_at_every_request_of_an_order(
    ca: Pebble, answers: ChallengeAnswers, lose_answer: bool
) -> None:
    """Whatever the request, another process then gets the certificate of the same order, without a second."""
    account = await authority(ca).account(None)
    resumed = 0
    for number in itertools.count():
        ca.front.clear()
        ordering = Ordering(fresh(), answers)
        reached, cut = nth(number), {"cut": not lose_answer, "lose_answer": lose_answer}
        # the answer to one request is lost, and then the CA is away
        ca.front.add(Rule("*", when=reached, times=1, **cut))
        ca.front.add(Rule("*", when=nth(number), cut=True))
        task = asyncio.create_task(authority(ca).issue(account, ordering.wanted, ordering.steps()))
        await asyncio.wait({task})
        failure = task.exception()
        if failure is None:
            break  # no order has so many requests
        assert isinstance(failure, IssuingFailed)
        assert failure.failure is Failure.UNREACHABLE, (number, failure)
        made = ca.front.count("new-order")
        ca.front.clear()
        if not ordering.journals:
            continue
        resumed += 1
        issued = await authority(ca).resume(account, ordering.journals[0], ordering.steps())
        verify(issued.chain_pem, ca.root_pem())
        assert made == 1
        assert ca.front.count("new-order") == 0
    assert resumed >= 6


async def test_a_process_that_is_killed_at_every_step_of_an_order(
    ca: Pebble, answers: ChallengeAnswers, tmp_path: Path
) -> None:
    """kill -9; who goes on has the journal alone, and what the dead one has published."""
    account = await authority(ca).account(None)
    resumed = 0
    for number in itertools.count(1):
        ca.front.clear()
        folder = tmp_path / str(number)
        folder.mkdir()
        answers.folders.append(folder)
        child = await order_and_die(ca, account, fresh(), folder, number)
        if child.ended:
            break
        if child.journal is None:
            assert ca.front.count("finalize") == 0, number
            continue
        resumed += 1
        ca.front.on_answer = None
        ordering = Ordering(child.journal.wanted, answers)
        made = ca.front.count("new-order")
        issued = await authority(ca).resume(account, child.journal, ordering.steps())
        verify(issued.chain_pem, ca.root_pem())
        assert ca.front.count("new-order") == made == 1
        assert ca.front.count("finalize") == 1, number
    assert resumed >= 5


@dataclass(frozen=True)
class Died:
    """``ended``: by itself, with its certificate."""

    ended: bool
    journal: Journal | None


async def order_and_die(ca: Pebble, account: Account, wanted: Wanted, folder: Path, number: int) -> Died:
    """A child orders and is killed when the answer to its n-th request is on its way."""
    write_account(folder, account)
    command = [sys.executable, "-m", "tests.interop.acmechild", str(folder), ca.directory, ca.ca_file]
    command += wanted.names
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    count = 0

    def kill(_: Seen) -> None:
        nonlocal count
        count += 1
        if count == number + 1:
            os.kill(child.pid, signal.SIGKILL)

    ca.front.on_answer = kill
    output, _ = await asyncio.to_thread(child.communicate, timeout=120)
    assert child.returncode in (-signal.SIGKILL, 0), output.decode()
    return Died(child.returncode == 0, load_journal(folder, wanted, ca.directory))


async def test_an_order_that_failed_leads_nowhere_when_it_is_resumed(
    ca: Pebble, answers: ChallengeAnswers
) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    ordering = Ordering(fresh(), answers)

    async def publish(name: str, token: str, key_authorisation: str) -> None:
        """Nowhere."""

    steps = replace(ordering.steps(), publish_http=publish, withdraw_http=publish_nothing)
    assert (await failing(acme.issue(account, ordering.wanted, steps))).failure is Failure.VALIDATION
    failure = await failing(acme.resume(account, ordering.journals[0], ordering.steps()))
    assert failure.failure is Failure.VALIDATION
    assert failure.names == ordering.wanted.names


async def publish_nothing(name: str, token: str) -> None:
    """There is nothing to withdraw."""


async def test_an_order_that_the_ca_does_not_know(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    ordering = Ordering(fresh(), answers)
    await acme.issue(account, ordering.wanted, ordering.steps())
    gone = replace(ordering.journals[0], order_url=ca.directory.replace("/dir", "/my-order/none"))
    assert (await failing(acme.resume(account, gone, ordering.steps()))).failure is Failure.REFUSED


async def test_the_ca_was_told_by_another_meanwhile(ca: Pebble, answers: ChallengeAnswers) -> None:
    """It says no to us, and looks all the same."""
    acme, ordering = authority(ca), Ordering(fresh(), answers)
    account = await acme.account(None)
    problem = {"type": "urn:ietf:params:acme:error:malformed", "detail": "it is not pending"}
    ca.front.add(Rule("challenge", status=400, problem=problem, lose_answer=True, times=1))
    verify((await acme.issue(account, ordering.wanted, ordering.steps())).chain_pem, ca.root_pem())


async def test_the_ca_will_not_be_told(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme, ordering = authority(ca), Ordering(fresh(), answers)
    account = await acme.account(None)
    problem = {"type": "urn:ietf:params:acme:error:malformed", "detail": "no"}
    ca.front.add(Rule("challenge", status=400, problem=problem))
    failure = await failing(acme.issue(account, ordering.wanted, ordering.steps()))
    assert (failure.failure, failure.text) == (Failure.VALIDATION, "no (malformed)")


@pytest.mark.parametrize("kind", ["challenge", "finalize"])
async def test_two_who_go_on_with_one_order_both_come_to_its_end(
    ca: Pebble, answers: ChallengeAnswers, kind: str
) -> None:
    """The lease forbids it; when it fails us, nothing is broken and there is one certificate."""
    account = await authority(ca).account(None)
    for _ in range(3):
        ca.front.clear()
        ordering = Ordering(fresh(), answers)
        ca.front.add(Rule(kind, cut=True))
        await failing(authority(ca).issue(account, ordering.wanted, ordering.steps()))
        ca.front.clear()
        answers.answers.clear()
        others = [Ordering(ordering.wanted, answers) for _ in range(2)]
        steps = [replace(other.steps(), withdraw_http=publish_nothing) for other in others]
        runs = [authority(ca).resume(account, ordering.journals[0], each) for each in steps]
        first, second = await asyncio.gather(*runs)
        assert first.chain_pem == second.chain_pem
        assert ca.front.count("finalize") == 1
        answers.answers.clear()


async def test_a_finished_order_gives_its_certificate_again(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    ordering = Ordering(fresh(), answers)
    first = await acme.issue(account, ordering.wanted, ordering.steps())
    again = await acme.resume(account, ordering.journals[0], ordering.steps())
    assert (again.chain_pem, again.key_pem) == (first.chain_pem, first.key_pem)
    assert ca.front.count("finalize") == 1
