"""Brings the accepted spellings of a configuration into the one form the option table describes.

Names that merely differ are ``aliases`` in the table. Here is what moves between tables: flat ``[database]``,
``[[database.read_endpoints]]``, ``[servers.imap]`` and ``[[server]]``, ``log_output``, PROXY settings as
single keys. Entries keep the key and line they were written with.
"""

from __future__ import annotations

from collections.abc import Iterator

from .document import Entry, plain
from .option import Option, rows
from .problem import Problem
from .servertypes import SERVER_TYPES, TYPE_ALIASES
from .storage import Endpoint
from .suggest import did_you_mean

PROXY_PROTOCOL_KEYS = {
    "proxy_protocol_timeout": "timeout",
    "proxy_protocol_trusted_proxies": "trusted_proxies",
}
# What a read endpoint takes from the write endpoint unless it says otherwise.
INHERITED_BY_READ = ("port", "user", "password", "password_file", "name", "tls")


def reshape(root: Entry) -> Iterator[Problem]:
    """Changes the tree in place; yields what could not be brought into form."""
    yield from _move(root, "log_output", root, "logging", "output")
    database = root.value.get("database")
    if database is not None and database.is_table:
        yield from _database(database)
    yield from _servers(root)


def _child(parent: Entry, key: str) -> Entry | None:
    """The table of that name, made when absent; None when something else has its name."""
    table: Entry = parent.value.setdefault(key, Entry({}, f"{parent.key}.{key}".strip("."), parent.line))
    return table if table.is_table else None


def _move(source: Entry, key: str, parent: Entry, table: str, new: str) -> Iterator[Problem]:
    """Move ``source.key`` to ``parent.table.new``; what is there already wins, with a warning."""
    home = _child(parent, table) if key in source.value else None
    if home is None:
        return
    moved = source.value.pop(key)
    kept = home.value.setdefault(new, moved)
    if kept is not moved:
        yield twice(moved, kept)


def twice(ignored: Entry, kept: Entry) -> Problem:
    return Problem(
        "warning",
        ignored.key,
        ignored.line,
        f"ignored, as {kept.key} says the same",
        "remove one of the two",
        "conflict",
    )


# --- database -------------------------------------------------------------------------------------


def _endpoint_keys() -> dict[str, str]:
    """Every spelling of an endpoint's keys, and the one in the table."""
    names: dict[str, str] = {}
    for row in rows(Endpoint):
        assert isinstance(row, Option)
        names |= dict.fromkeys((row.key, *row.aliases), row.key)
    return names | {"password_file": "password_file"}


ENDPOINT_KEYS = _endpoint_keys()


def _database(database: Entry) -> Iterator[Problem]:
    for key in [key for key in database.value if key in ENDPOINT_KEYS and key != "query_timeout"]:
        yield from _move(database, key, database, "write", key)
    yield from _read_endpoints(database)
    write, read = database.value.get("write"), database.value.get("read")
    for endpoint in (write, read):
        if endpoint is not None and endpoint.is_table:
            _canonical_keys(endpoint)
            _inherit(endpoint, database, ("query_timeout",))
    if write is not None and read is not None and write.is_table and read.is_table:
        _inherit(read, write, INHERITED_BY_READ)


def _canonical_keys(endpoint: Entry) -> None:
    for key, name in ENDPOINT_KEYS.items():
        if key in endpoint.value and name not in endpoint.value:
            endpoint.value[name] = endpoint.value.pop(key)


def _inherit(heir: Entry, source: Entry, keys: tuple[str, ...]) -> None:
    has_password = "password" in heir.value or "password_file" in heir.value
    for key in keys:
        if key in source.value and not (has_password and key.startswith("password")):
            heir.value.setdefault(key, source.value[key])


def _read_endpoints(database: Entry) -> Iterator[Problem]:
    """``[[database.read_endpoints]]`` (or several ``[[database.read]]``) as one endpoint of many hosts."""
    for key in ("read_endpoints", "read"):
        listed = database.value.get(key)
        if listed is None or not listed.is_tables:
            continue
        del database.value[key]
        if "read" in database.value:
            yield Problem(
                "error",
                listed.key,
                listed.line,
                "database.read is given too",
                "list all replicas in one of the two",
                "conflict",
            )
            continue
        merged = Entry({}, listed.key, listed.line)
        for endpoint in listed.value:
            yield from _merge_endpoint(merged, endpoint)
        database.value["read"] = merged


