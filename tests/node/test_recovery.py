"""The namespace of deleted mail, as the configuration wants it, and who cleans."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.clustering.part import ClusterPart
from node.config import Config
from node.config.kinds import MAILBOX
from node.recovery import recovered_mail
from node.units import UnitError


@pytest.mark.parametrize("name", ["Recovered", "Gelöscht", "", "Deleted mail"])
def test_names_that_may_be(name: str) -> None:
    assert MAILBOX.parse(name) == name


@pytest.mark.parametrize("name", ["a/b", "inbox", "a*", "50%", "x\n", "x" * 256, 5])
def test_names_that_may_not_be(name: object) -> None:
    with pytest.raises(UnitError):
        MAILBOX.parse(name)


@pytest.mark.parametrize("name", ["Recovered", "", "Papierkorb"])
def test_the_configuration_decides(name: str) -> None:
    config = Config()
    config = replace(config, cleanup=replace(config.cleanup, recovered_namespace=name))
    found = recovered_mail(cast("Any", SimpleNamespace(config=config, database=None)))
    assert (found.root if found is not None else "") == name


def test_a_node_without_a_cluster_cleans() -> None:
    assert ClusterPart(Config()).leads


def test_in_a_cluster_the_leader_cleans() -> None:
    config = Config()
    part = ClusterPart(replace(config, cluster=replace(config.cluster, enabled=True)))
    assert not part.leads  # not yet open
    for is_ours in (True, False):
        part.clustering = cast("Any", SimpleNamespace(leadership=SimpleNamespace(is_ours=is_ours)))
        assert part.leads is is_ours
