"""Names to certificates: which one a handshake is given, and what may replace what."""

from __future__ import annotations

import logging
import ssl
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.generations import NOW, generation, rsa_key
from tls import serving
from tls.ports import Generation
from tls.serving import Policy, Served, build_table, read_generation
from tls.sources import outer_context
from tls.unserved import Awaited, Unserved

from .test_contexts import served_name

DAY = timedelta(days=1)
CONFIGURED = Policy(
    frozenset({"mail.example.com", "imap.example.com", "*.wild.example"}), default="mail.example.com"
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> object:
        return self.now


def served(*generations: Generation, policy: Policy = CONFIGURED) -> Served:
    made = Served(policy, now=lambda: NOW)
    assert made.offer(generations) == {}
    return made


def leaf(of: Generation) -> bytes:
    return ssl.PEM_cert_to_DER_cert(of.chain_pem.decode())


def shows(choice: object) -> bytes:
    assert isinstance(choice, ssl.SSLContext), choice
    return served_name(choice)


MAIL = generation("mail.example.com", "also.example.com")
IMAP = generation("imap.example.com")
WILD = generation("*.wild.example")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("mail.example.com", MAIL),
        ("also.example.com", MAIL),  # not configured, but in the certificate
        ("imap.example.com", IMAP),
        ("IMAP.Example.COM", IMAP),
        ("imap.example.com.", IMAP),
        ("a.wild.example", WILD),
        ("a.b.wild.example", MAIL),  # a wildcard is one label
        ("wild.example", MAIL),
        (".wild.example", MAIL),
        ("", MAIL),
        ("other.example", MAIL),
        ("127.0.0.1", MAIL),
    ],
)
def test_names(asked: str, expected: Generation) -> None:
    assert shows(served(IMAP, MAIL, WILD).choose(asked)) == leaf(expected)


def test_unknown_names_are_refused_where_that_is_configured() -> None:
    strict = served(IMAP, MAIL, policy=replace(CONFIGURED, refuses_unknown=True))
    assert strict.choose("other.example") is Unserved.UNKNOWN_NAME
    assert shows(strict.choose("")) == leaf(MAIL)


def test_a_listener_may_have_a_default_of_its_own() -> None:
    table = served(IMAP, MAIL)
    assert shows(table.view("IMAP.example.com").choose("")) == leaf(IMAP)
    assert shows(table.view().choose("")) == leaf(MAIL)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("imap.example.com", Awaited("imap.example.com")),
        ("", Awaited("mail.example.com")),
        ("x.wild.example", Awaited("*.wild.example")),  # one thing to wait for, whatever is made up
        ("other.example", Unserved.NONE),  # a strange name asks for nothing
    ],
)
def test_what_is_not_there(asked: str, expected: object) -> None:
    empty = Served(CONFIGURED, now=lambda: NOW)
    assert not empty.view().can_serve
    assert empty.choose(asked) == expected


def test_both_types_of_key_are_shown_side_by_side() -> None:
    ecdsa = generation("mail.example.com", wanted_id="a")
    of_rsa = generation("mail.example.com", wanted_id="b", key=rsa_key())
    context = served(ecdsa, of_rsa).choose("mail.example.com")
    assert isinstance(context, ssl.SSLContext)
    for ciphers, expected in (("ECDHE-RSA-AES128-GCM-SHA256", of_rsa), ("ECDHE+ECDSA", ecdsa)):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(ciphers)
        assert served_name(context, client=client) == leaf(expected)


def test_a_swap_keeps_contexts_of_what_stays_and_forgets_the_others() -> None:
    table = served(IMAP, MAIL)
    before = table.choose("imap.example.com")
    old = table.choose("mail.example.com")
    renewed = generation("mail.example.com", fence=2)
    assert table.offer([renewed]) == {}
    assert table.choose("imap.example.com") is before
    assert shows(table.choose("mail.example.com")) == leaf(renewed)
    assert shows(old) == leaf(MAIL)  # who has it keeps it
    assert len(table._contexts) == 2


