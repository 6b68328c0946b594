"""Mail addresses as keys: one canonical form for storing, looking up and counting.

Lower case in both halves (the local part by policy: mailboxes that differ in case only are a trap for
users), A-label domains decoded to U-labels, Unicode in NFC. The detail of plus-addressing is split off
by ``split_detail``; a canonical address never has one.
"""

from __future__ import annotations

import re
import unicodedata

MAX_ADDRESS_CHARS = 320  # RFC 5321 §4.5.3.1: 64 + 1 + 255; local parts up to 256 occur with SRS
DETAIL_SEPARATOR = "+"
_SPACE_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadAddress(ValueError):
    """Not an address; the message says why and is fit for users."""


def canonical(address: str) -> str:
    """The key of ``address``. Raises BadAddress."""
    text = unicodedata.normalize("NFC", address.strip())
    local, at, domain = text.rpartition("@")
    domain = domain.rstrip(".")
    if not at or not local or not domain:
        raise BadAddress(f"{address!r} is not an address: it needs the form user@domain")
    if len(text) > MAX_ADDRESS_CHARS:
        raise BadAddress(f"address longer than {MAX_ADDRESS_CHARS} characters")
    if _SPACE_OR_CONTROL.search(text):
        raise BadAddress("address contains a space or a control character")
    if _SURROGATE.search(text):
        raise BadAddress("address is not valid Unicode")
    if "xn--" in domain.lower():
        try:
            domain = domain.encode("ascii").decode("idna")
        except UnicodeError as error:
            raise BadAddress(f"domain {domain!r} is not a valid international domain name") from error
    return unicodedata.normalize("NFC", f"{local.lower()}@{domain.lower()}")


def split_detail(address: str) -> tuple[str, str]:
    """``user+detail@domain`` to (``user@domain``, ``detail``); detail is empty when there is none.

    RFC 5233 §4 leaves the separator to the site; ours is ``+``. A local part that begins with the
    separator has no detail.
    """
    local, _, domain = address.rpartition("@")
    user, separator, detail = local.partition(DETAIL_SEPARATOR)
    if not separator or not user:
        return address, ""
    return f"{user}@{domain}", detail
