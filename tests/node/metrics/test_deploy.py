"""Alerts, dashboard and documentation name metrics that exist, and nothing is left out."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from node.metrics.catalogue import FAMILIES
from node.metrics.family import Family, Kind
from node.metrics.table import markdown
from tests.support.nodeprocess import ROOT
from tls import clienthello
from tls.unserved import Unserved

ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text()
ALERT_TESTS = (ROOT / "deploy/prometheus/alerts.test.yml").read_text()
DASHBOARD = json.loads((ROOT / "deploy/grafana/sora.json").read_text())
GUIDE = (ROOT / "docs/monitoring.md").read_text()

SERIES: dict[str, Family] = {
    name: family
    for family in FAMILIES
    for name in (
        [f"{family.name}_{part}" for part in ("bucket", "count", "sum")]
        if family.kind is Kind.HISTOGRAM
        else [family.name]
    )
}
RULES = {
    match[1]: match[2]
    for match in re.finditer(r"- alert: (\w+)\n(.*?)(?=\n      - alert:|\n  - name:|\Z)", ALERTS, re.DOTALL)
}
OUTSIDE = {"job", "instance", "le"}  # what Prometheus adds


def expressions() -> list[tuple[str, str]]:
    found = []
    for name, rule in RULES.items():
        expression = re.search(r"expr: (.*?)\n        (?:for|labels):", rule, re.DOTALL)
        assert expression is not None, name
        found.append((name, expression[1]))
    for panel in DASHBOARD["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", ())]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_expressions_use_metrics_and_labels_that_exist(where: str, expression: str) -> None:
    named = re.findall(r"\b(sora_\w+)", expression)
    assert named or "up{" in expression, where
    assert set(named) <= set(SERIES), where
    allowed = OUTSIDE.union(*(SERIES[name].all_labels for name in named))
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\\?\"", expression))
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        labels |= {label.strip() for label in group.split(",")}
    assert labels <= allowed, where


def test_every_alert_says_what_it_means_and_is_tested() -> None:
    assert len(RULES) > 20
    for name, rule in RULES.items():
        for needed in ("summary: ", "impact: ", "action: "):
            assert len(rule.partition(needed)[2].splitlines()[0]) > 10, (name, needed)
        assert re.search(r"severity: (page|ticket)\n", rule), name
        assert f"  - name: {name}\n" in ALERT_TESTS, f"{name} has no case in alerts.test.yml"
        assert f"`{name}`" in GUIDE, f"{name} is not in docs/monitoring.md"


def test_panels_do_not_overlap() -> None:
    places: list[dict[str, Any]] = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    for a, b in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (a, b)
        assert a["x"] + a["w"] <= 24


def test_every_reason_to_refuse_a_connection_is_documented() -> None:
    """They are the values of a label, so this also says that there are no others."""
    door = "".join((ROOT / "node" / name).read_text() for name in ("frontdoor.py", "listeners.py"))
    said = set(re.findall(r'Rejected\("(\w+)"', door)) | {"handshake"}
    others = set(re.findall(r"Rejected\(([a-z.]+)[,)]", door))
    assert others == {"choice.value", "found.value", "cause"}  # Unserved, Refused, "handshake" or "left"
    said |= {each.value for each in (*Unserved, *clienthello.Refused)}
    documented = set(re.findall(r"\w+", SERIES["sora_connections_refused_total"].doc))
    assert said <= documented, said - documented


def test_guide_has_the_catalogue() -> None:
    table = GUIDE.partition("<!-- metrics -->\n")[2].partition("\n<!-- end of metrics -->")[0]
    assert table == markdown(), "python -m node.metrics.table prints it"
