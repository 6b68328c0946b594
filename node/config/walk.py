"""Reads a tree of entries by the option table: values, defaults, and every problem at once.

Aliases are resolved before a table is read. Text may refer to the environment (``${NAME}``; ``$${`` is a
plain ``${``), and a secret may come from a file named by ``KEY_file``. An option that fails keeps its
default, so that the rules that look at the whole still run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from node.units import UnitError

from .dialects import twice
from .document import Entry, plain
from .features import TYPE_FEATURES, UNSAFE_WITHOUT, is_active
from .model import Config
from .option import Option, Row, Section, every_row, rows
from .placeholder import is_placeholder, looks_unedited
from .problem import Code, Problem, Severity
from .server import Server
from .servertypes import TYPE_ALIASES
from .suggest import nearest

REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A setting whose feature is not active; those of one group are announced together."""

    group: str
    feature: str
    entry: Entry
    consequence: str = ""


@dataclass(slots=True)
class Walk:
    environment: Mapping[str, str]
    read_file: Callable[[str], str]
    problems: list[Problem] = field(default_factory=list)
    # By canonical path (``servers[0].addr``): where a value was written.
    origins: dict[str, Entry] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)  # canonical paths that kept their default
    waiting: list[Waiting] = field(default_factory=list)

    def section(self, of: type, table: Entry, path: str = "", server_type: str = "") -> Any:
        """An instance of the section, all of its keys consumed from ``table``."""
        table_rows = rows(of)
        for row in table_rows:
            self._resolve_aliases(row, table)
        values: dict[str, Any] = {}
        for row in table_rows:
            here = f"{path}.{row.key}".strip(".")
            if isinstance(row, Option):
                found, value = self._option(row, table, here, server_type)
            else:
                found, value = self._subsection(row, table, here, server_type)
            if found:
                values[row.name] = value
        self._unknown(table, of)
        return of(**values)

    # --- options ---

    def _option(self, row: Option, table: Entry, path: str, server_type: str) -> tuple[bool, Any]:
        entry = self._from_file(row, table, path) or table.value.pop(row.key, None)
        if entry is None:
            if row.required:
                self.missing(table, row.key, row.shown)
                self.failed.add(path)
            default = row.by_type.get(server_type)
            return default is not None, default if default is None else row.kind.parse(default)
        self.origins[path] = entry
        if not self._applies(row, entry, server_type):
            return False, None
        value = self._parse(row, entry)
        if value is None:
            self.failed.add(path)
            return False, None
        if _asks(row, value[0]):
            self._wait(row.feature, table.key, entry)
        return True, value[0]

    def _parse(self, row: Option, entry: Entry) -> tuple[Any] | None:
        """The value in a tuple; None after a problem."""
        if entry.is_table:
            self.error(entry, f"expected {row.kind.label}, found a table")
            return None
        try:
            raw = self._expand(plain(entry.value))
            if self._is_unedited(row, raw, entry):
                return None
            return (row.kind.parse(raw),)
        except UnitError as error:
            guess = nearest(raw, row.kind.choices) if isinstance(raw, str) and row.kind.choices else ""
            self.error(entry, str(error), f'did you mean "{guess}"?' if guess else error.suggestion)
        except LookupError as error:
            self.error(entry, f"the environment variable {error.args[0]} is not set", code="unreadable")
        return None

    def _is_unedited(self, row: Option, raw: object, entry: Entry) -> bool:
        texts = [text for text in (raw if isinstance(raw, list) else [raw]) if isinstance(text, str)]
        if row.kind.secret or row.credential:
            if any(is_placeholder(text) for text in texts):
                self.error(entry, "still the placeholder of an example", "set the real value", "placeholder")
                return True
        elif any(looks_unedited(text) for text in texts):
            self.report(
                "warning",
                entry.key,
                entry.line,
                "looks like the placeholder of an example",
                "",
                "placeholder",
            )
        return False

    def _expand(self, raw: Any) -> Any:
        """Put environment variables in place; raises KeyError with the name of one that is missing."""
        if isinstance(raw, list):
            return [self._expand(each) for each in raw]
        if isinstance(raw, str) and "${" in raw:
            return REFERENCE.sub(self._variable, raw)
        return raw

    def _variable(self, match: re.Match[str]) -> str:
        return self.environment[match[1]] if match[1] else "${"

    def _from_file(self, row: Option, table: Entry, path: str) -> Entry | None:
        """The content of the file that ``KEY_file`` names, for secrets."""
        if not (row.kind.secret or row.credential):
            return None
        name = table.value.pop(f"{row.key}_file", None)
        if name is None:
            return None
        self.failed.add(path)
        if row.key in table.value:
            self.error(name, f"{row.key} is given too", "remove one of the two", "conflict")
            return None
        if not isinstance(name.value, str):
            self.error(name, "expected a path")
            return None
        try:
            text = self.read_file(self._expand(name.value)).strip()
        except OSError as error:
            self.error(name, f"cannot be read: {error.strerror or type(error).__name__}", code="unreadable")
        except LookupError as error:
            self.error(name, f"the environment variable {error.args[0]} is not set", code="unreadable")
        except ValueError:
            self.error(name, "is not a text file, or not a path", code="unreadable")
        else:
            self.failed.discard(path)
            # "$" in a file is no reference to the environment
            return Entry(text.replace("${", "$${"), name.key, name.line)
        return None

    # --- sections ---

    def _subsection(self, row: Section, table: Entry, path: str, server_type: str) -> tuple[bool, Any]:
        entry = table.value.pop(row.key, None)
        if entry is None:
            return False, None
        self.origins[path] = entry
        if not self._applies(row, entry, server_type):
            return False, None
        if row.repeated:
            return True, self._elements(row, entry, path, server_type)
        if not entry.is_table:
            self.error(entry, "expected a table", f"write [{entry.key}]")
            self.failed.add(path)
            return False, None
        given = set(entry.value)
        value = self.section(row.of, entry, path, server_type)
        switch = getattr(value, "enabled", None)
        if switch is False and given and "enabled" not in given:
            self.report(
                "warning",
                entry.key,
                entry.line,
                "is configured but not enabled",
                "add enabled = true",
                "unused",
            )
        if given and switch is not False:
            self._wait(row.feature, entry.key, entry)
        return True, value

    def _elements(self, row: Section, entry: Entry, path: str, server_type: str) -> tuple[Any, ...]:
        if entry.value == []:
            return ()
        if not entry.is_tables:
            self.error(entry, "expected an array of tables", f"write [[{entry.key}]]")
            self.failed.add(path)
            return ()
        values = []
        for index, element in enumerate(entry.value):
            here = f"{path}[{index}]"
            self.origins[here] = element
            waiting_before = len(self.waiting)
            of_type = server_type or _server_type(element)
            value = self.section(row.of, element, here, of_type)
            self._wait(row.feature, entry.key, element)
            if isinstance(value, Server):
                self._server(value.start, of_type, element, waiting_before)
            values.append(value)
        return tuple(values)

    def _server(self, start: bool, server_type: str, element: Entry, waiting_before: int) -> None:
        """A server that does not run has nothing to wait for but itself."""
        feature = TYPE_FEATURES.get(server_type, "")
        if not start or not is_active(feature):
            del self.waiting[waiting_before:]
        if start:
            self._wait(feature, element.key, element, f"; {server_type} servers are not started")

    def _applies(self, row: Row, entry: Entry, server_type: str) -> bool:
        if not row.types or not server_type or server_type in row.types:
            return True
        self.report("warning", entry.key, entry.line, f"has no effect on {server_type}", "", "unused")
        return False

    # --- keys ---

    def _resolve_aliases(self, row: Row, table: Entry) -> None:
        for alias in row.aliases:
            *parents, last = alias.split(".")
            holder: Entry | None = table
            for parent in parents:
                holder = holder.value.get(parent) if holder is not None and holder.is_table else None
            if holder is None or not holder.is_table or last not in holder.value:
                continue
            entry = holder.value.pop(last)
            kept = table.value.setdefault(row.key, entry)
            if kept is not entry:
                self.problems.append(twice(entry, kept))

    def _unknown(self, table: Entry, of: type) -> None:
        known = [name for row in rows(of) for name in (row.key, *row.aliases)]
        for key, entry in table.value.items():
            guess = nearest(key, known)
            hint = f'did you mean "{guess}"?' if guess else _elsewhere(key)
            self.report("warning", entry.key, entry.line, "unknown key, ignored", hint, "unknown")

    # --- problems ---

    def _wait(self, feature: str, group: str, entry: Entry, consequence: str = "") -> None:
        if not is_active(feature):
            self.waiting.append(Waiting(group, feature, entry, consequence))

    def announcements(self) -> Iterator[Problem]:
        """One problem for each table and feature that its settings wait for."""
        groups: dict[tuple[str, str], list[Waiting]] = {}
        for each in self.waiting:
            groups.setdefault((each.group, each.feature), []).append(each)
        for (_, feature), (first, *others) in groups.items():
            harm = UNSAFE_WITHOUT.get(feature)
            message = "not active yet in this version"
            message += f"; without it {harm}" if harm else first.consequence
            if others:
                message += f", nor {', '.join(each.entry.key.rpartition('.')[2] for each in others)}"
            severity: Severity = "error" if harm else "notice"
            yield Problem(severity, first.entry.key, first.entry.line, message, "", "inactive")

    def missing(self, table: Entry, key: str, shown: object = None) -> None:
        hint = "" if shown is None else f'for example {key} = "{shown}"'
        self.report(
            "error", f"{table.key}.{key}".strip("."), table.line, "required, but missing", hint, "missing"
        )

    def error(self, entry: Entry, message: str, suggestion: str = "", code: Code = "value") -> None:
        self.report("error", entry.key, entry.line, message, suggestion, code)

    def report(
        self,
        severity: Severity,
        key: str,
        line: int,
        message: str,
        suggestion: str = "",
        code: Code = "value",
    ) -> None:
        self.problems.append(Problem(severity, key, line, message, suggestion, code))


def _asks(row: Option, value: object) -> bool:
    """Whether a value wants its feature: what is off, empty or a switch at its default does not."""
    return value != row.default if isinstance(value, bool) else bool(value)


def _server_type(element: Entry) -> str:
    """The type as far as it is one, to choose defaults before the type itself is checked."""
    entry = element.value.get("type")
    name = entry.value.lower() if entry is not None and isinstance(entry.value, str) else ""
    name = TYPE_ALIASES.get(name, name)
    return name if name in TYPE_FEATURES else ""


def _elsewhere(key: str) -> str:
    """Where a key that is unknown here would be known."""
    places = sorted(
        path.rpartition(".")[0] for path, row in every_row(Config) if row.key == key and "." in path
    )
    return f"it belongs to [{places[0].replace('[]', '')}]" if len(places) == 1 else ""
