"""Fixtures of every test. A missing PostgreSQL is announced at the end of the run, with a count."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support.postgres import database, pg_database, pg_server, pg_settings

__all__ = ["database", "pg_database", "pg_server", "pg_settings"]

# The same examples in each run: what passed yesterday passes today. SORA_NEW_EXAMPLES in the environment
# makes new ones, to look for what nobody thought of. A busy machine may take longer for an example, or to
# make it, than any limit; what is slow is measured elsewhere.
settings.register_profile(
    "sora",
    deadline=None,
    derandomize=not os.environ.get("SORA_NEW_EXAMPLES"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sora")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", ())
        if "no PostgreSQL" in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.section("POSTGRESQL DID NOT RUN", sep="!", red=True)
        terminalreporter.line(f"{len(skipped)} tests that need it were skipped; this run proves little.")
