"""Sieve as this node runs it: allowed extensions, limits, and the scripts of the site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocols.filtering import MailFilter
from protocols.junk import JunkRule
from protocols.mailboxnames import MailboxNames
from protocols.scriptlibrary import SiteScripts
from protocols.sieve.budget import Limits
from protocols.sieve.compiling import compile
from protocols.sieve.errors import ScriptErrors
from protocols.sieve.registry import NAMES

from .listfiles import ListFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocols.annotations import Annotations
    from storage.api import MailStore
    from storage.scripts import ScriptStore

    from .config import Sieve

# They change the message that is stored, which breaks its signatures; the site has to want them.
CHANGES_MAIL: Final = frozenset({"editheader", "replace", "enclose"})
SUFFIX: Final = ".sieve"


class SieveUnusable(Exception):
    """A script of the site cannot be used; the message names the file and the place."""


def allowed_extensions(options: Sieve) -> frozenset[str]:
    return frozenset(options.enabled_extensions) or NAMES - CHANGES_MAIL


def site_scripts(options: Sieve) -> SiteScripts:
    """Raises SieveUnusable."""
    shared = {}
    if options.shared_scripts:
        for path in sorted(Path(options.shared_scripts).glob(f"*{SUFFIX}")):
            shared[path.name.removesuffix(SUFFIX)] = _read(path)
    return SiteScripts(
        before=_read(Path(options.before_script)) if options.before_script else b"",
        after=_read(Path(options.after_script)) if options.after_script else b"",
        shared=shared,
    )


def _read(path: Path) -> bytes:
    """The site may use every extension there is, and must write what compiles."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SieveUnusable(f"the Sieve script {path} cannot be read: {error.strerror}") from error
    found = compile(content)
    if isinstance(found, ScriptErrors):
        raise SieveUnusable(f"the Sieve script {path} has mistakes:\n{found}")
    return content


def junk_rule(options: Sieve) -> JunkRule | None:
    if not options.file_spam:
        return None
    fields = [each.partition(":") for each in options.spam_fields]
    return JunkRule(
        options.spam_percent,
        [(name.strip().lower().encode(), value.strip().lower().encode()) for name, _, value in fields],
    )


def mail_filter(
    options: Sieve,
    scripts: ScriptStore,
    mail: MailStore,
    annotations: Annotations,
    *,
    clock: Callable[[], float],
) -> MailFilter:
    """Raises SieveUnusable."""
    return MailFilter(
        scripts,
        MailboxNames(mail, clock=clock),
        annotations=annotations,
        lists=ListFiles(Path(options.lists_path), clock=clock) if options.lists_path else None,
        extensions=allowed_extensions(options),
        limits=Limits(time_s=options.max_execution_time_s),
        site=site_scripts(options),
        junk=junk_rule(options),
        clock=clock,
    )
