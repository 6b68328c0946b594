"""``sora-node certs``: certificates that the cluster gets and renews itself."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.renewal.reasons import REASONS
from node.units import format_duration

from .access import Access, with_access
from .failure import EXIT_CODES, FAILED, USAGE, Failure
from .live import ask_node, ask_within
from .output import fields, show_time, table

ORDER_WITHIN_S = 300.0
CHECK_WITHIN_S = 60.0
NOTE_CHARS = 60  # in a list; `show` has it whole


@click.group(
    epilog="\b\nExamples:\n  sora-node certs list\n  sora-node certs check\n"
    "  sora-node certs renew mail.example.com --dry-run\n\n" + EXIT_CODES
)
def certs() -> None:
    """Certificates by ACME: what there is, what every node really shows, and what comes next.

    These commands ask the running node, so they work on its machine only. NAME is one of the names of a
    certificate, or its id; it may be left out where there is one certificate.
    """


@certs.command("list", epilog="\b\nExamples:\n  sora-node certs list\n  sora-node certs list --json")
@with_access
def list_command(access: Access) -> None:
    """All certificates, and which of them each node shows at its public ports."""
    found = ask_node(access, "certs.list")
    access.answer(found, _render_list(found))


@certs.command(epilog="\b\nExample:\n  sora-node certs show mail.example.com\n\n" + EXIT_CODES)
@click.argument("name", default="")
@with_access
def show(access: Access, name: str) -> None:
    """One certificate: its life, what was tried, what failed and with which words of the authority."""
    found = ask_node(access, "certs.show", name=name)
    access.answer(found, _render_one(found))


@certs.command(
    epilog="\b\nExamples:\n  sora-node certs renew\n  sora-node certs renew mail.example.com --force\n"
    "  sora-node certs renew mail.example.com --dry-run\n\n" + EXIT_CODES
)
@click.argument("name", default="")
@click.option("--force", is_flag=True, help="Though it is not due, and whatever failed before.")
@click.option(
    "--dry-run", is_flag=True, help="At staging (or an authority other than Let's Encrypt); publish nothing."
)
@with_access
def renew(access: Access, name: str, force: bool, dry_run: bool) -> None:
    """Order now, on this node, if it is due. Budgets below the authority's limits hold all the same."""
    arguments = {"name": name, "force": force, "dry_run": dry_run}
    found = ask_within(access, ORDER_WITHIN_S, "certs.renew", arguments)
    access.answer(found, _render_outcome(found))
    _require_done(found)


