"""The same settings in every accepted spelling give the same configuration."""

from __future__ import annotations

from textwrap import dedent

import pytest

from node.config import Config, features
from node.units import Address

from .loading import STORAGE, brief, load_text, node_with, problems_of

SAME = {
    "servers": [
        """
        [[servers]]
        type = "imap"
        addr = ":143"
        command_timeout = "6m"
        [servers.auth_rate_limit]
        max_attempts_per_ip = 7
        """,
        """
        [[servers]]
        type = "imap"
        addr = ":143"
        command_timeout = "6m"
        [servers.imap.auth_rate_limit]
        max_attempts_per_ip = 7
        """,
        """
        [[server]]
        type = "imap"
        addr = ":143"
        timeouts.command_timeout = "6m"
        auth_rate_limit.max_attempts_per_ip = 7
        """,
        """
        [servers.imap]
        start = true
        addr = ":143"
        [servers.imap.timeouts]
        command_timeout = "6m"
        [servers.imap.auth_rate_limit]
        max_attempts_per_ip = 7
        """,
        """
        [server]
        type = "imap"
        addr = ":143"
        command_timeout = 360
        auth_rate_limit = { max_attempts_per_ip = 7 }
        """,
        """
        [servers]
        imap = { addr = ":143", command_timeout = "6m", auth_rate_limit = { max_attempts_per_ip = 7 } }
        """,
    ],
    "http_api": [
        '[[servers]]\ntype = "http_api"\naddr = ":1"\napi_key = "0123456789abcdef"',
        '[[servers]]\ntype = "http_admin_api"\nname = "http_api"\naddr = ":1"\napi_key = "0123456789abcdef"',
        '[servers.http_api]\naddr = ":1"\napi_key = "0123456789abcdef"',
    ],
    "logging": ['log_output = "stdout"', '[logging]\noutput = "stdout"', 'logging = { output = "stdout" }'],
    "relay queue": [
        '[relay]\ntype = "smtp"\nsmtp_host = "h"\n[relay_queue]\nbatch_size = 7',
        '[relay]\ntype = "smtp"\nsmtp_host = "h"\n[relay.queue]\nbatch_size = 7',
    ],
    "user routing": [
        '[servers.imap_proxy]\naddr = ":1"\n[servers.imap_proxy.prelookup]\nenabled = true\nurl = "http://u"',
        '[servers.imap_proxy]\naddr = ":1"\n[servers.imap_proxy.remote_lookup]\nenabled = true\nurl = "http://u"',
    ],
    "client filter": [
        '[[servers]]\ntype="imap"\naddr=":1"\n[[servers.client_filters]]\nja4_fingerprint="^t13"\ndisable_caps=["IDLE"]',
        '[[servers]]\ntype="imap"\naddr=":1"\n[[servers.client_filters]]\nja4_fingerprints=["^t13"]\ndisable_caps=["IDLE"]',
    ],
    "connections": [
        '[servers.imap]\naddr = ":1"\nmax_conns = 5',
        '[servers.imap]\naddr = ":1"\nmax_connections = 5',
    ],
    "trusted networks": [
        'trusted_networks = ["10.0.0.0/8"]\n[servers.imap]\naddr = ":1"',
        '[servers]\ntrusted_networks = ["10.0.0.0/8"]\n[servers.imap]\naddr = ":1"',
    ],
}


def loaded_after_storage(text: str) -> Config:
    # Keys of the top level come first in a file, so the storage sections are put behind them.
    return node_with("") if not text else _config(dedent(text) + "\n" + STORAGE)


def _config(text: str) -> Config:
    loaded = load_text(text)
    assert loaded.config is not None, [str(problem) for problem in loaded.problems]
    assert not [problem for problem in loaded.problems if problem.code == "unknown"]
    return loaded.config


@pytest.mark.parametrize("name", SAME)
def test_spellings_agree(name: str) -> None:
    first, *others = [loaded_after_storage(text) for text in SAME[name]]
    assert first != loaded_after_storage("")
    for other in others:
        assert other == first


S3_ONLY = STORAGE[STORAGE.index("[s3]") :]
DATABASES = [
    """
    [database.write]
    hosts = ["db1"]
    port = 5433
    user = "sora"
    password = "p"
    name = "mail"
    max_connections = 40
    min_connections = 4
    [database.read]
    hosts = ["r1:5434", "r2:5433"]
    """,
    """
    [database]
    host = "db1"
    port = 5433
    user = "sora"
    password = "p"
    dbname = "mail"
    max_conns = 40
    min_conns = 4
    [[database.read_endpoints]]
    host = "r1"
    port = 5434
    [[database.read_endpoints]]
    host = "r2"
    """,
    """
    [database]
    hosts = ["db1"]
    port = 5433
    user = "sora"
    password = "p"
    name = "mail"
    max_connections = 40
    min_connections = 4
    [[database.read]]
    hosts = ["r1:5434", "r2"]
    """,
]


def test_database_spellings_agree() -> None:
    databases = [_config(dedent(text) + S3_ONLY).database for text in DATABASES]
    assert databases[0].read is not None
    assert databases[0].write == databases[1].write == databases[2].write
    for database in databases:
        assert database.read is not None
        assert database.read.addresses == (Address("r1", 5434), Address("r2", 5433))
        assert (database.read.user, database.read.name) == ("sora", "mail")
        assert database.read.password == databases[0].write.password
        assert database.read.max_connections == 50  # pools are not inherited


def test_read_password_of_its_own_wins() -> None:
    text = (
        '[database.write]\npassword_file = "/w"\n[database.read]\nhosts = ["r"]\npassword = "r"\n' + S3_ONLY
    )
    config = load_text(text, files={"/w": "w\n"}).config
    assert config is not None
    assert config.database.read is not None
    assert config.database.write.password.reveal() == "w"
    assert config.database.read.password.reveal() == "r"


