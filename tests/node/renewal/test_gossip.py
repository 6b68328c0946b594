"""Certificates and challenges over gossip, among nodes in a fake cluster."""

from __future__ import annotations

import asyncio
import random

import pytest

from cluster.facts import MAX_VALUE_BYTES, Kind
from node.renewal.copies import COLLECTED_MAX, PARTS_MAX, Collected, split
from node.renewal.gossip import WANT, GossipCompany
from node.renewal.seen import Look, Seen, Sight
from tests.node.clustering.cluster import Member, Nodes
from tests.support.renewing import FakeAnswers
from tls.vault.layout import ca_id, certificate_key
from tls.vault.sealing import Kind as SealedKind
from tls.vault.sealing import Label


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


class Part:
    def __init__(self, member: Member) -> None:
        self.member = member
        self.answers = FakeAnswers()
        self.published: list[tuple[str, int]] = []
        self.handed: list[tuple[str, bytes]] = []
        self.wanted: list[str] = []
        self.turns = 0
        self.company = GossipCompany(
            member.clustering,
            self.answers,
            published=lambda wanted_id, fence: self.published.append((wanted_id, fence)),
            handed=lambda key, sealed: self.handed.append((key, sealed)),
            wanted=self.wanted.append,
            turned=self._turn,
        )

    def _turn(self) -> None:
        self.turns += 1


def test_a_challenge_is_answered_by_all_until_it_is_withdrawn(nodes: Nodes) -> None:
    first, second = Part(nodes.add("a")), Part(nodes.add("b"))
    first.company.tell_challenge("token", "token.thumb")
    assert second.answers.known == {"token": "token.thumb"}
    assert second.answers.expected == 1
    first.company.withdraw_challenge("token")
    assert second.answers.known == {}


def test_a_new_generation_is_heard_by_the_others(nodes: Nodes) -> None:
    first, second = Part(nodes.add("a")), Part(nodes.add("b"))
    first.company.announce("0123456789abcdef", 1_800_000_000)
    assert second.published == [("0123456789abcdef", 1_800_000_000)]
    assert first.published == []


def object_key(fence: int = 7) -> str:
    label = Label(SealedKind.CERTIFICATE, ca_id("https://ca.example/dir"), "0123456789abcdef", fence)
    return certificate_key(label, b"sealed")


@pytest.mark.parametrize(
    "size", [1, MAX_VALUE_BYTES, MAX_VALUE_BYTES + 1, 12_345, PARTS_MAX * MAX_VALUE_BYTES]
)
def test_a_certificate_that_is_not_in_the_bucket_is_handed_to_the_others_in_parts(
    nodes: Nodes, size: int
) -> None:
    first, second = Part(nodes.add("a")), Part(nodes.add("b"))
    sealed = random.Random(size).randbytes(size)
    first.company.hand_on(object_key(), sealed)
    assert second.handed == [(object_key(), sealed)]
    late = Part(nodes.add("c"))
    asyncio.run(late.company.catch_up())
    assert late.handed == second.handed
    first.company.withdraw_copies("0123456789abcdef", 6)
    assert asyncio.run(first.member.gossip.entries(Kind.CERTIFICATE))
    first.company.withdraw_copies("fedcba9876543210", 7)
    assert asyncio.run(first.member.gossip.entries(Kind.CERTIFICATE))
    first.company.withdraw_copies("0123456789abcdef", 7)
    assert not asyncio.run(first.member.gossip.entries(Kind.CERTIFICATE))
    assert second.company.unreadable == 0


