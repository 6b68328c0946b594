"""What commands tell of messages that they brought or changed, for the mailbox's script (RFC 6785 §2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from protocols.filing import flag_names
from protocols.messageevents import Cause, Happened, Touched
from storage.model import Flags, Mailbox, MessageState, Uid

if TYPE_CHECKING:
    from .session import ImapSession

NO_FLAGS = Flags()


async def is_watched(session: ImapSession, mailbox: Mailbox) -> bool:
    """Ask before the change: what a message was like cannot be known afterwards."""
    events = session.services.events
    return events is not None and await events.is_watched(mailbox.account_id, mailbox.id)


def flags_before(session: ImapSession, uids: Iterable[Uid]) -> dict[Uid, Flags]:
    """Of messages of the selected mailbox, as its view has them now."""
    found = {}
    for uid in uids:
        state = session.view.row(uid)
        if state is not None:
            found[uid] = state.flags
    return found


async def arrived(
    session: ImapSession, cause: Cause, mailbox: Mailbox, messages: Iterable[tuple[Uid, Flags]]
) -> None:
    await _tell(session, cause, mailbox, tuple(Touched(uid, flags) for uid, flags in messages))


async def flagged(
    session: ImapSession,
    mailbox: Mailbox,
    changed: Sequence[MessageState],
    before: Mapping[Uid, Flags],
    meant: Flags = NO_FLAGS,
) -> None:
    """``meant``: the flags of the command, for messages of which it is not known what they had."""
    names: dict[tuple[Flags, Flags], tuple[str, ...]] = {}  # most messages share what happened to them
    messages = []
    for state in changed:
        was = before.get(state.uid)
        if was is None:
            messages.append(Touched(state.uid, state.flags, flag_names(meant)))
            continue
        pair = (was, state.flags)
        if pair not in names:
            names[pair] = flag_names(_difference(*pair))
        messages.append(Touched(state.uid, state.flags, names[pair]))
    await _tell(session, Cause.FLAG, mailbox, tuple(messages))


def without(flags: Flags, others: Flags) -> Flags:
    """Those of ``flags`` that are not among ``others``; keywords compare without case."""
    folded = {name.lower() for name in others.keywords}
    keywords = frozenset(name for name in flags.keywords if name.lower() not in folded)
    return Flags(flags.system & ~others.system, keywords)


def _difference(one: Flags, other: Flags) -> Flags:
    """Those that only one of them has."""
    left, right = without(one, other), without(other, one)
    return Flags(left.system | right.system, left.keywords | right.keywords)


async def _tell(session: ImapSession, cause: Cause, mailbox: Mailbox, messages: tuple[Touched, ...]) -> None:
    events, user = session.services.events, session.user
    if events is not None and messages:
        await events.take(
            Happened(
                mailbox.account_id,
                user.address,
                user.primary_address,
                mailbox.id,
                mailbox.name,
                cause,
                messages,
            )
        )
