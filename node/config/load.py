"""From the text of a file to a ``Config`` or every reason why not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from . import rules, serverrules
from .dialects import reshape
from .document import Entry, read
from .finding import Facts, Finding
from .model import Config
from .problem import SEVERITIES, Loaded, Problem
from .server import Server
from .walk import Walk


def load(
    text: str, *, source: str, environment: Mapping[str, str], read_file: Callable[[str], str]
) -> Loaded:
    """Read a configuration; never raises for anything in ``text``.

    ``source`` names the file for people. ``read_file`` returns the text of a secret's file; its OSError and
    ValueError (a file that is not UTF-8) become problems. Problems come in the order of the file.
    """
    root = read(text)
    if isinstance(root, Problem):
        return Loaded(None, (root,), source)
    walk = Walk(environment, read_file)
    walk.problems += reshape(root)
    config = walk.section(Config, root)
    config = dataclasses.replace(config, servers=_named(config.servers))
    walk.problems += walk.announcements()
    walk.problems += _rule_problems(config, walk)
    problems = tuple(sorted(dict.fromkeys(walk.problems), key=_order))
    refused = any(problem.severity == "error" for problem in problems)
    return Loaded(None if refused else _without_own_peer(config), problems, source)


def _order(problem: Problem) -> tuple[int, int]:
    return problem.line, SEVERITIES.index(problem.severity)


def _without_own_peer(config: Config) -> Config:
    cluster = dataclasses.replace(config.cluster, peers=config.cluster.other_peers)
    return dataclasses.replace(config, cluster=cluster)


def _named(servers: tuple[Server, ...]) -> tuple[Server, ...]:
    """A server without a name is called by its type, from the second on with a number."""
    taken = {server.name for server in servers}
    seen: Counter[str] = Counter()
    named = []
    for server in servers:
        name = server.name
        while not name:
            seen[server.type] += 1
            number = seen[server.type]
            candidate = server.type if number == 1 else f"{server.type}-{number}"
            name = "" if candidate in taken else candidate
        named.append(dataclasses.replace(server, name=name))
    return tuple(named)


def _rule_problems(config: Config, walk: Walk) -> Iterator[Problem]:
    facts = Facts(config, lambda path: path in walk.origins)
    for rule in (*rules.RULES, *serverrules.RULES):
        for finding in rule(facts):
            if finding.path not in walk.failed:  # its own problem is reported; the default says nothing
                yield _place(finding, walk.origins)


def _place(finding: Finding, origins: Mapping[str, Entry]) -> Problem:
    """The key and line as written, or those of the nearest table around it."""
    path, rest = finding.path, ""
    while path and path not in origins:
        path, _, last = path.rpartition(".") if "." in path else ("", "", path)
        rest = f".{last}{rest}"
    entry = origins.get(path) or Entry(None, "", 0)
    key = f"{entry.key}{rest}".strip(".")
    return Problem(finding.severity, key, entry.line, finding.message, finding.suggestion, finding.code)