def test_tables_are_not_changed_by_swaps() -> None:
    table = served(MAIL)
    before = table.table
    table.offer([generation("mail.example.com", fence=2)])
    assert table.table is not before
    assert before.find("mail.example.com") is not table.table.find("mail.example.com")


def mismatched(like: Generation) -> Generation:
    return replace(like, fence=like.fence + 1, key_pem=IMAP.key_pem)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (mismatched(MAIL), "the key does not belong to the certificate"),
        (replace(MAIL, fence=2, chain_pem=b""), "no PEM certificate"),
        (replace(MAIL, fence=2, key_pem=b"junk"), "the key cannot be read"),
        (generation("mail.example.com", fence=2, ends=NOW - DAY / 2), "expired on"),
        (generation("mail.example.com", fence=2, begins=NOW + DAY), "not valid before"),
        (generation("mail.example.com", fence=0), "it is older than number 1"),
        (generation("mail.example.com", fence=2, key=rsa.generate_private_key(65537, 1024)), "small|neither"),
    ],
    ids=["mismatched", "no chain", "no key", "expired", "early", "older", "weak"],
)
def test_a_bad_one_never_replaces_a_working_one(
    bad: Generation, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = served(MAIL)
    context = table.choose("mail.example.com")
    for _ in range(3):
        refused = table.offer([replace(bad, wanted_id=MAIL.wanted_id)])
        assert list(refused) == [MAIL.wanted_id]
    assert table.choose("mail.example.com") is context
    assert caplog.text.count("is not taken, number 1 stays") == 1
    [complaint] = refused.values()
    assert any(each in complaint.lower() for each in why.lower().split("|"))
    assert "PRIVATE" not in caplog.text


def test_an_early_one_is_taken_when_its_time_has_come() -> None:
    clock = [NOW]
    table = Served(CONFIGURED, now=lambda: clock[0])
    early = generation("mail.example.com", fence=2, begins=NOW + DAY)
    assert table.offer([MAIL]) == {}
    assert "not valid before" in table.offer([replace(early, wanted_id=MAIL.wanted_id)])[MAIL.wanted_id]
    assert table.refresh() is False
    assert len(table.generations()) == 2
    clock[0] += DAY
    assert table.refresh() is True
    assert shows(table.choose("mail.example.com")) == leaf(early)
    assert len(table.generations()) == 1


@pytest.mark.parametrize("serve_expired", [True, False])
def test_expired_at_boot(serve_expired: bool, caplog: pytest.LogCaptureFixture) -> None:
    expired = generation("mail.example.com", ends=NOW - DAY / 2)
    table = served(expired, policy=replace(CONFIGURED, serve_expired=serve_expired))
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    choice = table.choose("mail.example.com")
    assert (shows(choice) == leaf(expired)) if serve_expired else (choice is Unserved.EXPIRED)
    renewed = generation("mail.example.com", fence=2)
    assert table.offer([renewed]) == {}
    assert shows(table.choose("mail.example.com")) == leaf(renewed)


def test_one_that_expires_while_it_is_served() -> None:
    clock = [NOW]
    table = Served(replace(CONFIGURED, serve_expired=False), now=lambda: clock[0])
    table.offer([MAIL])
    assert shows(table.choose("")) == leaf(MAIL)
    clock[0] += 90 * DAY
    assert table.choose("") is Unserved.EXPIRED


def test_of_two_types_of_key_one_that_expired_is_left_out() -> None:
    """Clients that take both are shown the ECDSA one otherwise, however good the other is."""
    clock = [NOW]
    late = generation("mail.example.com", wanted_id="rsa", key=rsa_key(), ends=NOW + 200 * DAY)
    for policy in (CONFIGURED, replace(CONFIGURED, serve_expired=False)):
        table = Served(policy, now=lambda: clock[0])
        clock[0] = NOW
        table.offer([MAIL, late])
        assert shows(table.choose("mail.example.com")) == leaf(MAIL)
        clock[0] += 90 * DAY
        assert shows(table.choose("mail.example.com")) == leaf(late)
        clock[0] += 200 * DAY
        choice = table.choose("mail.example.com")
        assert choice is Unserved.EXPIRED or (policy.serve_expired and shows(choice) == leaf(MAIL))


def test_who_names_nothing_is_shown_another_while_that_of_the_default_is_missing() -> None:
    table = served(IMAP)
    assert shows(table.choose("")) == shows(table.choose("other.example")) == leaf(IMAP)
    assert table.choose("mail.example.com") == Awaited("mail.example.com")


def test_what_openssl_does_not_take_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    weak = generation("mail.example.com", key=rsa.generate_private_key(65537, 1024))
    table = Served(CONFIGURED, now=lambda: NOW)
    table.offer([weak, IMAP])
    for _ in range(2):
        assert not isinstance(table.choose("mail.example.com"), ssl.SSLContext)
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1
    assert shows(table.choose("imap.example.com")) == leaf(IMAP)


def test_a_weak_one_beside_a_good_one_is_left_out() -> None:
    weak = generation("mail.example.com", wanted_id="w", key=rsa.generate_private_key(65537, 1024))
    table = Served(CONFIGURED, now=lambda: NOW)
    table.offer([MAIL, weak])
    assert shows(table.choose("mail.example.com")) == leaf(MAIL)


def test_what_is_not_wanted_any_more_is_forgotten() -> None:
    table = served(MAIL, IMAP)
    table.retain([IMAP.wanted_id])
    assert table.choose("mail.example.com") == Awaited("mail.example.com")
    assert [each.generation for each in table.held()] == [IMAP]


def test_contexts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_CONTEXTS", 2)
    table = served(MAIL, IMAP, WILD)
    for _ in range(2):
        for name, expected in (
            ("mail.example.com", MAIL),
            ("imap.example.com", IMAP),
            ("a.wild.example", WILD),
        ):
            assert shows(table.choose(name)) == leaf(expected)
            assert len(table._contexts) <= 2


def test_keys_are_in_no_repr() -> None:
    table = served(MAIL)
    assert b"PRIVATE" in MAIL.key_pem
    shown = table.table.find("mail.example.com")
    for each in (table.table, shown, table.held(), table.generations()):
        assert "PRIVATE" not in repr(each)


def test_ten_thousand_names_are_found_fast() -> None:
    template = read_generation(generation("x.example", key=ec.generate_private_key(ec.SECP256R1())))
    held = [
        replace(template, bundle=replace(template.bundle, names=(f"m{n}.example.com", f"*.w{n}.example")))
        for n in range(10_000)
    ]

    def fastest(count: int) -> float:
        """Of some rounds: CPU seconds to find each of some names among those of ``count`` certificates."""
        table = Served(CONFIGURED, now=lambda: NOW)
        table.table = build_table(held[:count], NOW)
        assert len(table.table.exact) == len(table.table.wildcard) == count
        asked = [name for n in range(10) for name in (f"M{n}.example.com.", f"a.w{n}.example")]
        rounds = []
        for _ in range(50):
            began = time.thread_time()
            for name in asked:
                assert isinstance(table.choose(name), ssl.SSLContext)
            rounds.append(time.thread_time() - began)
        return min(rounds)

    assert fastest(10_000) < 20 * fastest(10) + 0.001  # where that clock is coarse


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_servers_with_one_context_choose_by_callback(version: ssl.TLSVersion) -> None:
    table = served(MAIL, IMAP, policy=replace(CONFIGURED, refuses_unknown=True))
    outer = outer_context(table.view())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode, client.maximum_version = False, ssl.CERT_NONE, version
    for name, expected in (("imap.example.com", IMAP), (None, MAIL)):
        assert served_name(outer, name, client=client) == leaf(expected)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        served_name(outer, "other.example", client=client)
