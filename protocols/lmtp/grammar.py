"""Arguments of LMTP commands: paths (RFC 5321 §4.1.2, RFC 6531 §3.3) and ESMTP parameters.

Decisions: source routes are parsed and ignored (RFC 5321 §4.1.1.3). Spaces between the colon and the path are
accepted, as many clients send them. A local part may be longer than 64 octets, because SRS makes such.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocols.xtext import BadText, decode_xtext
from storage.addresses import MAX_ADDRESS_CHARS
from storage.dsn import MessageDsn, RecipientDsn, notify_from

_ATEXT = r"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]"
_DOT_STRING = rf"{_ATEXT}+(?:\.{_ATEXT}+)*"
_QUOTED = r'"(?:[^\x00-\x1f\x7f"\\]|\\[\x20-\x7e])*"'
_LABEL = r"[^\x00-\x2c\x2e\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7f]+"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[^\x00-\x20\x5b-\x5d\x7f]+\])"
_PATH = re.compile(
    rf"<(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?(?P<mailbox>(?P<local>{_DOT_STRING}|{_QUOTED})(?:@(?P<domain>{_DOMAIN}))?)>"
)
_PARAMETER = re.compile(r"(?P<key>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[^\x00-\x20=\x7f]+))?")
_HELO_NAME = re.compile(r"[\x21-\x7e]{1,255}")
# RFC 3461 §4.2, §4.4; RFC 6533 §3 has the forms of utf-8 addresses.
_ORCPT = re.compile(r"(?P<type>[A-Za-z0-9-]{1,64});(?P<address>.+)")
_UTF8_ADDRESS = re.compile(
    r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]|\\x\{[0-9A-F]{2,6}\}|[^\x00-\xa0])+", re.ASCII
)
MAX_ENVID_CHARS = 100
MAX_ORCPT_CHARS = 500
_CHUNK = re.compile(r"(?P<size>[0-9]{1,20})(?P<last>\s+LAST)?", re.IGNORECASE)


class BadSyntax(ValueError):
    """The text is not what the grammar wants."""


@dataclass(frozen=True, slots=True)
class Path:
    """An address of the envelope.

    ``raw`` is the mailbox as written, for trace headers; ``address`` has its local part unquoted (look-ups).
    Both are empty for the null reverse-path.
    """

    raw: str
    address: str

    @property
    def is_ascii(self) -> bool:
        return self.raw.isascii()


NULL_PATH = Path("", "")


def parse_path(text: str) -> tuple[Path, str]:
    """A path at the start of ``text`` and what follows it. Raises BadSyntax."""
    text = text.lstrip(" ")
    if text.startswith("<>"):
        return NULL_PATH, text[2:]
    match = _PATH.match(text)
    if match is None or len(match["mailbox"]) > MAX_ADDRESS_CHARS:
        raise BadSyntax("not a path")
    local, domain = match["local"], match["domain"]
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    address = local if domain is None else f"{local}@{domain}"
    return Path(match["mailbox"], address), text[match.end() :]


def parse_parameters(text: str) -> dict[str, str | None]:
    """``KEY=value`` words, keys in upper case. Raises BadSyntax, also for a key that comes twice."""
    if text and not text.startswith(" "):
        raise BadSyntax("no space before the parameters")
    found: dict[str, str | None] = {}
    for word in text.split(" "):
        if not word:
            continue
        match = _PARAMETER.fullmatch(word)
        if match is None or match["key"].upper() in found:
            raise BadSyntax("bad parameter")
        found[match["key"].upper()] = match["value"]
    return found


def parse_helo_name(text: str) -> str:
    """The name that the client gives itself; kept for the trace, believed by nobody. Raises BadSyntax."""
    name = text.strip(" ")
    if not _HELO_NAME.fullmatch(name):
        raise BadSyntax("not a name")
    return name


def parse_chunk(text: str) -> tuple[int, bool]:
    """Size in octets and whether it is the last (RFC 3030 §2). Raises BadSyntax."""
    match = _CHUNK.fullmatch(text.strip(" "))
    if match is None:
        raise BadSyntax("not a chunk size")
    return int(match["size"]), match["last"] is not None


def take_message_dsn(parameters: dict[str, str | None]) -> MessageDsn:
    """RET and ENVID, which are removed from ``parameters``. Raises BadSyntax."""
    ret = _taken(parameters, "RET").upper()
    envid = _taken(parameters, "ENVID")
    if ret not in ("", "FULL", "HDRS"):
        raise BadSyntax("RET")
    if len(envid) > MAX_ENVID_CHARS or not _is_printable(envid):
        raise BadSyntax("ENVID")
    return MessageDsn(ret, envid)


def take_recipient_dsn(parameters: dict[str, str | None], *, has_smtputf8: bool) -> RecipientDsn:
    """NOTIFY and ORCPT, which are removed from ``parameters``. Raises BadSyntax."""
    words, orcpt = _taken(parameters, "NOTIFY"), _taken(parameters, "ORCPT")
    try:
        notify = notify_from(words)
    except ValueError:
        raise BadSyntax("NOTIFY") from None
    if orcpt and not _is_original_recipient(orcpt, has_smtputf8=has_smtputf8):
        raise BadSyntax("ORCPT")
    return RecipientDsn(notify, orcpt)


def _taken(parameters: dict[str, str | None], key: str) -> str:
    if key not in parameters:
        return ""
    value = parameters.pop(key)
    if not value:
        raise BadSyntax(f"{key} needs a value")
    return value


def _is_printable(xtext: str) -> bool:
    """RFC 3461 §4.4: what it stands for is printable ASCII."""
    return _is_text(xtext) and decode_xtext(xtext).isascii()


def _is_text(xtext: str) -> bool:
    try:
        decode_xtext(xtext)
    except BadText:
        return False
    return True


def _is_original_recipient(text: str, *, has_smtputf8: bool) -> bool:
    match = _ORCPT.fullmatch(text)
    if match is None or len(text) > MAX_ORCPT_CHARS:
        return False
    address = match["address"]
    if match["type"].lower() == "utf-8" and _UTF8_ADDRESS.fullmatch(address):
        return address.isascii() or has_smtputf8
    # what it stands for may be UTF-8, though it should be ASCII: Postfix passes on what it was given
    return _is_text(address)
