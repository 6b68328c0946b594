"""keep, discard, redirect (RFC 5228 §4), fileinto (§4.1) and copy (RFC 3894)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from storage.addresses import BadAddress, canonical

from ..bound import Bound
from ..errors import RunFault
from ..fields import mailboxes
from ..outcome import Copy, Discard, FileInto, Keep, Redirect
from ..spec import STRING, Command, Do, Extension, Row, Slot
from .flags import flags_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..run import Run

MAX_MAILBOX_CHARS = 1000
_LITERAL = re.compile(r"(?<=@)\[[0-9A-Za-z:.-]+\]\s*\Z")  # in place of a domain (RFC 5321 §4.1.3)


def check_address(address: str) -> str:
    """Raises RunFault."""
    try:
        canonical(address)
    except BadAddress as error:
        raise RunFault(str(error)) from None
    if any(char in _LITERAL.sub("", address) for char in '<>()[]\\,;:"'):
        raise RunFault(f"{address[:100]!r} is not an address")
    return address.strip()


def bare_address(text: str) -> str:
    """The address in a string, which may have a name before it (RFC 5228 §2.4.2.3). Raises RunFault."""
    if not text.rstrip().endswith(">"):
        return check_address(text)
    check_sender(text)
    return check_address(text.rpartition("<")[2].rstrip().removesuffix(">"))


def check_sender(sender: str) -> str:
    """One address, with or without a name. Raises RunFault."""
    found = mailboxes(sender.encode("utf-8", "replace"))
    if len(found) != 1 or any(char < " " for char in sender):
        raise RunFault(f"{sender[:100]!r} is not an address")
    check_address(found[0].address)
    return sender.strip()


def check_mailbox(name: str) -> str:
    """Raises RunFault."""
    if not name or len(name) > MAX_MAILBOX_CHARS or any(char < " " or char == "\x7f" for char in name):
        raise RunFault(f"{name[:60]!r} is no name of a mailbox")
    return name


def _keep(bound: Bound) -> Do:
    line, flags = bound.line, flags_of(bound)

    def keep(run: Run) -> None:
        action = Keep(run.rule(line), flags(run), run.rewritten())
        run.tell(line, "keep")
        run.act(action)

    return keep


def _discard(bound: Bound) -> Do:
    line = bound.line

    def discard(run: Run) -> None:
        run.tell(line, "discard")
        run.act(Discard(run.rule(line)))

    return discard


def _redirect(bound: Bound) -> Do:
    line, target = bound.line, bound.text("address")
    keeps, to_list = bound.has("copy"), bound.has("list")
    if target.constant is not None and not to_list:
        try:
            bare_address(target.constant)
        except RunFault as fault:
            raise bound.fail(str(fault)) from None

    def redirect(run: Run) -> None:
        value = target.value(run)
        if to_list:
            action = Redirect(run.rule(line), "", value, run.rewritten())
        else:
            action = Redirect(run.rule(line), bare_address(value), "", run.rewritten())
        run.tell(line, f"redirect to {value}")
        run.act(action, keeps=keeps)

    return redirect


def place_of(bound: Bound) -> Callable[[Run, str], Copy]:
    """Where something is filed, from the tags that fileinto and :fcc share."""
    flags, creates = flags_of(bound), bound.has("create")
    use, mailbox_id = bound.tag_text("specialuse"), bound.tag_text("mailboxid")

    def place(run: Run, mailbox: str) -> Copy:
        return Copy(
            check_mailbox(mailbox),
            flags(run),
            creates,
            use.value(run) if use else "",
            mailbox_id.value(run) if mailbox_id else "",
        )

    return place


def _fileinto(bound: Bound) -> Do:
    line, target, place = bound.line, bound.text("mailbox"), place_of(bound)
    keeps = bound.has("copy")

    def fileinto(run: Run) -> None:
        at = place(run, target.value(run))
        action = FileInto(
            run.rule(line), at.mailbox, at.flags, at.create, at.special_use, at.mailbox_id, run.rewritten()
        )
        run.tell(line, f"fileinto {at.mailbox}")
        run.act(action, keeps=keeps)

    return fileinto


EXTENSIONS = (
    Extension(
        "",
        commands=(
            Command("keep", _keep),
            Command("discard", _discard),
            Command("redirect", _redirect, (Slot("address", STRING),)),
        ),
    ),
    Extension("fileinto", commands=(Command("fileinto", _fileinto, (Slot("mailbox", STRING),)),)),
    Extension("copy", tags={"fileinto": (Row("copy"),), "redirect": (Row("copy"),)}),
)
