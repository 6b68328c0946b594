"""Copies of mail of our own for a mailbox of the account (RFC 8580). Pure."""

from __future__ import annotations

from protocols.sieve.outcome import Copy, FileInto, Rewritten, Rule

from .composing import Letter


def filed(rule: Rule, copy: Copy | None, letter: Letter) -> tuple[FileInto, ...]:
    """What ``Sent.copies`` wants."""
    if copy is None:
        return ()
    return (
        FileInto(
            rule,
            copy.mailbox,
            copy.flags,
            copy.create,
            copy.special_use,
            copy.mailbox_id,
            Rewritten(letter.header, letter.body),
        ),
    )
