"""The layers and purity rules, read from the source with ``ast``: needs nothing installed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("node", "cluster", "tls", "protocols", "storage")

MAY_IMPORT: dict[str, set[str]] = {
    "node": set(PACKAGES),
    "protocols": {"protocols", "storage"},
    "cluster": {"cluster"},
    "tls": {"tls", "storage"},
    "storage": {"storage"},
}

# Pure modules: no I/O, clock or chance. Globs below the root.
PURE = (
    "storage/model.py",
    "storage/errors.py",
    "storage/api.py",
    "storage/addresses.py",
    "storage/names.py",
    "storage/recovery.py",
    "storage/scripts.py",
    "storage/sending.py",
    "storage/dsn.py",
    "storage/flags.py",
    "storage/view.py",
    "storage/mime/*.py",
    "storage/objects/keys.py",
    "protocols/errors.py",
    "protocols/envelope.py",
    "protocols/fingerprint.py",
    "protocols/haproxy.py",
    "protocols/incoming.py",
    "protocols/junk.py",
    "protocols/lines.py",
    "protocols/linemachine.py",
    "protocols/managesieve/commands.py",
    "protocols/managesieve/compiler.py",
    "protocols/managesieve/grammar.py",
    "protocols/managesieve/machine.py",
    "protocols/managesieve/replies.py",
    "protocols/sasl.py",
    "protocols/spamtraining/lesson.py",
    "protocols/tracefields.py",
    "protocols/xclient.py",
    "protocols/xtext.py",
    "protocols/relay/breaker.py",
    "protocols/relay/content.py",
    "protocols/relay/dsn.py",
    "protocols/relay/figures.py",
    "protocols/relay/queue.py",
    "protocols/relay/transport.py",
    "protocols/sending/answering.py",
    "protocols/sending/composing.py",
    "protocols/sending/content.py",
    "protocols/sending/copying.py",
    "protocols/sending/entity.py",
    "protocols/sending/mailto.py",
    "protocols/sending/occasion.py",
    "protocols/sending/srs.py",
    "protocols/sending/way.py",
    "storage/relaywindow.py",
    "protocols/*/machine.py",
    "protocols/sieve/*.py",
    "protocols/sieve/ext/*.py",
    "protocols/lmtp/arguments.py",
    "protocols/lmtp/events.py",
    "protocols/lmtp/grammar.py",
    "protocols/imap/grammar.py",
    "protocols/imap/seqset.py",
    "protocols/imap/responses.py",
    "protocols/imap/items.py",
    "protocols/imap/searchkeys.py",
    "protocols/imap/capability.py",
    "protocols/imap/governed.py",
    "protocols/addresslists.py",
    "protocols/messageevents.py",
    "protocols/imap/metadataargs.py",
    "protocols/imap/registry.py",
    "protocols/imap/view.py",
    "node/config/*.py",
    "node/ratelimit/*.py",
    "node/renewal/copies.py",
    "node/units.py",
    "node/health.py",
    "node/metrics/family.py",
    "node/metrics/catalogue.py",
    "node/metrics/counting.py",
    "tls/acme/chains.py",
    "tls/acme/dns01.py",
    "tls/acme/problems.py",
    "tls/acme/renewalinfo.py",
    "tls/acme/resources.py",
    "tls/acme/retryafter.py",
    "tls/budget.py",
    "tls/bundle.py",
    "tls/challenges.py",
    "tls/clienthello.py",
    "tls/domains.py",
    "tls/ja4.py",
    "tls/names.py",
    "tls/policy.py",
    "tls/ports.py",
    "tls/renewing/answers.py",
    "tls/renewing/company.py",
    "tls/renewing/figures.py",
    "tls/renewing/plan.py",
    "tls/retry.py",
    "tls/unserved.py",
    "tls/vault/layout.py",
    "tls/vault/opening.py",
    "tls/vault/records.py",
    "tls/vault/sealing.py",
    "tls/wanted.py",
    "storage/leases.py",
    "cluster/address.py",
    "cluster/admission.py",
    "cluster/api.py",
    "cluster/awareness.py",
    "cluster/codec.py",
    "cluster/compression.py",
    "cluster/dialect.py",
    "cluster/effects.py",
    "cluster/engine.py",
    "cluster/errors.py",
    "cluster/facts.py",
    "cluster/framing.py",
    "cluster/instant.py",
    "cluster/messages.py",
    "cluster/profile.py",
    "cluster/broadcast.py",
    "cluster/keyring.py",
    "cluster/leader.py",
    "cluster/members.py",
    "cluster/merging.py",
    "cluster/outbox.py",
    "cluster/probing.py",
    "cluster/pushpull.py",
    "cluster/replays.py",
    "cluster/streams.py",
    "cluster/suspicion.py",
    "cluster/swim.py",
    "cluster/timers.py",
    "cluster/delegate.py",
    "cluster/serf/*.py",
    "cluster/rpc/filters.py",
    "cluster/rpc/keyreport.py",
    "cluster/rpc/machine.py",
    "cluster/rpc/records.py",
    "cluster/state/*.py",
)
IMPURE_IMPORTS = {
    "asyncio",
    "socket",
    "ssl",
    "time",
    "random",
    "secrets",
    "threading",
    "subprocess",
    "asyncpg",
    "obstore",
}
# Protocols that may not know each other; they share only what lies beside them.
INDEPENDENT = ("imap", "pop3", "lmtp", "managesieve")


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def runtime_imports(path: Path) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import that is executed; TYPE_CHECKING blocks are not."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(id(inner) for statement in node.body for inner in ast.walk(statement))
    package = path.relative_to(ROOT).parent.parts
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            found.append((node.lineno, ".".join((*base, *((node.module or "").split("."))))))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_downwards_only(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources()
        if path.relative_to(ROOT).parts[0] == package
        for line, name in runtime_imports(path)
        if name.split(".")[0] in PACKAGES and name.split(".")[0] not in MAY_IMPORT[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_pure_modules_touch_no_io_clock_or_chance() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for pattern in PURE
        for path in sorted(ROOT.glob(pattern))
        for line, name in runtime_imports(path)
        if name.split(".")[0] in IMPURE_IMPORTS
    ]
    assert not wrong, "\n".join(wrong)


def test_protocols_do_not_know_each_other() -> None:
    wrong = []
    for path in sources():
        parts = path.relative_to(ROOT).parts
        if parts[0] != "protocols" or parts[1] not in INDEPENDENT:
            continue
        for line, name in runtime_imports(path):
            other = name.split(".")[1] if name.startswith("protocols.") else ""
            if other in INDEPENDENT and other != parts[1]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_protocols_name_no_concrete_store() -> None:
    concrete = ("storage.postgres", "storage.objects", "storage.memory", "asyncpg", "obstore")
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources()
        if path.relative_to(ROOT).parts[0] == "protocols"
        for line, name in runtime_imports(path)
        if name.startswith(concrete)
    ]
    assert not wrong, "\n".join(wrong)