def test_query_timeout_reaches_endpoints() -> None:
    text = (
        '[database]\nquery_timeout = "7s"\n[database.write]\n'
        '[database.read]\nhosts = ["r"]\nquery_timeout = "9s"\n' + S3_ONLY
    )
    database = _config(text).database
    assert database.read is not None
    assert (database.query_timeout_s, database.write.query_timeout_s, database.read.query_timeout_s) == (
        7,
        7,
        9,
    )


def test_read_endpoints_with_different_users_are_refused() -> None:
    found = problems_of(
        """
        [[database.read_endpoints]]
        host = "r1"
        user = "a"
        [[database.read_endpoints]]
        host = "r2"
        user = "b"
        """
    )
    assert ("error", "conflict", "database.read_endpoints[1].user") in map(brief, found)


def test_read_endpoint_without_host() -> None:
    found = problems_of("[[database.read_endpoints]]\nport = 5432")
    assert ("error", "missing", "database.read_endpoints[0].host") in map(brief, found)


def test_both_read_forms_are_refused() -> None:
    found = problems_of('[database.read]\nhosts = ["a"]\n[[database.read_endpoints]]\nhost = "b"')
    assert ("error", "conflict", "database.read_endpoints") in map(brief, found)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('log_output = "stdout"\n[logging]\noutput = "stderr"', "log_output"),
        ('[servers.imap]\naddr = ":1"\nmax_connections = 1\nmax_conns = 2', "servers.imap.max_conns"),
        ('[database]\nuser = "a"\n[database.write]\nuser = "b"', "database.user"),
        ("[relay.queue]\nbatch_size = 1\n[relay_queue]\nbatch_size = 2", "relay.queue"),
    ],
)
def test_the_same_twice_is_said(text: str, key: str) -> None:
    assert ("warning", "conflict", key) in map(brief, problems_of(text))


@pytest.mark.parametrize(
    "text",
    [
        'proxy_protocol_timeout = "7s"\nproxy_protocol_trusted_proxies = ["10.0.0.0/8"]\nproxy_protocol=true',
        'proxy_protocol = { enabled = true, timeout = "7s", trusted_proxies = ["10.0.0.0/8"] }',
    ],
)
def test_proxy_protocol_as_boolean_and_as_table(text: str) -> None:
    (server,) = node_with(f'[[servers]]\ntype = "imap"\naddr = ":1"\n{text}').servers
    wanted = server.proxy_protocol
    assert (wanted.enabled, wanted.timeout_s) == (True, 7.0)
    assert [str(network) for network in wanted.trusted_proxies or ()] == ["10.0.0.0/8"]


def test_a_feature_that_is_dangerous_to_miss_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ACTIVE_FEATURES", features.ACTIVE_FEATURES - {"proxy_protocol"})
    text = 'addr = ":1"\nproxy_protocol = { enabled = true, trusted_proxies = ["10.0.0.0/8"] }'
    (problem,) = problems_of(f'{STORAGE}[[servers]]\ntype = "imap"\n{text}')
    assert brief(problem) == ("error", "inactive", "servers[0].proxy_protocol")
    assert "address" in problem.message


def test_proxy_protocol_off_is_no_problem() -> None:
    assert not problems_of(f'{STORAGE}[[servers]]\ntype = "imap"\naddr = ":1"\nproxy_protocol = false')


def test_table_after_an_element_of_another_type() -> None:
    found = problems_of(
        '[[servers]]\ntype = "imap"\naddr = ":1"\n[servers.pop3.auth_rate_limit]\nenabled = true'
    )
    (problem,) = [each for each in found if each.code == "conflict"]
    assert (problem.key, problem.line) == ("servers[0].pop3", 4)
    assert "pop3" in problem.suggestion


def test_named_tables_and_numbered_names() -> None:
    config = node_with(
        """
        [servers.imap]
        addr = ":143"
        [servers.imaps]
        type = "imap"
        addr = ":993"
        """
    )
    assert [(server.name, server.type) for server in config.servers] == [("imap", "imap"), ("imaps", "imap")]
    config = node_with("".join(f'[[servers]]\ntype = "imap"\naddr = ":{port}"\n' for port in (1, 2, 3)))
    assert [server.name for server in config.servers] == ["imap", "imap-2", "imap-3"]


def test_both_arrays_are_joined() -> None:
    config = node_with('[[server]]\ntype = "pop3"\naddr = ":1"\n[[servers]]\ntype = "imap"\naddr = ":2"')
    assert [server.type for server in config.servers] == ["imap", "pop3"]


def test_misspelt_server_table() -> None:
    (problem,) = [each for each in problems_of('[servers.imapp]\naddr = ":1"') if each.key == "servers.imapp"]
    assert problem.severity == "error"
    assert '"imap"' in problem.suggestion


@pytest.mark.parametrize("text", ["servers = 1", 'servers = ["imap"]', "server = true"])
def test_servers_of_another_type(text: str) -> None:
    assert "error" in {problem.severity for problem in problems_of(text) if problem.key.startswith("server")}


def test_pop3_starts_from_ten_minutes() -> None:
    config = node_with('[servers.pop3]\naddr = ":1"\n[servers.imap]\naddr = ":2"')
    assert [server.command_timeout_s for server in config.servers] == [600, 300]


@pytest.mark.parametrize(("written", "meant"), [("0", 1024), ("-1", None), ("512", 512)])
def test_min_bytes_per_minute(written: str, meant: int | None) -> None:
    config = node_with(f'[servers.imap]\naddr = ":1"\nmin_bytes_per_minute = {written}')
    assert config.servers[0].min_bytes_per_minute == meant
