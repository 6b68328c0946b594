"""Renders ``config.toml.example`` from the option table: every option, its default and what it does.

Prose begins with ``# ``, a setting that is commented out with ``#`` alone. Options of servers stand at the
first type they apply to.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from .features import TYPE_FEATURES, is_active
from .model import Config
from .option import Option, Row, Section, rows
from .server import Server
from .tomltext import toml_value

WIDTH = 100
RULER = "# " + "-" * (WIDTH - 2)
HEAD = """\
Configuration of Sora.

Settings that begin with "#" directly are commented out and show their default. To change one, remove the
"#", also that of the [table] line above it.

Durations: "30s", "5m", "14d", "1h30m". Sizes: "64kb", "50mb", "10gb" (1kb is 1,024 bytes). Addresses: ":143"
is every address of the machine, "10.0.0.1:143" and "[::1]:143" are one.

Any text may refer to the environment: password = "${DB_PASSWORD}" ("$${" is a plain "${"). Every password,
token and key may also be read from a file: password_file = "/run/secrets/db_password".

Check the file with: sora-node config check --config config.toml"""
# The port shown for each type, and whether its block is in use.
SHOWN_SERVERS = {
    "imap": (":143", True),
    "lmtp": (":24", True),
    "pop3": (":110", True),
    "managesieve": (":4190", False),
    "imap_proxy": (":1143", False),
    "lmtp_proxy": (":1024", False),
    "pop3_proxy": (":1110", False),
    "managesieve_proxy": (":14190", False),
    "metrics": (":9090", False),
    "http_api": (":8080", False),
    "http_user_api": (":8081", False),
    "user_api_proxy": (":8082", False),
}
SERVERS_DOC = (
    "Listening servers, one [[servers]] block each; there may be several of one type. A block may also be"
    " written as a table, [servers.imap], and then needs no type. Tables such as [servers.auth_rate_limit]"
    " belong to the block above them. Options are explained at the first type they apply to."
)


def render() -> str:
    out = [*_prose(HEAD), ""]
    for row in rows(Config):
        if isinstance(row, Option):
            out += _option(row, in_use=True)
    for row in rows(Config):
        if isinstance(row, Section):
            out += _servers(row) if row.of is Server else _section(row, row.key)
    return "\n".join(out).rstrip() + "\n"


def _section(row: Section, path: str) -> Iterator[str]:
    if "." not in path:
        yield RULER
    yield from _prose(row.doc + _later(row))
    in_use = _in_use(row, path)
    yield _header(row, path, in_use=in_use)
    yield ""
    for inner in rows(row.of):
        if isinstance(inner, Option):
            yield from _option(inner, in_use=in_use)
    for inner in rows(row.of):
        if isinstance(inner, Section):
            yield from _section(inner, f"{path}.{inner.key}")


def _header(row: Section, path: str, *, in_use: bool) -> str:
    return ("" if in_use else "#") + (f"[[{path}]]" if row.repeated else f"[{path}]")


def _in_use(row: Section, path: str) -> bool:
    """Whether the header stands without "#": of tables that do nothing by merely being there."""
    keys = {inner.key for inner in rows(row.of)}
    return (
        path in ("database.write", *(each.key for each in rows(Config)))
        and "enabled" not in keys
        and is_active(row.feature)
        and not row.optional
    )


def _servers(row: Section) -> Iterator[str]:
    yield RULER
    yield from _prose(SERVERS_DOC)
    yield ""
    shown: set[str] = set()
    for server_type, (addr, in_use) in SHOWN_SERVERS.items():
        note = "" if is_active(TYPE_FEATURES[server_type]) else " Not active yet in this version."
        yield from _prose(f"--- {server_type} ---{note}")
        yield _header(row, row.key, in_use=in_use)
        yield from _server(server_type, addr, shown, in_use=in_use)


def _server(server_type: str, addr: str, shown: set[str], *, in_use: bool) -> Iterator[str]:
    """One block: its living lines, then what no earlier block has shown."""
    special = {"type": server_type, "addr": addr}
    for row in rows(Server):
        if isinstance(row, Option) and row.live and _applies(row, server_type):
            if f"servers.{row.key}" not in shown:
                yield from _prose(_doc(row))
            value = special.get(row.key, row.default if row.shown is None else row.shown)
            yield ("" if in_use else "#") + f"{row.key} = {toml_value(value)}"
            shown.add(f"servers.{row.key}")
    yield ""
    yield from _new_rows(Server, "servers", server_type, shown)


def _new_rows(of: type, path: str, server_type: str, shown: set[str]) -> Iterator[str]:
    for row in rows(of):
        here = f"{path}.{row.key}"
        if isinstance(row, Option) and _applies(row, server_type) and here not in shown:
            shown.add(here)
            yield from _option(row, in_use=False)
    for row in rows(of):
        here = f"{path}.{row.key}"
        if isinstance(row, Section) and _applies(row, server_type):
            inner = list(_new_rows(row.of, here, server_type, shown))
            if inner:
                yield from _prose(row.doc + _later(row))
                yield _header(row, here, in_use=False)
                yield ""
                yield from inner


def _applies(row: Row, server_type: str) -> bool:
    return not row.types or server_type in row.types


def _option(row: Option, *, in_use: bool) -> Iterator[str]:
    is_live = row.live and in_use
    yield from _prose(_doc(row))
    value = row.shown if is_live and row.shown is not None else row.default
    yield ("" if is_live else "#") + f"{row.key} = {toml_value(value)}"
    yield ""


def _doc(row: Option) -> str:
    text = row.doc
    if row.shown is not None and not row.live:
        text += f" Example: {toml_value(row.shown)}."
    return text + _later(row)


def _later(row: Row) -> str:
    return "" if is_active(row.feature) else " (Not active yet.)"


def _prose(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield "#"
        yield from (f"# {each}" for each in textwrap.wrap(" ".join(paragraph.split("\n")), WIDTH - 2))
