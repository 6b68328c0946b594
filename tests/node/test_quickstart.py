from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from node import quickstart
from node.cli import cli
from node.commands.load import load_file
from node.quickstart import HIGH_PORTS, STANDARD_PORTS, Wish, prepare


@pytest.mark.parametrize("s3", ["file", "rclone"])
def test_what_is_written_is_a_configuration_without_errors(tmp_path: Path, s3: str) -> None:
    made = prepare(Wish(tmp_path, s3=s3, ports="auto"), tmp_path / "postgres/run")
    loaded = load_file(made.config)
    assert loaded.config is not None, loaded.problems
    assert not [problem for problem in loaded.problems if problem.severity != "notice"], loaded.problems
    config = loaded.config
    assert [server.name for server in config.servers] == [
        "imap",
        "imaps",
        "pop3",
        "pop3s",
        "lmtp",
        "managesieve",
    ]
    assert {server.addr.host for server in config.servers} == {"127.0.0.1"}
    assert config.database.write.password.reveal() == (tmp_path / "postgres.password").read_text()
    assert bool(config.embedded.rclone_path) == (s3 == "rclone")


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    wish = Wish(tmp_path, ports="auto")
    first = prepare(wish, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    second = prepare(wish, tmp_path / "run")
    assert (first.is_new, second.is_new) == (True, False)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_an_interrupted_start_begins_again_with_the_same_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(quickstart, "_render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(Wish(tmp_path), tmp_path / "run")
    assert not (tmp_path / "config.toml").exists()
    secret = (tmp_path / "postgres.password").read_text()
    assert prepare(Wish(tmp_path), tmp_path / "run").is_new
    assert (tmp_path / "postgres.password").read_text() == secret


def test_secrets_are_for_the_owner_only(tmp_path: Path) -> None:
    prepare(Wish(tmp_path, s3="rclone"), tmp_path / "run")
    for name in ("postgres.password", "account.password", "s3.secret", "key.pem", "config.toml"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize(("uid", "ports"), [(0, STANDARD_PORTS), (1000, HIGH_PORTS)])
def test_only_root_gets_the_standard_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, ports: dict[str, int]
) -> None:
    monkeypatch.setattr(quickstart.os, "geteuid", lambda: uid)
    config = load_file(prepare(Wish(tmp_path), tmp_path / "run").config).config
    assert config is not None
    assert {server.name: server.addr.port for server in config.servers} == ports


def test_every_command_has_help_with_examples() -> None:
    for command in (["run"], ["quickstart"], ["config", "check"]):
        done = CliRunner().invoke(cli, [*command, "--help"])
        assert done.exit_code == 0
        assert "xample" in done.output, command


def test_a_bad_configuration_ends_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[s3]\nbucket = "mail"\nsecret_key = "YOUR_S3_SECRET_KEY"\n')
    done = CliRunner().invoke(cli, ["run", "--config", str(path)])
    assert done.exit_code == 2
    assert "s3.secret_key" in done.output
    assert CliRunner().invoke(cli, ["run", "--config", str(tmp_path / "none.toml")]).exit_code == 2


def test_a_path_that_toml_could_not_hold_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["quickstart", "--data-dir", str(tmp_path / 'quo"te')])
    assert done.exit_code == 2
    assert "quotation marks" in done.output


def test_ports_of_a_range(tmp_path: Path) -> None:
    prepare(Wish(tmp_path, ports="31000-31999"), tmp_path / "run")
    found = [
        int(port) for port in re.findall(r'addr = "127.0.0.1:(\d+)"', (tmp_path / "config.toml").read_text())
    ]
    assert len(set(found)) == len(found) > 5
    assert all(31000 <= port <= 31999 for port in found)
    with pytest.raises(OSError, match="between 31000 and 31001"):
        prepare(Wish(tmp_path / "none", ports="31000-31001"), tmp_path / "run")


@pytest.mark.parametrize("given", ["any", "2000", "0-10", "2000-1000", "1-65536", "-5-7"])
def test_ports_that_are_none(given: str) -> None:
    done = CliRunner().invoke(cli, ["quickstart", "--ports", given])
    assert done.exit_code == 2
    assert "20000-20999" in done.output or "65535" in done.output
