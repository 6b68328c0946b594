"""``sora-admin sieve``: the scripts of accounts, and trying one out on a message."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from node.sieve import allowed_extensions
from node.sievetrial import Event, Trial, try_script
from protocols.messageevents import Cause
from protocols.sieve.compiling import compile
from protocols.sieve.errors import ScriptErrors
from protocols.sieve.registry import NAMES
from protocols.sieve.script import Script
from storage.model import INBOX, AccountId
from storage.scripts import ScriptInfo, ScriptQuota

from .access import Access, Stores, read_config, with_access
from .addresses import address_argument
from .failure import EXIT_CODES, Failure
from .output import json_time, print_json, print_text, printable, show_size, show_time, table

# Administrators may store what users could not upload.
QUOTA = ScriptQuota(scripts=1_000, script_bytes=4 * 1024 * 1024)
BAD_SCRIPT = 1

EXAMPLES = """\b
Examples:
  sora-admin sieve put ann@example.org main < main.sieve
  sora-admin sieve activate ann@example.org main
  sora-admin sieve list ann@example.org
  sora-admin sieve test main.sieve message.eml --to ann+lists@example.org
"""


@click.group(epilog=EXAMPLES + "\n" + EXIT_CODES)
def sieve() -> None:
    """Sieve scripts of accounts: list, store, activate, try out."""


def _run(access: Access, address: str, action: Callable[[Stores, AccountId], Awaitable[None]]) -> None:
    async def run(stores: Stores) -> None:
        account = await stores.accounts.account(address)
        await action(stores, account.id)

    access.run(run)


def script_data(script: ScriptInfo) -> dict[str, object]:
    return {
        "name": script.name,
        "size_bytes": script.size_bytes,
        "active": script.is_active,
        "created_at": json_time(script.created_at),
        "updated_at": json_time(script.updated_at),
    }


@sieve.command("list", epilog="\b\nExample:\n  sora-admin sieve list ann@example.org --json")
@click.argument("address", type=address_argument)
@with_access
def list_(access: Access, address: str) -> None:
    """The scripts of an account; one of them may be active."""

    async def find(stores: Stores) -> list[ScriptInfo]:
        return await stores.scripts.scripts((await stores.accounts.account(address)).id)

    found = access.run(find)
    rows = [
        (each.name, "yes" if each.is_active else "", show_size(each.size_bytes), show_time(each.updated_at))
        for each in found
    ]
    access.answer([script_data(each) for each in found], table(("NAME", "ACTIVE", "SIZE", "CHANGED"), rows))


@sieve.command(epilog="\b\nExample:\n  sora-admin sieve get ann@example.org holiday > holiday.sieve")
@click.argument("address", type=address_argument)
@click.argument("name")
@with_access
def get(access: Access, address: str, name: str) -> None:
    """Print a script."""

    async def read(stores: Stores) -> bytes:
        return await stores.scripts.script((await stores.accounts.account(address)).id, name)

    content = access.run(read)
    if access.as_json:
        print_json({"name": name, "content": content.decode("utf-8", "replace")})
    else:
        sys.stdout.buffer.write(content)


@sieve.command(epilog="\b\nExample:\n  sora-admin sieve put ann@example.org holiday holiday.sieve")
@click.argument("address", type=address_argument)
@click.argument("name")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--force", is_flag=True, help="Store it although it has mistakes.")
@with_access
def put(access: Access, address: str, name: str, file: BinaryIO, force: bool) -> None:
    """Store a script from FILE, or from standard input, under NAME. It may require what the configuration
    allows."""
    content = file.read()
    found = compile(content, extensions=allowed_extensions(read_config(access.config).sieve))
    if isinstance(found, ScriptErrors) and not force:
        raise Failure(f"the script has mistakes:\n{found}", BAD_SCRIPT)
    _warn(found, "")

    async def store(stores: Stores, account_id: AccountId) -> None:
        await stores.scripts.put(account_id, name, content, QUOTA)

    _run(access, address, store)
    access.answer({"stored": name}, f"stored {name}")


@sieve.command(epilog="\b\nExample:\n  sora-admin sieve activate ann@example.org holiday")
@click.argument("address", type=address_argument)
@click.argument("name")
@with_access
def activate(access: Access, address: str, name: str) -> None:
    """Let NAME filter the account's mail, instead of the script that did."""

    async def change(stores: Stores, account_id: AccountId) -> None:
        await stores.scripts.activate(account_id, name)

    _run(access, address, change)
    access.answer({"active": name}, f"{name} is active")


