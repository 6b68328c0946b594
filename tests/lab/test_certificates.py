"""Certificates on three nodes, from an empty bucket, of a real authority (pebble): told in order.

The name is in the DNS at node-3 only, and the lowest name leads: so challenges are answered by a node that
did not ask for them.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

import pytest

from tests.support.pebble import Pebble, PebbleOptions, Seen, require_pebble

from . import namespaces
from .lab import ADDRESSES, NODES, Lab, until
from .mail import can_log_in, imap

DOMAIN = "mail.lab.example"
LIFETIME_S = 60
SPLIT_LIFETIME_S = 120
SOON_S = 60.0
LEADING_S = 60.0
TAKEN_OVER_S = 240.0  # a lease of two minutes, and whose turn it is

SECTION = """
[tls]
enabled = true
provider = "letsencrypt"

[tls.letsencrypt]
email = "ops@lab.example"
domains = ["{domain}"]
directory = "{directory}"
ca_file = "{ca_file}"
fallback_dir = "{mirror}"
renew_before = "720h"

[tls.letsencrypt.s3]
bucket = "lab-mail"
endpoint = "{s3}:9000"
disable_tls = true
server_side_encryption = ""

[cluster]
"""


@contextmanager
def authority(validity_s: int) -> Iterator[tuple[Lab, Pebble]]:
    """Three nodes that run, and pebble beside the object store. Machines have no resolver, so pebble's own
    names are all there is."""
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    require_pebble()
    found: dict[str, Any] = {}

    def edit(name: str, text: str) -> str:
        ca: Pebble = found["ca"]
        head, _, rest = text.partition("[tls]\n")
        _, _, tail = rest.partition("[cluster]\n")
        section = SECTION.format(
            domain=DOMAIN,
            directory=ca.directory,
            ca_file=ca.ca_file,
            mirror=found["lab"].directory / name / "certs",
            s3=ADDRESSES["s3"],
        )
        text = head + section.lstrip() + tail
        return text.replace("workers = 1", "workers = 2") if name == "node-2" else text

    lab = Lab(edit=edit)
    prepare = lab.prepare
    with ExitStack() as stack:

        def prepared(name: str, *more: Any) -> None:
            if "ca" not in found:
                options = PebbleOptions(
                    ip=ADDRESSES["s3"], http_port=80, names_at=ADDRESSES["node-3"], validity_s=validity_s
                )
                with lab.at("s3"):
                    found["ca"] = stack.enter_context(Pebble(options))
            prepare(name, *more)

        found["lab"] = lab
        lab.prepare = prepared  # type: ignore[method-assign]  # the network is there only then
        with lab:
            yield lab, found["ca"]


def leaf(lab: Lab, node: str, trust: str = "") -> str:
    """Hash of what the node shows for the name; with ``trust`` (PEM) it has to verify. Raises OSError."""
    context = ssl.create_default_context(cadata=trust or None)
    if not trust:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        lab.at("client"),
        socket.create_connection((ADDRESSES[node], 993), 5) as plain,
        context.wrap_socket(plain, server_hostname=DOMAIN) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return hashlib.sha256(shown).hexdigest()


def leaves(lab: Lab, nodes: tuple[str, ...] = NODES) -> set[str]:
    found = set()
    for node in nodes:
        try:
            found.add(leaf(lab, node))
        except OSError:
            found.add("")
    return found


def all_show_one(lab: Lab, nodes: tuple[str, ...] = NODES, other_than: str = "") -> bool:
    shown = leaves(lab, nodes)
    return len(shown) == 1 and not shown & {"", other_than}


def root(lab: Lab, ca: Pebble) -> str:
    with lab.at("s3"):
        return ca.root_pem().decode()


def start_all(lab: Lab) -> None:
    """First the one that the DNS names: an order that begins before it is there fails, and rightly so."""
    for node in reversed(NODES):
        lab.start(node)


def orderer(lab: Lab) -> str:
    """Who asked the authority for a certificate."""
    (node,) = [node for node in NODES if ": ordering at " in lab.log(node)]
    return node


@contextmanager
def held_at(ca: Pebble, kind: str) -> Iterator[threading.Event]:
    """The CA's next answer to such a request is held back until the end; the event says that it came."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(seen: Seen) -> None:
        if seen.kind == kind and not reached.is_set():
            reached.set()
            go_on.wait(TAKEN_OVER_S)

    ca.front.on_request = hold
    try:
        yield reached
    finally:
        ca.front.on_request = None
        go_on.set()


