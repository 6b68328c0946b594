"""Addresses as arguments of commands: made canonical, refused with a reason."""

from __future__ import annotations

import click

from storage.addresses import DETAIL_SEPARATOR, BadAddress, canonical, split_detail


def address_argument(value: str) -> str:
    """A click type: an address as it is stored, canonical and without detail."""
    try:
        address = canonical(value)
    except BadAddress as error:
        raise click.BadParameter(str(error)) from error
    plain, detail = split_detail(address)
    if detail:
        raise click.BadParameter(
            f"{address} has a detail after {DETAIL_SEPARATOR!r}: mail to it reaches {plain} anyway"
        )
    return plain
