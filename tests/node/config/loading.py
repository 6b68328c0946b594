"""Loading text in tests, without a file system or an environment."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent

from node.config import Config, Loaded, Problem, load

# A node that can start: what follows adds to it.
STORAGE = """\
[database.write]
user = "sora"
[s3]
endpoint = "s3.example.com"
access_key = "AKIA1"
secret_key = "wJalr"
bucket = "mail"
"""


def load_text(
    text: str, environment: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> Loaded:
    known = files or {}

    def read_file(name: str) -> str:
        if name not in known:
            raise FileNotFoundError(2, "No such file or directory", name)
        return known[name]

    return load(text, source="config.toml", environment=environment or {}, read_file=read_file)


def config_of(text: str, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration; fails the test with its errors when there is none."""
    loaded = load_text(dedent(text), environment)
    errors = [str(problem) for problem in loaded.problems if problem.severity == "error"]
    assert loaded.config is not None, errors
    return loaded.config


def node_with(text: str) -> Config:
    """A configuration that can start, with ``text`` added to it."""
    return config_of(STORAGE + dedent(text))


def problems_of(text: str) -> list[Problem]:
    return list(load_text(dedent(text)).problems)


def brief(problem: Problem) -> tuple[str, str, str]:
    return problem.severity, problem.code, problem.key