def spread_s(lab: Lab, number: int) -> float | None:
    """Between the first process of any node that showed the n-th certificate and the last, by their logs;
    None: not all have it."""
    served = [line for node in NODES for line in lab.log(node).splitlines() if "is served, valid" in line]
    fences = sorted(set(re.findall(r"\(number (\d+)", "\n".join(served))))
    swaps = [line.split() for line in served if f"(number {fences[number - 1]}" in line]
    if len(swaps) < len(NODES) + 2:  # node-2 has two workers
        return None
    moments = [datetime.fromisoformat(f"{day} {time_of_day}") for day, time_of_day, *_ in swaps]
    return (max(moments) - min(moments)).total_seconds()


def test_an_empty_bucket_becomes_one_certificate_on_all_nodes_and_is_renewed_under_open_sessions() -> None:
    with authority(LIFETIME_S) as (lab, ca):
        start_all(lab)
        took = until("all nodes show one certificate", lambda: all_show_one(lab), LEADING_S + SOON_S)
        print(f"one certificate on three nodes {took:.1f} s after they started")
        assert ca.front.count("finalize") == ca.front.count("new-order") == 1
        first = leaf(lab, "node-1", root(lab, ca))
        assert {leaf(lab, node, root(lab, ca)) for node in NODES} == {first}
        with ExitStack() as stack:
            sessions = [stack.enter_context(imap(lab, node)) for node in NODES for _ in range(3)]
            for session in sessions:
                session.login("ann@lab.example", lab.password)
            shown = first
            for number in (2, 3):
                took = until(f"certificate {number}", lambda: all_show_one(lab, other_than=shown), LIFETIME_S)  # noqa: B023
                shown = leaf(lab, "node-2", root(lab, ca))
                assert ca.front.count("finalize") == number
                assert all(session.noop()[0] == "OK" for session in sessions)
                until("every process shows it", lambda: spread_s(lab, number) is not None, LIFETIME_S)  # noqa: B023
                spread = spread_s(lab, number)
                print(f"certificate {number}: all nodes swapped within {spread:.2f} s of the first")
        listed = lab.json_of("node-3", "node", "certs", "list")
        (line,) = listed["certificates"]
        assert line["names"] == [DOMAIN]
        until(
            "node-3 tells what all nodes show",
            lambda: (
                {
                    (each["node"], each["agrees"])
                    for each in lab.json_of("node-3", "node", "certs", "list")["shown"]
                }
                == {(node, True) for node in NODES}
            ),
            SOON_S,
        )
        assert "agree" in lab.program("node-2", "node", "certs", "list").lower()


def test_a_leader_killed_in_an_order_leaves_exactly_one_new_certificate() -> None:
    with authority(0) as (lab, ca):
        with held_at(ca, "finalize") as reached:
            start_all(lab)
            until("the leader finalizes its order", reached.is_set, LEADING_S + SOON_S)
            killed = orderer(lab)
            lab.kill(killed)
        others = tuple(node for node in NODES if node != killed)
        took = until("the others show one certificate", lambda: all_show_one(lab, others), TAKEN_OVER_S)
        print(f"one certificate {took:.1f} s after the leader was killed while the CA made it")
        assert ca.front.count("new-order") == 1
        assert all(can_log_in(lab, node) for node in others)
        lab.start(killed)
        until("who was killed shows it, too", lambda: all_show_one(lab), SOON_S)
        assert ca.front.count("new-order") == 1


def test_a_cluster_in_three_parts_makes_one_order_each_time() -> None:
    with authority(SPLIT_LIFETIME_S) as (lab, ca):
        for one in NODES:
            lab.part([one], [other for other in NODES if other != one])
        start_all(lab)
        until("all nodes show one certificate", lambda: all_show_one(lab), TAKEN_OVER_S)
        until(
            "each node leads what it sees", lambda: {leads(lab, node) for node in NODES} == {True}, LEADING_S
        )
        shown, ordered = leaf(lab, "node-1"), ca.front.count("new-order")
        until("there is another one", lambda: all_show_one(lab, other_than=shown), SPLIT_LIFETIME_S)
        time.sleep(5)  # for those who might still want to
        assert ca.front.count("new-order") == ca.front.count("finalize") == ordered + 1
        lab.heal()


def leads(lab: Lab, node: str) -> bool:
    return bool(lab.status(node)["cluster"]["leader"] == node)