def _merge_endpoint(merged: Entry, endpoint: Entry) -> Iterator[Problem]:
    _canonical_keys(endpoint)
    hosts, port = endpoint.value.pop("hosts", None), endpoint.value.pop("port", None)
    if hosts is None:
        yield Problem("error", f"{endpoint.key}.host", endpoint.line, "the host is missing", code="missing")
    else:
        _add_hosts(merged, hosts, port)
    for key, entry in endpoint.value.items():
        first = merged.value.setdefault(key, entry)
        if plain(first) != plain(entry):
            yield Problem(
                "error",
                entry.key,
                entry.line,
                f"differs from {first.key}, but all read endpoints share it",
                code="conflict",
            )


def _add_hosts(merged: Entry, hosts: Entry, port: Entry | None) -> None:
    names = hosts.value if isinstance(hosts.value, list) else [hosts.value]
    if port is not None:
        names = [_with_port(name, port.value) for name in names]
    known = merged.value.setdefault("hosts", Entry([], hosts.key, hosts.line))
    known.value.extend(names)


def _with_port(host: object, port: object) -> object:
    if not isinstance(host, str) or not host or host.startswith("/"):
        return host
    if ":" not in host or host.endswith("]"):
        return f"{host}:{port}"
    return f"[{host}]:{port}" if host.count(":") > 1 and not host.startswith("[") else host


# --- servers --------------------------------------------------------------------------------------


def _servers(root: Entry) -> Iterator[Problem]:
    """``[servers.NAME]`` tables, ``[[servers]]`` and ``[[server]]`` as one list of servers."""
    found: list[Entry] = []
    for key in ("servers", "server"):
        entry = root.value.pop(key, None)
        if entry is None or entry.value == []:
            continue
        if entry.is_tables:
            found += entry.value
        elif entry.is_table and "type" in entry.value and not entry.value["type"].is_table:
            found.append(entry)
        elif entry.is_table:
            yield from _named_servers(entry, found)
            yield from _other_keys(entry, root)
        else:
            yield Problem("error", key, entry.line, "expected tables", "write [[servers]] or [servers.imap]")
    if found:
        root.value["servers"] = Entry(found, found[0].key, found[0].line)
    for server in found:
        yield from _own_tables(server)
        yield from _proxy_protocol(server)


def _other_keys(servers: Entry, root: Entry) -> Iterator[Problem]:
    trusted = servers.value.pop("trusted_networks", None)
    if trusted is not None:
        kept = root.value.setdefault("trusted_networks", trusted)
        if kept is not trusted:
            yield twice(trusted, kept)
    for key, entry in servers.value.items():
        hint = (
            did_you_mean(key, ("trusted_networks",)) or "options of servers stand in [servers.imap] and so on"
        )
        yield Problem("warning", entry.key, entry.line, "unknown key, ignored", hint, "unknown")


def _named_servers(table: Entry, found: list[Entry]) -> Iterator[Problem]:
    for name in [name for name, entry in table.value.items() if entry.is_table]:
        server = table.value.pop(name)
        if "type" not in server.value:
            if name not in SERVER_TYPES and name not in TYPE_ALIASES:
                yield Problem(
                    "error",
                    server.key,
                    server.line,
                    f'there is no server type "{name}"',
                    did_you_mean(name, SERVER_TYPES)
                    or 'add type = "imap" or another to use a name of your own',
                )
                continue
            server.value["type"] = Entry(name, server.key, server.line)
        server.value.setdefault("name", Entry(name, server.key, server.line))
        found.append(server)


def _own_tables(server: Entry) -> Iterator[Problem]:
    """``[servers.imap.auth_rate_limit]`` below a ``[[servers]]`` element of type imap belongs to it:
    TOML puts it there as a table ``imap`` inside the element."""
    kind = server.value.get("type")
    for name in [name for name in server.value if name in SERVER_TYPES or name in TYPE_ALIASES]:
        table = server.value[name]
        if not table.is_table:
            continue
        if kind is None or kind.value != name:
            yield Problem(
                "error",
                table.key,
                table.line,
                "in TOML this table belongs to the [[servers]] element above it, which is of another type",
                f'put it below the element of type = "{name}"',
                "conflict",
            )
        del server.value[name]
        for key, entry in table.value.items():
            kept = server.value.setdefault(key, entry)
            if kept is not entry:
                yield twice(entry, kept)


def _proxy_protocol(server: Entry) -> Iterator[Problem]:
    """The bare boolean and the single keys become the table."""
    switch = server.value.get("proxy_protocol")
    if switch is not None and isinstance(switch.value, bool):
        server.value["proxy_protocol"] = Entry({"enabled": switch}, switch.key, switch.line)
    for key, name in PROXY_PROTOCOL_KEYS.items():
        yield from _move(server, key, server, "proxy_protocol", name)
