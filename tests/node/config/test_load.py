"""What is said about files that are wrong: all of it, with key, line and a way out."""

from __future__ import annotations

import pytest

from node.config import Problem
from node.config.document import Entry, read

from .loading import STORAGE, brief, load_text, node_with, problems_of


def only(text: str, key: str) -> Problem:
    (found,) = [problem for problem in problems_of(text) if problem.key == key]
    return found


def test_a_good_file_has_no_problems() -> None:
    loaded = load_text(STORAGE + '[servers.imap]\naddr = ":143"\n')
    assert loaded.problems == ()
    assert loaded.config is not None
    assert loaded.source == "config.toml"


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = problems_of(
        """\
        log_outputt = "x"
        [s3]
        endpoint = 5
        timeout = "30"
        [database.write]
        port = 70000
        [[servers]]
        type = "imap"
        addr = "143"
        [servers.auth_rate_limit]
        max_attempts_per_ip = -1
        [[servers]]
        type = "imapp"
        """
    )
    lines = [problem.line for problem in found]
    assert lines == sorted(lines)
    assert {
        ("warning", "unknown", "log_outputt"),
        ("error", "value", "s3.endpoint"),
        ("error", "value", "s3.timeout"),
        ("error", "missing", "s3.bucket"),
        ("error", "value", "database.write.port"),
        ("error", "value", "servers[0].addr"),
        ("error", "value", "servers[0].auth_rate_limit.max_attempts_per_ip"),
        ("error", "value", "servers[1].type"),
        ("error", "missing", "servers[1].addr"),
    } <= set(map(brief, found))
    by_key = {problem.key: problem for problem in found}
    assert by_key["s3.timeout"].line == 4
    assert by_key["servers[0].auth_rate_limit.max_attempts_per_ip"].line == 11
    assert by_key["servers[1].addr"].line == 12


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("[s3]\nendpont = 1", "s3.endpont", '"endpoint"'),
        ("[s33]\nx = 1", "s33", '"s3"'),
        ("command_timout = 1", "command_timout", ""),
        ("[s3]\ncapacity = 1", "s3.capacity", "[local_cache]"),
        ('[servers.imap]\naddr = ":1"\nmax_conections = 1', "servers.imap.max_conections", "max_con"),
        ('[logging]\nlevel = "inof"', "logging.level", '"info"'),
        ('[servers.x]\ntype = "pop"\naddr = ":1"', "servers.x.type", '"pop3"'),
        ('[servers]\ntrusted_network = ["10.0.0.0/8"]', "servers.trusted_network", "trusted_networks"),
        ('[cleanup]\ngrace_period = "14"', "cleanup.grace_period", '"14d"'),
        ('[local_cache]\ncapacity = "10 gigs"', "local_cache.capacity", '"10gb"'),
        ('[s3]\ndisable_tls = "yes"', "s3.disable_tls", "without quotes"),
        (
            '[tls]\nenabled=true\n[tls.letsencrypt]\ndomains = "a.example"',
            "tls.letsencrypt.domains",
            '["a.example"]',
        ),
        ('trusted_networks = ["10.0.0.1/8"]', "trusted_networks", "10.0.0.0/8"),
        ('[servers.imap]\naddr = "143"', "servers.imap.addr", '":143"'),
        ('[servers.imap]\naddr = "*:143"', "servers.imap.addr", '":143"'),
        ("[[s3]]\nbucket = 1", "s3", "[s3]"),
        (
            '[servers.imap]\naddr=":1"\n[servers.imap.client_filters]\nreason="x"',
            "servers.imap.client_filters",
            "[[",
        ),
    ],
)
def test_suggestions(text: str, key: str, suggestion: str) -> None:
    assert suggestion in only(text, key).suggestion


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a = 1\ngrace = 14d\n", 2, "quotes"),
        ("a = 1\naddr = :143\n", 2, '":143"'),
        ("a = 1\naddr = 10.0.0.1:143\n", 2, "quotes"),
        ("a = True\n", 1, "lower case"),
        ("\n\na: 1\n", 3, '"="'),
        ("a = “x”\n", 1, "typographic"),
        ("a =\n", 1, "missing"),
        ("a = hello\n", 1, "quotes"),
        ('a = "hello\nb = 1\n', 1, "closing quote"),
        ('a = "C:\\Users"\n', 1, "backslash"),
        ("[s3\nb = 1\n", 1, '"]"'),
        ("[s3]\na = 1\na = 2\n", 3, "keep one"),
        ("[s3]\n[s3]\n", 2, "keep one"),
        ("hello\n", 1, "key = value"),
    ],
)
def test_syntax_errors_have_line_and_hint(text: str, line: int, hint: str) -> None:
    (problem,) = load_text(text).problems
    assert (problem.severity, problem.code, problem.line) == ("error", "syntax", line)
    assert hint in problem.suggestion


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 20_000, "a = " + "{x=" * 20_000, "a = " + "9" * 5000, "\x00", "\ud800"]
)
def test_hostile_documents_are_one_problem(text: str) -> None:
    (problem,) = load_text(text).problems
    assert (problem.severity, problem.code) == ("error", "syntax")


