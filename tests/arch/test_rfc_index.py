"""Every RFC that the code cites stands in the index, spelled one way, and nothing in the index is uncited."""

from __future__ import annotations

import re
from functools import cache

from .test_layers import ROOT, sources

INDEX = ROOT / "docs" / "rfc-index.tsv"
CITATION = re.compile(r"\bRFC[ -]?(\d{3,5})\b")


def index() -> dict[int, list[str]]:
    rows = [line.split("\t") for line in INDEX.read_text().splitlines() if line and not line.startswith("#")]
    return {int(row[0]): row for row in rows}


@cache
def cited() -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path in sources():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for match in CITATION.finditer(line):
                found.setdefault(int(match[1]), []).append(f"{path.relative_to(ROOT)}:{number}")
    return found


def test_cited_rfcs_are_in_the_index() -> None:
    missing = {rfc: where[0] for rfc, where in cited().items() if rfc not in index()}
    assert not missing, f"add a row to {INDEX.name}: {missing}"


def test_index_rows_are_whole_and_claim_only_what_is_cited() -> None:
    for rfc, row in index().items():
        assert len(row) == 4, f"RFC {rfc}: number, title, status, where"
        assert row[2] in {"yes", "partial", "planned"}, row
        if row[2] != "planned":
            assert rfc in cited(), f"RFC {rfc} is claimed as {row[2]} and no line of code cites it"
