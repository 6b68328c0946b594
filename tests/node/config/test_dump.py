"""What is dumped loads to the same configuration; secrets show only when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config.dump import dump
from node.config.tomltext import toml_value

from .loading import STORAGE, config_of, load_text
from .test_guide import BLOCKS, PLACEHOLDERS

KEYS = f'encryption_key = "{"ab" * 32}"\nprevious_encryption_keys = ["{"cd" * 32}"]\n'


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
def test_dump_loads_to_the_same(path: Path) -> None:
    text = path.read_text()
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    config = load_text(text).config or load_text(STORAGE).config
    assert config is not None
    loaded = load_text(dump(config, show_secrets=True))
    assert loaded.config == config
    assert not [problem for problem in loaded.problems if problem.code in ("unknown", "unused", "conflict")]


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_any_text_survives(text: str) -> None:
    escaped = toml_value(text.replace("${", "$${"))
    source = STORAGE + f'[servers.imap]\naddr = ":1"\nid_vendor = {escaped}\n[logging]\noutput = {escaped}\n'
    config = config_of(source)
    assert config.logging.output == text
    assert load_text(dump(config, show_secrets=True)).config == config


def test_masked() -> None:
    text = STORAGE.replace("[s3]", f"[s3]\n{KEYS}") + '[servers.imap]\naddr = ":1"\nmaster_username = "m"\n'
    config = config_of(text + 'master_password = "sesame"\n')
    masked = dump(config, show_secrets=False)
    for secret in ("wJalr", "ab" * 32, "cd" * 32, "sesame"):
        assert secret not in masked
        assert secret in dump(config, show_secrets=True)
    assert 'secret_key = "***"' in masked
    assert 'previous_encryption_keys = ["***"]' in masked
    assert load_text(masked).config is None  # the mask is a placeholder