@certs.command(
    epilog="\b\nExample:\n  sora-node certs revoke mail.example.com --reason key-compromise --yes\n\n"
    + EXIT_CODES
)
@click.argument("name", default="")
@click.option("--reason", type=click.Choice(sorted(REASONS)), default="unspecified", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_access
def revoke(access: Access, name: str, reason: str, yes: bool) -> None:
    """Revoke the newest certificate at its authority, and order another one at once."""
    if not yes:
        click.confirm(
            "Clients that check will refuse the certificate that is shown now. Revoke it?", abort=True
        )
    found = ask_within(access, ORDER_WITHIN_S, "certs.revoke", {"name": name, "reason": reason})
    access.answer(found, f"revoked; the next one: {_render_outcome(found)}")
    _require_done(found)


@certs.command(epilog="\b\nExamples:\n  sora-node certs check\n  sora-node certs check mail.example.com")
@click.argument("name", default="")
@with_access
def check(access: Access, name: str) -> None:
    """What the authority would find: names in the DNS, and port 80 there and on the other nodes.

    Asks no authority. Exit status 1 when something was found; that need not be in the way, as this machine
    may see what the authority does not.
    """
    found = ask_within(access, CHECK_WITHIN_S, "certs.check", {"name": name})
    names = ", ".join(found["names"])
    well = f"{names}: all well" if not found["by_dns"] else f"{names}: proved in the DNS, nothing to look at"
    access.answer(found, "\n".join(found["remarks"]) or well)
    if found["remarks"]:
        raise SystemExit(FAILED)


@certs.command(
    "import",
    epilog="\b\nExample:\n  sora-node certs import mail.example.com --chain chain.pem --key key.pem\n\n"
    + EXIT_CODES,
)
@click.argument("name", default="")
@click.option("--chain", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@with_access
def import_command(access: Access, name: str, chain: Path, key: Path) -> None:
    """Put a pair from elsewhere in place on all nodes; it is renewed by ACME when its time has come."""
    arguments = {"name": name, "chain": _pem(chain), "key": _pem(key)}
    found = ask_within(access, CHECK_WITHIN_S, "certs.import", arguments)
    access.answer(found, _render_outcome(found))
    _require_done(found)


def _pem(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Failure(
            f"{path} is no PEM file; openssl x509 or openssl pkey -inform der makes one of DER", USAGE
        ) from error


@certs.command(
    epilog="\b\nExample:\n  sora-node certs export mail.example.com --to /root/mail\n\n" + EXIT_CODES
)
@click.argument("name", default="")
@click.option("--to", "directory", type=click.Path(file_okay=False, path_type=Path), required=True)
@with_access
def export(access: Access, name: str, directory: Path) -> None:
    """Write the newest pair to fullchain.pem and privkey.pem in a directory, for root alone to read."""
    found = ask_node(access, "certs.export", name=name)
    written = {"fullchain.pem": found["chain"], "privkey.pem": found["key"]}
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, text in written.items():
            _write(directory / file, text)
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from error
    access.answer(
        {"id": found["id"], "files": [str(directory / file) for file in written]}, f"written to {directory}"
    )


def _write(path: Path, text: str) -> None:
    """Raises OSError."""
    path.unlink(missing_ok=True)  # an old one may have other rights
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


@certs.command(epilog="\b\nExample:\n  sora-node certs rollover\n\n" + EXIT_CODES)
@with_access
def rollover(access: Access) -> None:
    """Give the accounts at all authorities a new key, one for all; the old ones are worth nothing then."""
    found = ask_within(access, ORDER_WITHIN_S, "certs.rollover")
    access.answer(found, fields(found["accounts"]))


# --- for people ---------------------------------------------------------------------------------------


def _render_list(found: dict[str, Any]) -> str:
    rows = [
        (
            each["names"][0] + (f" +{len(each['names']) - 1}" if len(each["names"]) > 1 else ""),
            each["key_type"],
            _state(each, NOTE_CHARS),
            _left(each["not_after"]),
            _when(each["renew_at"]),
            str(each["fence"] or "-"),
            each["id"],
        )
        for each in found["certificates"]
    ]
    parts = [table(("NAMES", "KEY", "STATE", "LEFT", "RENEWAL", "NUMBER", "ID"), rows)]
    if found["bucket"]:
        parts.append(f"The bucket cannot be read: {found['bucket']}")
    if found["shown"]:
        parts.append(table(("NODE", "PORT", "NAME", "SHOWS", "LEFT", "SEEN BY", "AGREES"), _shown(found)))
    return "\n\n".join(parts)


def _state(line: dict[str, Any], most: int | None = None) -> str:
    """``most``: characters of the note, which may be whole sentences of an authority."""
    shown = line.get("meanwhile")  # absent in the answer of a node that was started before an upgrade
    meanwhile = f" (meanwhile number {', '.join(map(str, shown))} is shown)" if shown else ""
    note = str(line["note"])
    if most is not None and len(note) > most:
        note = note[: most - 3] + "..."
    return str(line["state"]) + meanwhile + (f": {note}" if note else "")


def _shown(found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            each["node"],
            each["port"],
            each["name"],
            each["fingerprint"][:16] or each["trouble"] or "-",
            _left(each["not_after"]),
            each["seen_by"],
            "yes" if each["agrees"] else "NO",
        )
        for each in found["shown"]
    ]


def _render_one(found: dict[str, Any]) -> str:
    lines: dict[str, object] = {
        "names": ", ".join(found["names"]),
        "id": found["id"],
        "key": found["key_type"],
        "state": _state(found),
        "number": found["fence"] or "none",
        "valid": f"{_when(found['not_before'])} to {_when(found['not_after'])}",
        "renewal": _when(found["renew_at"]),
        "issuer": found["issuer"] or "-",
        "fingerprint": found["fingerprint"] or "-",
        "in the bucket": ", ".join(map(str, found["generations"])) or found.get("bucket", "none"),
    }
    if found.get("without"):
        lines["not for"] = ", ".join(found["without"])
    for ca, tried in found["attempts"].items():
        lines[ca] = _attempts(tried)
    return fields(lines)


def _attempts(tried: dict[str, Any]) -> str:
    parts = [f"issued {_when(tried['last_success_at'])}"] if tried["last_success_at"] else []
    if tried["failures"]:
        parts.append(f"failed {tried['failures']} times, last {_when(tried['last_failure_at'])}")
        parts.append(tried["last_failure"])
        parts.append(f"next attempt {_when(tried['blocked_until'])}")
    if tried["suggested_at"]:
        parts.append(f"suggests renewal at {_when(tried['suggested_at'])}")
    return "; ".join(parts) or "not asked yet"


def _render_outcome(found: dict[str, Any]) -> str:
    text = str(found["result"]) + (f": {found['text']}" if found["text"] else "")
    if found["until"] and not found["done"]:
        text += f"; next attempt {_when(found['until'])}"
    if found["done"] and found.get("fence"):
        text += f"; number {found['fence']}, valid until {_when(found['not_after'])}"
    return text


def _require_done(found: dict[str, Any]) -> None:
    if not found["done"]:
        raise SystemExit(FAILED)


def _when(text: str | None) -> str:
    return show_time(datetime.fromisoformat(text)) if text else "-"


def _left(text: str | None) -> str:
    if not text:
        return "-"
    left_s = (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
    if left_s <= 0:
        return "EXPIRED"
    return f"{left_s / 86_400:.0f} d" if left_s > 2 * 86_400 else format_duration(round(left_s))
