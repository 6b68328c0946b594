"""Orders at a real CA of the ACME protocol: what goes well, and what the CA refuses."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.challengepart import ChallengePart
from node.challengeserver import ChallengeServer
from node.config import Config
from node.renewal.answers import PortAnswers
from node.sockets import Sockets, bind
from node.units import Address
from tests.support.acmefront import Window
from tests.support.challenges import ChallengeAnswers
from tests.support.pebble import EAB_KEY, EAB_KID, Pebble, PebbleOptions, Rule, require_pebble
from tls.acme.chains import top_issuer
from tls.challenges import Source
from tls.ports import Account, BucketUnavailable, Failure, IssuingFailed
from tls.selfsigned import self_signed
from tls.wanted import KeyType, Wanted

from .acme import Ordering, authority, key_size, verify


@pytest.fixture(scope="module")
def ca() -> Iterator[Pebble]:
    require_pebble()
    options = PebbleOptions(
        validity_s=3600, blocklist=("blocked.example.test",), alternate_roots=2, chain_length=2
    )
    with Pebble(options) as ca:
        yield ca


@pytest.fixture(autouse=True)
def _no_rules(ca: Pebble) -> None:
    ca.front.clear()


@pytest.fixture(scope="module")
def answers(ca: Pebble) -> Iterator[ChallengeAnswers]:
    with ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
        yield answers


def fresh(*labels: str, key_type: KeyType = KeyType.P256, profile: str = "") -> Wanted:
    """Names that no other test has used: nothing is validated already."""
    unique = uuid.uuid4().hex[:10]
    names = tuple(sorted(f"{label}.{unique}.example.test" for label in (labels or ("mail",))))
    return Wanted(names, key_type, profile)


async def order(
    ca: Pebble, answers: ChallengeAnswers, wanted: Wanted, **more: object
) -> tuple[Account, bytes]:
    acme = authority(ca, **more)
    account = await acme.account(None)
    issued = await acme.issue(account, wanted, Ordering(wanted, answers).steps())
    return account, issued.chain_pem


async def test_an_order_from_nothing_to_a_chain(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca, email="admin@example.test")
    account = await acme.account(None)
    ordering = Ordering(fresh("a", "b"), answers)
    issued = await acme.issue(account, ordering.wanted, ordering.steps())
    leaf = verify(issued.chain_pem, ca.root_pem())
    assert key_size(leaf) == ("ec", 256)
    assert ca.front.count("new-order") == ca.front.count("finalize") == 1
    assert not answers.answers
    kept = [step for step in ordering.done if step != "check"]
    # in the CA's order of names, and all published before the first is looked for
    assert kept[0] == "journal"
    assert sorted(kept[1:3]) == [f"publish {name}" for name in ordering.wanted.names]
    assert sorted(kept[3:]) == [f"withdraw {name}" for name in ordering.wanted.names]


async def test_the_order_is_checked_before_every_step_that_counts(
    ca: Pebble, answers: ChallengeAnswers
) -> None:
    acme = authority(ca)
    ordering = Ordering(fresh(), answers)
    await acme.issue(await acme.account(None), ordering.wanted, ordering.steps())
    kept = [step.split()[0] for step in ordering.done]
    assert kept == ["check", "journal", "check", "publish", "check", "withdraw", "check"]


@pytest.mark.parametrize(
    ("key_type", "expected"),
    [(KeyType.P384, ("ec", 384)), (KeyType.RSA2048, ("rsa", 2048)), (KeyType.RSA4096, ("rsa", 4096))],
)
async def test_types_of_keys(
    ca: Pebble, answers: ChallengeAnswers, key_type: KeyType, expected: tuple[str, int]
) -> None:
    _, chain = await order(ca, answers, fresh(key_type=key_type))
    assert key_size(verify(chain, ca.root_pem())) == expected


async def test_a_known_account_is_asked_for_and_kept(ca: Pebble) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    assert account.uri
    assert account.ca == ca.directory
    assert await acme.account(account) == account
    # with its key alone it is found again
    assert await acme.account(Account(account.ca, account.key_json)) == account


async def test_the_preferred_chain(ca: Pebble, answers: ChallengeAnswers) -> None:
    roots = [top_issuer(ca.root_pem(number)) for number in range(3)]
    assert len(set(roots)) == 3
    _, chain = await order(ca, answers, fresh(), preferred_chain=roots[1])
    verify(chain, ca.root_pem(1))
    _, chain = await order(ca, answers, fresh(), preferred_chain="Nobody's Root")
    verify(chain, ca.root_pem(0))


# --- renewal -------------------------------------------------------------------------------------


async def test_renewal_information(ca: Pebble, answers: ChallengeAnswers) -> None:
    _, chain = await order(ca, answers, fresh())
    acme = authority(ca)
    assert await acme.renewal(chain) is None
    start = datetime(2031, 5, 1, 10, tzinfo=UTC)
    ca.front.window = Window(start, start + timedelta(days=2), "4711", "https://ca.test/why")
    renewal = await acme.renewal(chain)
    assert renewal is not None
    assert (renewal.start, renewal.end) == (start, start + timedelta(days=2))
    assert (renewal.ask_again_s, renewal.explanation) == (4711.0, "https://ca.test/why")


async def test_renewal_information_without_sense_or_at_the_wrong_moment(
    ca: Pebble, answers: ChallengeAnswers
) -> None:
    _, chain = await order(ca, answers, fresh())
    acme = authority(ca)
    start = datetime(2031, 5, 1, 10, tzinfo=UTC)
    ca.front.window = Window(start, start - timedelta(days=2))
    assert await acme.renewal(chain) is None
    ca.front.add(Rule("renewal-info", status=429, headers={"Retry-After": "99"}))
    with pytest.raises(IssuingFailed) as failed:
        await acme.renewal(chain)
    assert (failed.value.failure, failed.value.retry_after_s) == (Failure.RATE_LIMITED, 99.0)
    asked = len(ca.front.seen)
    expired, _ = self_signed(["old.test"], datetime(2000, 1, 1, tzinfo=UTC))
    assert await acme.renewal(expired) is None
    assert len(ca.front.seen) == asked


async def test_a_renewal_says_what_it_replaces(ca: Pebble, answers: ChallengeAnswers) -> None:
    wanted = fresh()
    account, chain = await order(ca, answers, wanted)
    ca.front.window = Window(datetime(2031, 1, 1, tzinfo=UTC), datetime(2031, 1, 2, tzinfo=UTC))
    await authority(ca).renewal(chain)
    certificate_id = ca.front.requests("renewal-info")[0].path.rsplit("/", 1)[1]
    await authority(ca).issue(account, wanted, Ordering(wanted, answers).steps(), replaces=chain)
    assert ca.front.requests("new-order")[-1].payload["replaces"] == certificate_id


@pytest.mark.parametrize(
    ("kind", "status"),
    [("alreadyReplaced", 409), ("malformed", 400), ("malformed", 404), ("unauthorized", 403)],
)
async def test_an_order_that_may_not_replace_is_made_once_more_without(
    ca: Pebble, answers: ChallengeAnswers, kind: str, status: int
) -> None:
    wanted = fresh()
    account, chain = await order(ca, answers, wanted)
    ca.front.clear()
    ca.front.window = Window(datetime(2031, 1, 1, tzinfo=UTC), datetime(2031, 1, 2, tzinfo=UTC))
    problem = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": "already replaced"}
    rule = Rule("new-order", status=status, problem=problem, when=lambda seen: "replaces" in seen.payload)
    ca.front.add(rule)
    ordering = Ordering(wanted, answers)
    await authority(ca).issue(account, wanted, ordering.steps(), replaces=chain)
    assert ["replaces" in seen.payload for seen in ca.front.requests("new-order")] == [True, False]
    assert any("already replaced" in said for said in ordering.said)


async def test_a_rate_limit_is_not_about_replacing(ca: Pebble, answers: ChallengeAnswers) -> None:
    wanted = fresh()
    account, chain = await order(ca, answers, wanted)
    ca.front.clear()
    ca.front.window = Window(datetime(2031, 1, 1, tzinfo=UTC), datetime(2031, 1, 2, tzinfo=UTC))
    problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates"}
    ca.front.add(Rule("new-order", status=429, problem=problem, headers={"Retry-After": "86400"}))
    with pytest.raises(IssuingFailed) as failed:
        await authority(ca).issue(account, wanted, Ordering(wanted, answers).steps(), replaces=chain)
    assert failed.value.failure is Failure.RATE_LIMITED
    assert failed.value.retry_after_s == 86400
    assert "too many certificates" in failed.value.text
    assert len(ca.front.requests("new-order")) == 1


# --- profiles and binding ------------------------------------------------------------------------


async def test_profiles(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca)
    assert await acme.profiles() == {}
    ca.front.profiles = {"classic": "90 days", "short": "6 days"}
    assert await acme.profiles() == {"classic": "90 days", "short": "6 days"}
    await order(ca, answers, fresh(profile="short"))
    assert ca.front.requests("new-order")[-1].payload["profile"] == "short"
    with pytest.raises(IssuingFailed, match="'long': it has classic, short"):
        await order(ca, answers, fresh(profile="long"))
    ca.front.profiles = {}
    with pytest.raises(IssuingFailed, match="'short': it has none"):
        await order(ca, answers, fresh(profile="short"))
    assert len(ca.front.requests("new-order")) == 1


async def test_external_account_binding() -> None:
    require_pebble()
    with Pebble(PebbleOptions(external_accounts=True)) as ca:
        with ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
            await order(ca, answers, fresh(), eab_kid=EAB_KID, eab_hmac_key=EAB_KEY)
        refused = {
            "none": {},
            "unknown": {"eab_kid": "kid-9", "eab_hmac_key": EAB_KEY},
            "wrong": {"eab_kid": EAB_KID, "eab_hmac_key": EAB_KEY[::-1]},
            "no base64": {"eab_kid": EAB_KID, "eab_hmac_key": "!"},
        }
        for name, more in refused.items():
            with pytest.raises(IssuingFailed) as failed:
                await authority(ca, **more).account(None)
            assert failed.value.failure is Failure.BAD_ACCOUNT, name
            assert failed.value.is_permanent
            assert EAB_KEY[::-1] not in str(failed.value)


async def test_one_key_answers_for_the_accounts_at_two_authorities(ca: Pebble) -> None:
    """The second looks where nothing was published, and finds what follows from its token and that key."""
    require_pebble()
    first = await authority(ca).account(None)
    with Pebble(PebbleOptions(external_accounts=True)) as second:
        acme = authority(second, eab_kid=EAB_KID, eab_hmac_key=EAB_KEY)
        account = await acme.account(Account(second.directory, first.key_json))
        assert account.key_json == first.key_json
        assert account.uri.startswith(second.directory.rpartition("/")[0])
        wanted = fresh()
        part = ChallengePart(Config(), Sockets(Config()))
        part.challenges.names = frozenset(wanted.names)
        PortAnswers(part, is_stateless=True).know_account(first.key_json)
        server = ChallengeServer(part.challenges, part.store)
        await server.open(bind(Address("127.0.0.1", second.options.http_port)))
        try:
            nowhere = Ordering(wanted, SimpleNamespace(answers={}))  # type: ignore[arg-type]
            issued = await acme.issue(account, wanted, nowhere.steps())
        finally:
            await server.close()
        verify(issued.chain_pem, second.root_pem())
        assert part.challenges.counts[Source.STATELESS.value] >= 1

        rolled = await authority(ca).rollover(first)
        also = await acme.rollover(account, key_json=rolled.key_json)
        assert also.key_json == rolled.key_json
        assert await acme.account(also) == also


@pytest.mark.parametrize("email", ["admin@", "no address at all"])
async def test_a_contact_that_the_ca_refuses(ca: Pebble, email: str) -> None:
    with pytest.raises(IssuingFailed) as failed:
        await authority(ca, email=email).account(None)
    assert failed.value.failure is Failure.BAD_ACCOUNT


# --- refusals ------------------------------------------------------------------------------------


async def test_a_name_on_the_block_list(ca: Pebble, answers: ChallengeAnswers) -> None:
    wanted = Wanted(("blocked.example.test", "fine.example.test"))
    with pytest.raises(IssuingFailed) as failed:
        await order(ca, answers, wanted)
    assert failed.value.failure is Failure.REJECTED_NAME
    assert failed.value.is_permanent
    assert failed.value.names == ("blocked.example.test",)
    assert "policy" in failed.value.text


async def test_a_wrong_answer_names_the_name_and_the_reason(ca: Pebble, answers: ChallengeAnswers) -> None:
    wanted = fresh("good", "wrong")
    ordering = Ordering(wanted, answers)
    steps = ordering.steps()

    async def publish(name: str, token: str, key_authorisation: str) -> None:
        await steps.publish_http(name, token, "nonsense" if name.startswith("wrong") else key_authorisation)

    acme = authority(ca)
    with pytest.raises(IssuingFailed) as failed:
        await acme.issue(await acme.account(None), wanted, replace(steps, publish_http=publish))
    assert failed.value.failure is Failure.VALIDATION
    assert failed.value.names == (wanted.names[1],)
    assert "nonsense" in failed.value.text
    assert not answers.answers
    assert ca.front.count("finalize") == 0


async def test_nobody_answers_on_port_80(ca: Pebble) -> None:
    """This one's own CA validates at a port where nobody is."""
    require_pebble()
    with Pebble() as lonely:
        acme, wanted = authority(lonely), fresh()
        nowhere = ChallengeAnswers(lonely.options.ip, 0)
        with pytest.raises(IssuingFailed) as failed:
            await acme.issue(await acme.account(None), wanted, Ordering(wanted, nowhere).steps())
    assert failed.value.failure is Failure.VALIDATION
    assert "connection" in failed.value.text