def test_byte_order_mark_is_skipped() -> None:
    assert isinstance(read("\ufeffa = 1"), Entry)


def test_environment_and_files() -> None:
    text = """
[database.write]
hosts = ["${DB}", "b"]
port = "${PORT}"
password_file = "${DIR}/db"
[s3]
endpoint = "${REGION}.example.com"
access_key_file = "/run/id"
secret_key = "a$${b}${S3}"
bucket = "b"
[servers.imap]
addr = "${IP}:143"
tls = "${TLS}"
tls_cert_file = "/etc/cert.pem"
tls_key_file = "/etc/key.pem"
"""
    environment = {
        "DB": "db1",
        "PORT": "5433",
        "DIR": "/run",
        "REGION": "eu",
        "S3": "${DB}",
        "IP": "10.0.0.1",
        "TLS": "true",
    }
    loaded = load_text(text, environment, {"/run/db": "p${DB}w\n", "/run/id": "AKIA1\n"})
    assert loaded.problems == ()
    config = loaded.config
    assert config is not None
    assert config.database.write.hosts == ("db1", "b")
    assert config.database.write.port == 5433
    assert config.database.write.password.reveal() == "p${DB}w"
    assert config.s3.endpoint == "eu.example.com"
    assert config.s3.access_key == "AKIA1"
    assert config.s3.secret_key.reveal() == "a${b}${DB}"
    assert config.servers[0].addr == ("10.0.0.1", 143)
    assert config.servers[0].tls
    assert config.servers[0].tls_cert_file == "/etc/cert.pem"


def test_missing_variable_and_file() -> None:
    found = problems_of('[s3]\nsecret_key = "${NOPE}"\naccess_key_file = "/nope"\nendpoint_file = "/e"')
    assert {
        ("error", "unreadable", "s3.secret_key"),
        ("error", "unreadable", "s3.access_key_file"),
        ("warning", "unknown", "s3.endpoint_file"),  # not a secret
    } <= set(map(brief, found))
    keys = [problem.key for problem in found]
    assert keys.count("s3.secret_key") == 1
    assert "s3.access_key" not in keys  # not reported as missing on top
    assert "NOPE" in next(problem.message for problem in found if problem.key == "s3.secret_key")


def test_secret_and_its_file_together() -> None:
    loaded = load_text('[s3]\nsecret_key = "x"\nsecret_key_file = "/f"', files={"/f": "y"})
    assert ("error", "conflict", "s3.secret_key_file") in map(brief, loaded.problems)


@pytest.mark.parametrize(
    "value",
    [
        "YOUR_S3_SECRET_KEY",
        "your-secret-key",
        "your-secure-api-key",
        "base64-encoded-secret-key",
        "your-base64-encoded-secret-key",
        "32-byte-base64-encoded-key",
        "changeme",
        "CHANGE_ME",
        "change-me-please",
        "<secret>",
        "replace-with-your-key",
        "secret-key-here",
        "xxxxxxxx",
        "***",
        "TODO",
    ],
)
def test_placeholders_refuse_to_start(value: str) -> None:
    problem = only(f'[s3]\nsecret_key = "{value}"', "s3.secret_key")
    assert (problem.severity, problem.code) == ("error", "placeholder")


