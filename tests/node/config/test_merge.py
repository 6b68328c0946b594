"""Which changes of a configuration a running node takes over, key by key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.config import Cleanup, Config, Database, Endpoint, Logging, Secret, Server, every_row
from node.config.merge import merge
from node.reload import RELOADABLE, takes_effect

OLD = Config(servers=(Server(name="imap", type="imap"), Server(name="pop3", type="pop3")))
IMAP, POP3 = OLD.servers


def nothing(_pattern: str, _server_type: str) -> bool:
    return False


def some(pattern: str, _server_type: str) -> bool:
    return pattern in {"logging.level", "servers[].max_connections"}


def test_the_same_is_no_change() -> None:
    merged = merge(OLD, replace(OLD, servers=(POP3, IMAP)), nothing)
    assert (merged.taken, merged.left) == ([], [])
    assert merged.config == OLD


def test_what_may_not_be_taken_stays_and_is_named() -> None:
    new = replace(
        OLD,
        workers=3,
        logging=Logging(level="debug"),
        database=Database(write=Endpoint(password=Secret("other"))),
        servers=(replace(IMAP, max_connections=5, listen_backlog=7), POP3),
    )
    merged = merge(OLD, new, some)
    assert merged.taken == ["logging.level", "servers.imap.max_connections"]
    assert merged.left == ["workers", "database.write.password", "servers.imap.listen_backlog"]
    expected = replace(OLD, logging=Logging(level="debug"), servers=(replace(IMAP, max_connections=5), POP3))
    assert merged.config == expected
    again = merge(merged.config, new, some)
    assert (again.taken, again.left) == ([], merged.left)  # still waiting for the restart


def test_servers_that_come_or_go_need_a_restart() -> None:
    new = replace(OLD, servers=(replace(POP3, max_connections=1), Server(name="lmtp", type="lmtp")))
    merged = merge(OLD, new, lambda _pattern, _server_type: True)
    assert merged.left == ["servers.imap", "servers.lmtp"]
    assert merged.taken == ["servers.pop3.max_connections"]
    assert [each.name for each in merged.config.servers] == ["imap", "pop3"]


def test_a_table_that_comes_is_one_change() -> None:
    new = replace(OLD, database=Database(read=Endpoint(port=5433)))
    assert OLD.database.read is None
    assert merge(OLD, new, nothing).left == ["database.read"]


def test_a_setting_of_sessions_is_taken_where_there_are_sessions() -> None:
    old = replace(OLD, servers=(IMAP, Server(name="figures", type="metrics")))
    new = replace(old, servers=tuple(replace(each, command_timeout_s=7.0) for each in old.servers))
    merged = merge(old, new, takes_effect)
    assert merged.taken == ["servers.imap.command_timeout"]
    assert merged.left == ["servers.figures.command_timeout"]


def test_every_reloadable_key_exists() -> None:
    assert set(RELOADABLE) <= {key for key, _ in every_row(Config)}


@pytest.mark.parametrize("key", ["servers[].addr", "servers[].auth_rate_limit.max_ip_entries", "workers"])
def test_others_are_not_reloadable(key: str) -> None:
    assert key in {key for key, _ in every_row(Config)}
    assert key not in RELOADABLE


def test_durations_are_compared_by_value() -> None:
    new = replace(OLD, cleanup=Cleanup(grace_period_s=OLD.cleanup.grace_period_s))
    assert merge(OLD, new, nothing).left == []