async def test_an_answer_that_cannot_be_published(ca: Pebble, answers: ChallengeAnswers) -> None:
    wanted = fresh()

    async def publish(name: str, token: str, key_authorisation: str) -> None:
        raise BucketUnavailable("s3.example.test: no route to host")

    acme = authority(ca)
    steps = replace(Ordering(wanted, answers).steps(), publish_http=publish)
    with pytest.raises(IssuingFailed) as failed:
        await acme.issue(await acme.account(None), wanted, steps)
    assert failed.value.failure is Failure.UNPUBLISHED
    assert failed.value.text == "s3.example.test: no route to host"
    assert not ca.front.requests("challenge")


async def test_a_wildcard_is_never_tried_by_http(ca: Pebble, answers: ChallengeAnswers) -> None:
    wanted = Wanted(("*.wild.example.test",))
    seen: list[str] = []

    async def publish(name: str, value: str) -> None:
        seen.append(name)
        raise IssuingFailed(Failure.UNPUBLISHED, "no DNS provider is configured")

    async def withdraw(name: str, value: str) -> None:
        seen.append("withdrawn")

    acme = authority(ca)
    steps = replace(Ordering(wanted, answers).steps(), publish_dns=publish, withdraw_dns=withdraw)
    with pytest.raises(IssuingFailed, match="no DNS provider"):
        await acme.issue(await acme.account(None), wanted, steps)
    assert seen == ["_acme-challenge.wild.example.test", "withdrawn"]


