"""Arguments of MAIL and RCPT: the path and the parameters of ESMTP, or the reply that refuses them. Pure.

Functions take what they know out of ``parameters``; what is left in the end is unknown.
"""

from __future__ import annotations

from storage.dsn import MessageDsn, RecipientDsn

from . import replies
from .grammar import (
    BadSyntax,
    Path,
    parse_parameters,
    parse_path,
    take_message_dsn,
    take_recipient_dsn,
)
from .replies import Reply

Parameters = dict[str, str | None]
_BODY_TYPES = frozenset({"7BIT", "8BITMIME", "BINARYMIME"})


class Refused(Exception):
    """The command gets this reply."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply


def path(argument: str, prefix: str, refusal: Reply) -> tuple[Path, Parameters]:
    """The path behind ``FROM:`` or ``TO:``, and the parameters behind it."""
    argument = argument.lstrip(" ")
    if argument[: len(prefix)].upper() != prefix:
        raise Refused(replies.BAD_SYNTAX)
    try:
        found, rest = parse_path(argument[len(prefix) :])
    except BadSyntax:
        raise Refused(refusal) from None
    try:
        return found, parse_parameters(rest)
    except BadSyntax:
        raise Refused(replies.BAD_SYNTAX) from None


def size(parameters: Parameters) -> int | None:
    """RFC 1870 §3."""
    if "SIZE" not in parameters:
        return None
    value = parameters.pop("SIZE") or ""
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise Refused(replies.BAD_PARAMETER)
    return int(value)


def body(parameters: Parameters) -> str:
    """RFC 6152 §2, RFC 3030 §3."""
    if "BODY" not in parameters:
        return "7BIT"
    value = (parameters.pop("BODY") or "").upper()
    if value not in _BODY_TYPES:
        raise Refused(replies.BAD_PARAMETER)
    return value


def flag(parameters: Parameters, key: str) -> bool:
    if key not in parameters:
        return False
    if parameters.pop(key) is not None:
        raise Refused(replies.BAD_PARAMETER)
    return True


def message_dsn(parameters: Parameters) -> MessageDsn:
    """RET and ENVID (RFC 3461 §4.3, §4.4)."""
    try:
        return take_message_dsn(parameters)
    except BadSyntax:
        raise Refused(replies.BAD_PARAMETER) from None


def recipient_dsn(parameters: Parameters, *, has_smtputf8: bool) -> RecipientDsn:
    """NOTIFY and ORCPT (RFC 3461 §4.1, §4.2)."""
    try:
        return take_recipient_dsn(parameters, has_smtputf8=has_smtputf8)
    except BadSyntax:
        raise Refused(replies.BAD_PARAMETER) from None
