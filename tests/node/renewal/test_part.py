"""Events that reach certificate work from the rest of a node, and reloads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.config import Config
from node.config.acme import LetsEncrypt
from node.config.server import Server
from node.config.services import Tls
from node.renewal.part import RenewalPart
from node.renewal.seen import Door, Seen
from node.units import parse_address
from tests.node.clustering.cluster import Nodes
from tests.support.renewing import MAIL, World


def issuing(*domains: str, **more: object) -> Config:
    acme = LetsEncrypt(email="a@example.com", domains=domains, **more)  # type: ignore[arg-type]
    return replace(Config(), tls=Tls(enabled=True, provider="letsencrypt", letsencrypt=acme))


class Fixture:
    def __init__(self) -> None:
        self.world = World()
        self.part = RenewalPart(issuing(*MAIL.names))
        self.part.rounds, self.part.tools = self.world.first.rounds, self.world.first.tools

    @property
    def is_woken(self) -> bool:
        rounds = self.part.rounds
        assert rounds is not None
        woken, _ = rounds._woken.is_set(), rounds._woken.clear()
        return woken


@pytest.fixture
def node() -> Fixture:
    return Fixture()


async def test_a_client_that_waits_is_told_to_all_and_looked_at_here(node: Fixture) -> None:
    node.part.client_waits("Mail.Example.com.")
    assert node.world.first.company.asked == ["mail.example.com"]
    assert node.is_woken


async def test_who_waits_for_what_is_there_wakes_nobody(node: Fixture) -> None:
    await node.world.round()
    assert not node.is_woken
    node.part.asked_for("mail.example.com")
    node.part.asked_for("other.example.com")
    assert not node.is_woken


async def test_a_node_with_files_has_nothing_to_do() -> None:
    part = RenewalPart(Config())
    part.client_waits("mail.example.com")
    part.wake()
    part.reload(Config())
    assert part.shown() == []


async def test_a_reload_with_other_names_orders_and_forgets(node: Fixture) -> None:
    await node.world.round()
    node.part.reload(issuing("new.example.com"))
    assert node.part.rounds is not None
    (wanted,) = node.part.rounds.plan.wanted
    assert wanted.names == ("new.example.com",)
    assert node.world.first.shown == {}
    assert node.part.tools is not None
    assert node.part.tools.shelf.copies == {}
    assert node.is_woken


async def test_a_reload_with_the_same_changes_nothing(node: Fixture) -> None:
    node.part.reload(issuing(*MAIL.names))
    assert node.is_woken, "the plan of the fixture is not quite that of the configuration"
    node.part.reload(issuing(*MAIL.names))
    assert not node.is_woken


def test_what_is_looked_at_on_other_nodes() -> None:
    part = RenewalPart(
        replace(
            issuing("*.example.com", "mail.example.org"),
            servers=(
                Server(type="imap", name="a", addr=parse_address(":993"), tls=True),
                Server(type="imap", name="b", addr=parse_address(":143"), tls=True, tls_use_starttls=True),
                Server(type="pop3", name="c", addr=parse_address(":110")),
                Server(type="imap", name="d", addr=parse_address(":1993"), tls=True, tls_cert_file="/own"),
                Server(type="metrics", name="e", addr=parse_address(":9090")),
                Server(type="imap", name="f", addr=parse_address(":2993"), tls=True, start=False),
            ),
        )
    )
    part.seen = Seen(Nodes().add("a").clustering)
    part._choose_sights()
    assert part.seen.doors == [Door(993), Door(143, "imap"), Door(110, "pop3")]
    assert part.seen.names == ["mail.example.org"]


async def test_what_lacks_a_name_is_looked_at_by_another(node: Fixture) -> None:
    """Else the nodes would seem to disagree for ever."""
    await node.world.round()
    shelf = node.world.first.tools.shelf
    whole = shelf.copies[MAIL.id]
    assert node.part._fingerprints() == {"imap.example.com": [whole.bundle.fingerprint]}
    some = replace(whole, generation=replace(whole.generation, names=("mail.example.com",)))
    shelf.copies[MAIL.id] = some
    assert node.part._fingerprints() == {"mail.example.com": [whole.bundle.fingerprint]}
