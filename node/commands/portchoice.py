"""Which ports a first start takes, as the command line says it."""

from __future__ import annotations

import re
from typing import Final

import click

NAMES: Final = ("standard", "high", "auto")
_RANGE: Final = re.compile(r"(\d{1,5})-(\d{1,5})")


class PortChoice(click.ParamType[str]):
    """``standard``, ``high``, ``auto``, or any of a range."""

    name = "|".join((*NAMES, "FROM-TO"))

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in NAMES:
            return value
        found = _RANGE.fullmatch(value)
        if found is None:
            self.fail(
                f"{value!r} is none of {', '.join(NAMES)}, and no range such as 20000-20999", param, ctx
            )
        first, last = int(found[1]), int(found[2])
        if not 0 < first <= last < 65536:
            self.fail(f"{value!r}: ports go from 1 to 65535, the lower one first", param, ctx)
        return value