def test_what_is_too_large_for_gossip_stays_and_is_told(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Part(nodes.add("a")), Part(nodes.add("b"))
    first.company.hand_on(object_key(), bytes(PARTS_MAX * MAX_VALUE_BYTES + 1))
    assert second.handed == []
    assert "too large for gossip" in caplog.text


def test_parts_come_in_any_order_and_never_fill_the_memory() -> None:
    collected = Collected()
    entries = list(split(object_key(), bytes(range(250)) * 20).items())
    random.Random(1).shuffle(entries)
    for fence in range(100):  # of which something is missing
        key, value = next(iter(split(object_key(fence + 100), bytes(2000)).items()))
        assert collected.add(key, value) is None
    assert len(collected._parts) == COLLECTED_MAX
    *most, last = entries
    assert {collected.add(*each) for each in [*most, *most]} == {None}
    assert collected.add(*last) == (object_key(), bytes(range(250)) * 20)


@pytest.mark.parametrize(
    "key", [b"copy/", b"copy/x:2:2", b"copy/x:0:0", b"copy/x:0:99", b"copy/\xff:0:1", b"copy/x:a:1"]
)
def test_a_key_that_names_no_part_is_counted(nodes: Nodes, key: bytes) -> None:
    first, second = Part(nodes.add("a")), Part(nodes.add("b"))
    first.member.gossip.put(Kind.CERTIFICATE, {key: b"x"}, 60.0)
    assert second.company.unreadable == 1
    assert second.handed == []


def test_a_name_that_a_client_waits_for_is_heard_by_the_others(nodes: Nodes) -> None:
    first, second = Part(nodes.add("a")), Part(nodes.add("b"))
    first.company.ask_for("mail.example.com")
    assert second.wanted == ["mail.example.com"]


def test_who_listens_late_catches_up(nodes: Nodes) -> None:
    first = Part(nodes.add("a"))
    member = nodes.add("b")
    first.company.tell_challenge("token", "token.thumb")
    first.company.announce("0123456789abcdef", 7)
    late = Part(member)
    assert late.answers.known == {}
    asyncio.run(late.company.catch_up())
    assert late.answers.known == {"token": "token.thumb"}
    assert late.published == [("0123456789abcdef", 7)]


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x92\x01\x02", b"\x91\xa1x"])
def test_what_cannot_be_read_is_counted(nodes: Nodes, value: bytes) -> None:
    first, second = Part(nodes.add("a")), Part(nodes.add("b"))
    first.member.gossip.put(Kind.CERTIFICATE, {b"0123456789abcdef": value}, 60.0)
    first.member.gossip.put(Kind.CERTIFICATE, {WANT + b"\xff": b""}, 60.0)
    first.member.gossip.put(Kind.CHALLENGE, {b"\xff": b"x"}, 60.0)
    assert second.company.unreadable == 3
    assert second.published == second.wanted == []
    assert second.answers.known == {}


def test_ranks_begin_with_the_leader(nodes: Nodes) -> None:
    parts = {name: Part(nodes.add(name)) for name in ("c", "a", "b")}
    for part in parts.values():
        asyncio.run(part.member.clustering.begin((bytes(32),)))
    assert [parts[name].company.rank() for name in "abc"] == [1, 2, 3]  # nobody leads yet
    nodes.clocks.pass_by(40)
    for part in parts.values():
        part.member.clustering.leadership.review()
    assert [parts[name].company.rank() for name in "abc"] == [0, 1, 2]
    assert parts["a"].turns == 1


def test_a_majority_is_of_all_that_are_known(nodes: Nodes) -> None:
    parts = [Part(nodes.add(name)) for name in "abc"]
    for part in parts:
        asyncio.run(part.member.clustering.begin((bytes(32),)))
    assert all(part.company.has_majority() for part in parts)
    nodes.cluster.kill("b")
    assert parts[0].company.has_majority()
    nodes.cluster.kill("c")
    assert not parts[0].company.has_majority()


def test_what_nodes_see_of_each_other_is_known_to_all(nodes: Nodes) -> None:
    first, second = nodes.add("a"), nodes.add("b")
    here, there = Seen(first.clustering), Seen(second.clustering)
    leaf = "ab" * 32
    here._tell("b", Look(1.0, (Sight(993, "mail.example.com", leaf, 1_800_000_000.0),)))
    there._tell("b", Look(2.0, (Sight(993, "mail.example.com", trouble="refused"),)))
    (row,) = there.rows({"mail.example.com": [leaf]})  # the word of another comes before its own
    assert (row["node"], row["seen_by"], row["agrees"]) == ("b", "a", True)
    assert there.disagreeing({"mail.example.com": ["cd" * 32]}) == 1
    assert there.disagreeing({}) == 1


def test_a_node_that_shows_an_old_certificate_is_found_whoever_looked_before(nodes: Nodes) -> None:
    name, new, old = "mail.example.com", "ab" * 32, "cd" * 32
    members = [nodes.add(each) for each in "abc"]
    first, second, third = (Seen(each.clustering) for each in members)
    first._tell("c", Look(10.0, (Sight(993, name, new),)))
    second._tell("c", Look(20.0, (Sight(993, name, old),)))  # it has gone back since
    third._tell("c", Look(30.0, (Sight(993, name, new),)))  # and does not know it
    for seen in (first, second, third):
        (row,) = seen.rows({name: [new]})
        assert (row["node"], row["seen_by"], row["agrees"]) == ("c", "b", False)
        assert seen.disagreeing({name: [new]}) == 1
    first._tell("c", Look(40.0, (Sight(993, name, new),)))
    assert [seen.disagreeing({name: [new]}) for seen in (first, second, third)] == [0, 0, 0]


def test_of_a_node_that_is_gone_nothing_is_shown(nodes: Nodes) -> None:
    """What it showed last would disagree with every later certificate for a day."""
    members = [nodes.add(each) for each in "abc"]
    first, second, third = (Seen(each.clustering) for each in members)
    first._tell("c", Look(10.0, (Sight(993, "mail.example.com", "ab" * 32),)))
    third._tell("b", Look(10.0, (Sight(993, "mail.example.com", "ab" * 32),)))
    assert second.disagreeing({}) == 2
    nodes.cluster.kill("c")
    assert second.rows({}) == []
    assert second.disagreeing({}) == 0


def test_of_too_much_to_tell_the_first_is_told(nodes: Nodes) -> None:
    first, second = nodes.add("a"), nodes.add("b")
    here, there = Seen(first.clustering), Seen(second.clustering)
    here._tell("b", Look(1.0, tuple(Sight(number, f"{'n' * 200}.example.com") for number in range(8))))
    assert [row["port"] for row in there.rows({})] == ["0", "1", "2", "3"]


def test_what_another_version_says_of_ports_is_passed_over(nodes: Nodes) -> None:
    first, second = nodes.add("a"), nodes.add("b")
    there = Seen(second.clustering)
    for value in (b"\xc1", b"\x01", b"\x91\x01", b"\x92\x01\x91\x01"):
        first.gossip.put(Kind.NODE, {b"certs/b": value}, 60.0)
    assert there.rows({}) == []
