"""The cluster as its nodes say that it is."""

from __future__ import annotations

from .lab import NODES, Lab

SOON_S = 60.0
LEADING_S = 60.0  # detection, and ten seconds in which who is there stays so


def states(lab: Lab, node: str) -> dict[str, str]:
    return {each["name"]: each["state"] for each in lab.status(node)["cluster"]["members"]}


def leaders(lab: Lab, nodes: tuple[str, ...] = NODES) -> set[str]:
    return {lab.status(node)["cluster"]["leader"] for node in nodes}


def blocked(lab: Lab, node: str) -> list[str]:
    return sorted(each["subject"] for each in lab.ask(node, "blocks.list")["blocks"])


def all_alive(lab: Lab) -> bool:
    return all(states(lab, node) == dict.fromkeys(NODES, "alive") for node in NODES)