@sieve.command(epilog="\b\nExample:\n  sora-admin sieve deactivate ann@example.org")
@click.argument("address", type=address_argument)
@with_access
def deactivate(access: Access, address: str) -> None:
    """Let no script filter the account's mail."""

    async def change(stores: Stores, account_id: AccountId) -> None:
        await stores.scripts.activate(account_id, None)

    _run(access, address, change)
    access.answer({"active": None}, "no script is active")


@sieve.command(epilog="\b\nExample:\n  sora-admin sieve rename ann@example.org holiday summer")
@click.argument("address", type=address_argument)
@click.argument("old")
@click.argument("new")
@with_access
def rename(access: Access, address: str, old: str, new: str) -> None:
    """Rename a script; an active one stays active."""

    async def change(stores: Stores, account_id: AccountId) -> None:
        await stores.scripts.rename(account_id, old, new)

    _run(access, address, change)
    access.answer({"renamed": old, "to": new}, f"{old} is {new} now")


@sieve.command(epilog="\b\nExample:\n  sora-admin sieve delete ann@example.org holiday")
@click.argument("address", type=address_argument)
@click.argument("name")
@with_access
def delete(access: Access, address: str, name: str) -> None:
    """Delete a script that is not active."""

    async def change(stores: Stores, account_id: AccountId) -> None:
        await stores.scripts.delete(account_id, name)

    _run(access, address, change)
    access.answer({"deleted": name}, f"deleted {name}")


@sieve.command(
    "test",
    epilog="\b\nExamples:\n  sora-admin sieve test holiday.sieve message.eml\n"
    "  sora-admin sieve test events.sieve message.eml --event FLAG --flag '\\Flagged' --changed '\\Flagged'",
)
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("message", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--from", "sender", default="", help="Envelope sender; default: that of Return-Path or From.")
@click.option("--to", "recipient", default="", help="Envelope recipient; default: the first of To.")
@click.option("--mailbox", "mailboxes", multiple=True, help="A mailbox that exists; may be repeated.")
@click.option(
    "--includes",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of NAME.sieve files for include.",
)
@click.option(
    "--event",
    type=click.Choice([each.value for each in Cause], case_sensitive=False),
    help="As if a user had done this to the message (imapsieve), instead of a delivery.",
)
@click.option("--in", "place", default=INBOX, help="Of the event: the mailbox; default: INBOX.")
@click.option("--flag", "flags", multiple=True, help="Of the event: a flag the message has afterwards.")
@click.option("--changed", multiple=True, help="Of the event: a flag that was changed; may be repeated.")
@click.option("--trace", is_flag=True, help="Also every step that was taken.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def test(
    script: Path,
    message: Path,
    sender: str,
    recipient: str,
    mailboxes: tuple[str, ...],
    includes: Path | None,
    event: str | None,
    place: str,
    flags: tuple[str, ...],
    changed: tuple[str, ...],
    trace: bool,
    as_json: bool,
) -> None:
    """Say what SCRIPT would do with MESSAGE: each action with the line that took it and the line of the
    condition that was true for it. Nothing is read but these files, nothing is stored or sent."""
    content = script.read_bytes()
    compiled = compile(content, extensions=NAMES)
    if isinstance(compiled, ScriptErrors):
        raise Failure("\n".join(f"{script}:{each}" for each in compiled.errors), BAD_SCRIPT)
    _warn(compiled, f"{script}:")
    trial = Trial(
        name=script.name,
        script=compiled,
        message=message.read_bytes(),
        sender=sender,
        recipient=recipient,
        mailboxes=frozenset(mailboxes),
        includes=includes,
        event=Event(Cause(event), place, flags, changed) if event else None,
    )
    told = try_script(trial, now=datetime.now(UTC).astimezone(), clock=time.monotonic)
    if as_json:
        print_json(told.data(trace=trace))
    else:
        print_text("\n".join(map(printable, told.lines(trace=trace))))
    if told.outcome.fault:
        sys.exit(BAD_SCRIPT)


def _warn(found: Script | ScriptErrors, place: str) -> None:
    for warning in found.warnings if isinstance(found, Script) else ():
        click.echo(f"warning: {place}{warning}", err=True)
