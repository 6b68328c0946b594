"""``sora-admin verify``: do database, staging, cache and object store agree?"""

from __future__ import annotations

import sys
import time
from typing import Final

import click

from node.auditing import audit
from storage.audit.findings import MEANINGS, Kind, Report, Tally
from storage.errors import Corrupt, StorageError

from .access import Access, Stores, read_config, with_access
from .addresses import address_argument
from .failure import EXIT_CODES, UNAVAILABLE, Failure

PROBLEMS_LEFT: Final = 6
_MORE_CODES = EXIT_CODES + "\n  6  something is wrong, and was not repaired"
_EXAMPLES = """\b
Examples:
  sora-admin verify
  sora-admin verify --deep --account ann@example.org
  sora-admin verify --repair --json"""
SHOWN_EVERY_S: Final = 2.0


@click.command(epilog=_EXAMPLES + "\n\n" + _MORE_CODES)
@click.option("--deep", is_flag=True, help="Read and decode every body. Costs a read of all that is stored.")
@click.option("--repair", is_flag=True, help="Do what is safe about what is found.")
@click.option(
    "--account", type=address_argument, help="Only the mail of this account; orphans are not looked for then."
)
@with_access
def verify(access: Access, deep: bool, repair: bool, account: str | None) -> None:
    """Compare database, staging, local cache and object store, while mail goes on.

    Looks for bodies that are missing, damaged or of an impossible size, objects that nothing refers to,
    staged bodies that are not where they should be, and mailboxes that count wrong. Without --repair nothing
    is changed. docs/lifecycle.md explains each finding.
    """
    config = read_config(access.config)
    shown = _Progress(is_quiet=access.as_json or not sys.stderr.isatty())

    async def look(stores: Stores) -> Report:
        account_id = None if account is None else (await stores.accounts.account(account)).id
        try:
            return await audit(
                config,
                stores.database,
                account_id=account_id,
                is_deep=deep,
                repairs=repair,
                progress=shown.show,
            )
        except (StorageError, OSError) as error:
            if isinstance(error, Corrupt):
                raise
            raise Failure(f"the audit broke off: {error}", UNAVAILABLE) from error

    report = access.run(look)
    shown.end()
    access.answer(_as_data(report), _as_text(report, shown.seconds, repairs=repair))
    if report.left:
        raise click.exceptions.Exit(PROBLEMS_LEFT)


class _Progress:
    """One line on standard error, for people."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._started = self._shown_at = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._is_quiet or now - self._shown_at < SHOWN_EVERY_S:
            return
        self._shown_at = now
        of = f" of {total:,} shards" if total else ""
        click.echo(f"\r\x1b[K{now - self._started:6.0f} s  {what}: {done:,}{of}", err=True, nl=False)

    def end(self) -> None:
        if not self._is_quiet:
            click.echo("\r\x1b[K", err=True, nl=False)


def _as_data(report: Report) -> dict[str, object]:
    return {
        "seen": report.seen,
        "left": report.left,
        "notes": report.notes,
        "findings": [
            {
                "kind": kind.value,
                "found": tally.found,
                "repaired": tally.repaired,
                "what": MEANINGS[kind].what,
                "cure": MEANINGS[kind].cure,
                "samples": tally.samples,
            }
            for kind, tally in report.tallies.items()
        ],
    }


def _as_text(report: Report, seconds: float, *, repairs: bool) -> str:
    seen = ", ".join(f"{count:,} {what}" for what, count in report.seen.items())
    lines = [f"looked at {seen or 'nothing'} in {seconds:.1f} s"]
    for kind, tally in report.tallies.items():
        lines += ["", *_finding(kind, tally, repairs=repairs)]
    lines += ["", *report.notes] if report.notes else []
    if not report.tallies:
        lines.append("everything is as it should be")
    return "\n".join(lines)


def _finding(kind: Kind, tally: Tally, *, repairs: bool) -> list[str]:
    meaning = MEANINGS[kind]
    lines = [f"{tally.found:,} {meaning.what}", *(f"  {sample}" for sample in tally.samples)]
    if tally.found > len(tally.samples):
        lines.append(f"  ... and {tally.found - len(tally.samples):,} more")
    if repairs and tally.repaired:
        lines.append(f"  repaired {tally.repaired:,}: {meaning.cure}")
    if tally.left:
        way = "--repair" if meaning.is_repairable and not repairs else "what to do"
        lines.append(f"  {way}: {meaning.cure}")
    return lines
