"""``sora-node config``: exit codes and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.commands.config import config_group
from node.config import example

GOOD = """\
[database.write]
password_file = "{password}"
[s3]
driver = "file"
[servers.imap]
addr = ":143"
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    password = tmp_path / "password"
    password.write_text("sesame\n")
    path = tmp_path / "config.toml"
    path.write_text(GOOD.format(password=password))
    return path


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(
        config_group, [str(each) for each in arguments], env=env, catch_exceptions=False
    )


def test_check_of_a_good_file(good: Path) -> None:
    result = run("check", "--config", good)
    assert result.exit_code == 0
    assert result.output == f"{good}: can be used\n"


def test_check_of_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[s3]\nendpont = "x"\nsecret_key = "YOUR_S3_SECRET_KEY"\n')
    result = run("check", "--config", path)
    assert result.exit_code == 2
    assert (
        f'{path}: line 2: warning: s3.endpont: unknown key, ignored (did you mean "endpoint"?)'
        in result.output
    )
    assert f"{path}: line 3: error: s3.secret_key" in result.output
    assert "cannot be used (5 errors, 2 warnings)" in result.output


def test_check_as_json(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[s3]\nbucket = 1\n")
    result = run("check", "--config", path, "--json")
    assert result.exit_code == 2
    document = json.loads(result.output)
    assert (document["source"], document["ok"]) == (str(path), False)
    bucket = next(each for each in document["problems"] if each["key"] == "s3.bucket")
    assert (bucket["severity"], bucket["code"], bucket["line"]) == ("error", "value", 2)


def test_environment_is_used(good: Path) -> None:
    good.write_text(good.read_text() + 'name = "${SORA_TEST_NAME}"\n')
    assert run("check", "--config", good, env={"SORA_TEST_NAME": "front"}).exit_code == 0
    assert run("check", "--config", good, env={"SORA_TEST_NAME": None}).exit_code == 2  # type: ignore[dict-item]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    result = run("check", "--config", path)
    assert result.exit_code == 2
    assert str(path) in result.output


def test_dump_masks_unless_asked(good: Path) -> None:
    masked, shown = run("dump", "--config", good), run("dump", "--config", good, "--show-secrets")
    assert masked.exit_code == shown.exit_code == 0
    assert "sesame" not in masked.output
    assert 'password = "sesame"' in shown.output
    assert run("dump", "--config", good, "--mask-secrets").output == masked.output


def test_dump_of_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("x = ")
    assert run("dump", "--config", path).exit_code == 2


def test_example_is_the_file_in_the_repository() -> None:
    result = run("example")
    assert result.exit_code == 0
    assert result.output == example.render()


@pytest.mark.parametrize("command", ["check", "dump", "example"])
def test_help_has_examples(command: str) -> None:
    assert f"sora-node config {command}" in run(command, "--help").output
