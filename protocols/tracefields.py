"""The trace fields that a delivery puts before a message (RFC 5321 §4.4). Pure.

``for`` stands in Received only where there is one recipient: recipients do not learn of each other.
"""

from __future__ import annotations

import re
from email.utils import format_datetime

from .envelope import Envelope

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE_IN_TRACE = re.compile(r"[^\x21-\x7e]|[()<>\\\"]")


def trace_headers(envelope: Envelope, address: str, *, is_only_recipient: bool) -> bytes:
    """Return-Path, Delivered-To and Received (RFC 5321 §4.4) of one recipient's message.

    Everything that came from the peer is stripped of what could start another header field.
    """
    to = _CONTROLS.sub("", address)
    text = f"Return-Path: <{_CONTROLS.sub('', envelope.reverse_path)}>\r\nDelivered-To: {to}\r\n"
    return text.encode("utf-8", "replace") + received_field(envelope, to if is_only_recipient else "")


def received_field(envelope: Envelope, to: str = "") -> bytes:
    """``to``: the recipient to be named in it, if any."""
    helo = _UNSAFE_IN_TRACE.sub("?", envelope.helo) or "unknown"
    name = _UNSAFE_IN_TRACE.sub("?", envelope.client_name)
    client = f"[{envelope.client_ip}]" if envelope.client_ip else "local"
    client = f"{name} {client}" if name else client
    by_for = f"\r\n\tfor <{to}>" if to else ""
    text = (
        f"Received: from {helo} ({client})\r\n"
        f"\tby {envelope.hostname} with {envelope.protocol} id {envelope.session_id}{by_for};\r\n"
        f"\t{format_datetime(envelope.received_at)}\r\n"
    )
    return text.encode("utf-8", "replace")
