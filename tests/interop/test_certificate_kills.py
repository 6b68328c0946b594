"""The node that orders a certificate is killed (-9) at each step: another one ends with one new certificate.

Three nodes, a real authority (pebble) and a real bucket (rclone). The step is held where only the killed node
can notice: in the authority's front, or before the bucket. Two things are not waited for: that it is due, and
that the dead node's lease runs out after two minutes. Both are times in the database, and are set there;
``tests/lab/test_certificates.py`` waits for them once, at ``finalize``. The registration of the account is
killed in ``tests/tls/renewing`` only: there is one in the life of a cluster.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.support.clusterprocesses import ClusterProcesses
from tests.support.holdingbucket import HoldingBucket
from tests.support.nodeprocess import ROOT
from tests.support.pebble import Pebble, PebbleOptions, Rule, require_pebble
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S, eventually
from tls.observing import observe

NAME = "mail.example.test"
KEEPER = "node-9"  # of the database and the objects; the last to lead, and never killed
NODES = (KEEPER, "node-1", "node-2")
LEFT = (KEEPER, "node-2")
LIFETIME_S = 12 * 3600  # far from due by itself, and short enough for our own budget

SECTION = """[tls]
enabled = true
provider = "letsencrypt"

[tls.letsencrypt]
email = "ops@example.test"
domains = ["{name}"]
directory = "{directory}"
ca_file = "{ca_file}"
challenge_listen = "{challenges}"
encryption_key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
fallback_dir = "{mirror}"
s3 = {{ bucket = "sora-mail", endpoint = "{endpoint}", disable_tls = true, server_side_encryption = "" }}

"""

# (where, what): a request to the authority that never gets there, an answer of it that is never heard, or a
# request that never gets to the bucket. In the order of an order.
STEPS = [
    ("request", "new-order"),
    ("answer", "new-order"),
    ("bucket", "PUT /orders/"),
    ("bucket", "PUT /challenges/"),
    ("request", "challenge"),
    ("request", "finalize"),
    ("answer", "finalize"),
    ("request", "certificate"),
    ("bucket", "PUT /certs/"),
    ("bucket", "DELETE /orders/"),
]
# The authority has an order that nobody wrote down: the next node begins another.
UNKNOWN_ORDER = {("answer", "new-order"), ("bucket", "PUT /orders/")}


class Site:
    def __init__(self, stack: ExitStack) -> None:
        self._mirrors = stack.enter_context(tempfile.TemporaryDirectory(prefix="sora-mirrors-"))
        self.bucket = HoldingBucket()
        stack.callback(self.bucket.stop)
        self.nodes = ClusterProcesses(NODES, edit=self._edit, s3="rclone")
        # where the authority asks; the keeper is never away
        options = PebbleOptions(
            http_port=free_port(*self.nodes.ips.values()),
            names_at=self.nodes.ips[KEEPER],
            validity_s=LIFETIME_S,
        )
        self.ca = stack.enter_context(Pebble(options))
        stack.enter_context(self.nodes)

    def _edit(self, text: str, name: str) -> str:
        if name == KEEPER:
            found = re.search(r'(?m)^endpoint = "127\.0\.0\.1:(\d+)"$', text)
            assert found is not None
            self.bucket.start(int(found[1]))
        head, _, rest = text.partition("[tls]\n")
        section = SECTION.format(
            name=NAME,
            directory=self.ca.directory,
            ca_file=self.ca.ca_file,
            challenges=f"{self.nodes.ips[name]}:{self.ca.options.http_port}",
            mirror=f"{self._mirrors}/{name}",
            endpoint=f"127.0.0.1:{self.bucket.port}",
        )
        return head + section + rest[rest.index("[[servers]]") :]

    # --- the database ---

    def sql(self, statement: str) -> str:
        """One word of the first row; empty: none."""
        return asyncio.run(self._sql(statement))

    async def _sql(self, statement: str) -> str:
        settings = tomllib.loads(self.nodes.config(KEEPER).read_text())["database"]["write"]
        connection = await asyncpg.connect(
            host=settings["hosts"][0],
            user=settings["user"],
            password=Path(settings["password_file"]).read_text().strip(),
            database=settings["name"],
        )
        try:
            return str(await connection.fetchval(statement) or "")
        finally:
            await connection.close()

    def pick(self, when: str, only: str = "true") -> None:
        """The moment of renewal that the authority is believed to have suggested."""
        self.sql(
            f"UPDATE certificate_attempts SET renew_at = {when}, renew_checked_at = now(),"
            f" retry_after = now() + interval '1 hour' WHERE {only}"
        )

    def end_lease(self) -> None:
        self.sql("UPDATE leases SET expires_at = now()")

    # --- what is asked ---

    def renewing(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        config = str(self.nodes.config(name))
        command = [sys.executable, "-m", "node", "certs", "renew", NAME, "--config", config, *more]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def shown(self, name: str) -> str:
        """Hash of the leaf; empty: none."""
        seen = asyncio.run(observe("127.0.0.1", self.nodes[name].port("imaps"), NAME))
        return "" if seen.fault else seen.fingerprint

    def all_show_another_than(self, before: str, names: tuple[str, ...] = NODES) -> bool:
        shown = {self.shown(name) for name in names}
        return len(shown) == 1 and not shown & {"", before}

    def hold(self, where: str, what: str) -> threading.Event:
        if where == "bucket":
            return self.bucket.hold(*what.split())
        reached = threading.Event()
        if where == "answer":
            self.ca.front.on_answer = lambda seen: reached.set() if seen.kind == what else None
            self.ca.front.add(Rule(what, hang=True, lose_answer=True, times=1))
        else:
            self.ca.front.add(Rule(what, hang=True, times=1, when=lambda _seen: reached.set() is None))
        return reached


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require_pebble()
    with ExitStack() as stack:
        site = Site(stack)
        site.nodes.wait_for(lambda: set(site.nodes.states(KEEPER).values()) == {"alive"}, 60.0)
        with site.renewing("node-1") as command:  # or whoever leads has begun
            said, _ = command.communicate(timeout=PATIENCE_S)
        eventually(lambda: site.all_show_another_than(""), what=f"there is a first one: {said!r}")
        yield site


@pytest.mark.parametrize(("where", "what"), STEPS)
def test_who_comes_after_a_killed_node_ends_with_one_new_certificate(
    site: Site, where: str, what: str
) -> None:
    before = site.shown(KEEPER)
    made, ordered = site.ca.front.count("finalize"), site.ca.front.count("new-order")
    site.pick("now() + interval '1 hour'")
    reached = site.hold(where, what)
    with site.renewing("node-1", "--force") as command:  # for nobody else is it due
        assert reached.wait(PATIENCE_S), f"no order comes to {what}"
        site.nodes["node-1"].kill()
        command.communicate(timeout=PATIENCE_S)
    site.pick("now()", only="renew_at IS NOT NULL")  # the hour has passed, where nobody did it
    site.end_lease()
    with site.renewing("node-2") as command:
        said, _ = command.communicate(timeout=PATIENCE_S)
    eventually(lambda: site.all_show_another_than(before, LEFT), what=f"all show another: {said!r}")
    assert site.ca.front.count("finalize") == made + 1
    assert site.ca.front.count("new-order") == ordered + 1 + ((where, what) in UNKNOWN_ORDER)
    site.nodes["node-1"].start()
    eventually(lambda: site.all_show_another_than(before), what="the killed node shows it, too")
    assert site.ca.front.count("finalize") == made + 1