async def test_a_lost_lease_ends_the_order_at_every_check(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca)
    account = await acme.account(None)
    for allowed in range(4):
        wanted = fresh()
        ordering = Ordering(wanted, answers)

        def lose(step: str, ordering: Ordering = ordering, allowed: int = allowed) -> None:
            if step == "check" and ordering.done.count("check") == allowed:
                raise IssuingFailed(Failure.FENCED, "another node has the lease")

        ordering.before = lose
        ca.front.clear()
        with pytest.raises(IssuingFailed) as failed:
            await acme.issue(account, wanted, ordering.steps())
        assert failed.value.failure is Failure.FENCED
        assert ca.front.count("new-order") == min(allowed, 1)
        assert ca.front.count("finalize") == 0
        # another node may go on with this order: what is published is its too
        assert len(answers.answers) == (1 if allowed == 2 else 0)
        answers.answers.clear()


# --- accounts and certificates -------------------------------------------------------------------


async def test_revocation(ca: Pebble, answers: ChallengeAnswers) -> None:
    account, chain = await order(ca, answers, fresh())
    assert ca.certificate_status(chain) == "Valid"
    await authority(ca).revoke(account, chain, 4)
    assert ca.certificate_status(chain) == "Revoked"
    await authority(ca).revoke(account, chain, 4)  # done is done