@pytest.mark.parametrize(
    "value",
    ["wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY", "db_password", "hunter2", "yours truly", "exchange me"],
)
def test_real_secrets_are_no_placeholders(value: str) -> None:
    assert not [
        problem for problem in problems_of(f'[s3]\nsecret_key = "{value}"') if problem.key == "s3.secret_key"
    ]


def test_placeholder_of_a_plain_value_is_a_warning() -> None:
    assert only('[s3]\nbucket = "your-sora-mail-bucket"', "s3.bucket").severity == "warning"


def test_options_on_servers_they_do_not_apply_to() -> None:
    problem = only('[servers.lmtp]\naddr = ":24"\nappend_limit = "1mb"', "servers.lmtp.append_limit")
    assert (problem.severity, problem.code) == ("warning", "unused")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[cluster]\nport = 1", "cluster"),
        ('[tls]\ncert_file = "/a"\nkey_file = "/b"', "tls"),
        ('[spam_training]\nendpoint = "http://x"', "spam_training"),
    ],
)
def test_a_section_that_is_filled_in_but_off(text: str, key: str) -> None:
    problem = only(text, key)
    assert (problem.severity, problem.code) == ("warning", "unused")
    assert "enabled = true" in problem.suggestion


def test_notices_are_one_per_table_and_feature() -> None:
    found = problems_of(
        STORAGE
        + """
[servers.imap]
addr = ":143"
master_sasl_username = "proxy"
master_sasl_password = "secret of the proxy"
master_sasl_allowed_networks = ["10.0.0.0/8"]
master_username = ""
debug = false
[servers.imap.lookup_cache]
max_size = 10
[servers.imap.auth_rate_limit]
enabled = false
max_attempts_per_ip = 5
"""
    )
    assert [brief(problem) for problem in found] == [
        ("notice", "inactive", "servers.imap.master_sasl_username"),
        ("notice", "inactive", "servers.imap.lookup_cache"),
    ]
    assert "master_sasl_password" in found[0].message


def test_a_switch_at_its_default_asks_for_nothing() -> None:
    text = STORAGE + '[servers.imap]\naddr = ":143"\n[local_cache]\nwarmup_async = '
    assert not problems_of(text + "true")
    assert [brief(each) for each in problems_of(text + "false")] == [
        ("notice", "inactive", "local_cache.warmup_async")
    ]


def test_a_server_that_is_not_started_has_no_notices() -> None:
    assert not problems_of(
        STORAGE
        + '[servers.imap]\naddr = ":143"\n[servers.managesieve]\nstart = false\naddr = ":4190"\ndebug=true\n'
    )


def test_units_arrive_in_their_unit() -> None:
    config = node_with(
        """
        [servers.imap]
        addr = "[::1]:143"
        append_limit = "30mb"
        command_timeout = "1h30m"
        auth_idle_timeout = 90
        [cleanup]
        grace_period = "30d"
        max_age_restriction = "365d"
        [local_cache]
        capacity = "10gb"
        """
    )
    server = config.servers[0]
    assert server.addr == ("::1", 143)
    assert server.append_limit_bytes == 30 * 1024 * 1024
    assert (server.command_timeout_s, server.auth_idle_timeout_s) == (5400.0, 90.0)
    assert (config.cleanup.grace_period_s, config.cleanup.max_age_restriction_s) == (30 * 86400, 365 * 86400)
    assert config.local_cache.capacity_bytes == 10 << 30


def test_problem_as_text_is_safe_for_a_terminal() -> None:
    (problem, *_) = problems_of('"\\u001b[31m" = 1')
    assert "\x1b" not in str(problem)
    assert "\x1b" not in problem.key