async def test_revocation_by_a_stranger_or_for_a_senseless_reason(
    ca: Pebble, answers: ChallengeAnswers
) -> None:
    account, chain = await order(ca, answers, fresh())
    stranger = await authority(ca).account(None)
    with pytest.raises(IssuingFailed) as failed:
        await authority(ca).revoke(stranger, chain, 0)
    assert failed.value.failure is Failure.REFUSED
    with pytest.raises(IssuingFailed) as failed:
        await authority(ca).revoke(account, chain, 77)
    assert failed.value.failure is Failure.REFUSED
    assert ca.certificate_status(chain) == "Valid"


async def test_a_new_key_for_the_account(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme = authority(ca)
    old = await acme.account(None)
    new = await acme.rollover(old)
    assert new.uri == old.uri
    assert new.key_json != old.key_json
    assert await acme.account(new) == new
    with pytest.raises(IssuingFailed) as failed:
        await acme.account(old)
    assert failed.value.failure is Failure.LOST_ACCOUNT
    wanted = fresh()
    await acme.issue(new, wanted, Ordering(wanted, answers).steps())


async def test_a_new_key_whose_confirmation_is_lost_is_found_out(ca: Pebble) -> None:
    acme = authority(ca)
    old = await acme.account(None)
    ca.front.add(Rule("key-change", lose_answer=True, times=1))
    new = await acme.rollover(old)
    assert await acme.account(new) == new
    ca.front.add(Rule("key-change", cut=True, times=1))  # it never arrived
    with pytest.raises(IssuingFailed) as failed:
        await acme.rollover(new)
    assert failed.value.failure is Failure.UNREACHABLE
    assert await acme.account(new) == new


async def test_a_closed_account(ca: Pebble, answers: ChallengeAnswers) -> None:
    acme, wanted = authority(ca), fresh()
    account = await acme.account(None)
    await acme.deactivate(account)
    with pytest.raises(IssuingFailed) as failed:
        await acme.issue(account, wanted, Ordering(wanted, answers).steps())
    assert failed.value.failure is Failure.BAD_ACCOUNT
    with pytest.raises(IssuingFailed) as failed:
        await acme.account(account)
    assert failed.value.failure is Failure.LOST_ACCOUNT
    another = await acme.account(replace(account, uri=""))
    assert another.key_json != account.key_json, "no CA takes that key again"
    await acme.issue(another, wanted, Ordering(wanted, answers).steps())


async def test_a_stored_key_that_cannot_be_read(ca: Pebble) -> None:
    for key_json in ("", "{}", "[]", '{"kty": "oct", "k": "AAAA"}', json.dumps({"kty": "EC", "crv": "P-9"})):
        with pytest.raises(IssuingFailed) as failed:
            await authority(ca).account(Account(ca.directory, key_json, "https://localhost/1"))
        assert failed.value.failure is Failure.BAD_ACCOUNT


# --- what pebble can be told -----------------------------------------------------------------------


async def test_half_of_all_nonces_are_rejected() -> None:
    require_pebble()
    with Pebble(PebbleOptions(reject_nonces_percent=50)) as ca:
        with ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
            for _ in range(3):
                _, chain = await order(ca, answers, fresh("a", "b"))
                verify(chain, ca.root_pem())
        rejected = [seen for seen in ca.front.seen if seen.status == 400]
        assert rejected, "the CA has not rejected nonces: the test proves nothing"


async def test_names_that_are_validated_already_are_not_asked_again() -> None:
    require_pebble()
    with Pebble(PebbleOptions(reuse_authorisations_percent=100)) as ca:
        acme, wanted = authority(ca), fresh()
        account = await acme.account(None)
        with ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
            await acme.issue(account, wanted, Ordering(wanted, answers).steps())
        again = Ordering(wanted)  # nobody would answer
        await acme.issue(account, wanted, again.steps())
        assert not [step for step in again.done if step.startswith("publish")]
        assert ca.front.count("finalize") == 2


async def test_the_stub_keeps_reused_authorisations_from_those_who_want_none() -> None:
    require_pebble()
    with Pebble(PebbleOptions(reuse_authorisations_percent=100)) as ca:
        acme, wanted = authority(ca), fresh()
        account = await acme.account(None)
        with ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
            await acme.issue(account, wanted, Ordering(wanted, answers).steps())
        ca.front.lets_reuse = False
        with pytest.raises(IssuingFailed, match="a new order, please"):  # as often as nonces are tried
            await acme.issue(account, wanted, Ordering(wanted).steps())
        assert ca.front.count("new-order") == 1


async def test_a_directory_file_that_trusts_somebody_else(ca: Pebble, tmp_path: Path) -> None:
    certificate, _ = self_signed(["localhost"], datetime.now(UTC))
    (tmp_path / "other.pem").write_bytes(certificate)
    with pytest.raises(IssuingFailed, match="not trusted") as failed:
        await authority(ca, ca_file=str(tmp_path / "other.pem")).account(None)
    assert failed.value.failure is Failure.UNREACHABLE
    with pytest.raises(IssuingFailed) as failed:
        await authority(ca, ca_file=str(tmp_path / "missing.pem")).account(None)
    assert failed.value.failure is Failure.INTERNAL
    assert "missing.pem" in failed.value.text
