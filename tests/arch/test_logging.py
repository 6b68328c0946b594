"""What a log line is about goes into its fields, under one set of names, and not into its text."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from .test_layers import ROOT, sources

NAMES = {"session", "ip", "user", "protocol", "server"}
OTHER_SPELLINGS = {"session_id", "client", "client_ip", "remote", "peer", "address", "username", "account"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
IN_TEXT = re.compile(r"\b(session|ip|user|client|peer|remote)=%")


def log_calls(path: Path) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and ast.unparse(node.func.value) in {"log", "_log"}
    ]


def test_texts_carry_no_fields() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno}: pass extra={{'fields': ...}}"
        for path in sources()
        for call in log_calls(path)
        for text in call.args
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and IN_TEXT.search(text.value)
    ]
    assert not wrong, "\n".join(wrong)


def test_fields_have_one_spelling() -> None:
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Dict) and len(node.keys) == 1):
                continue
            (key,), (value,) = node.keys, node.values
            if not (isinstance(key, ast.Constant) and key.value == "fields" and isinstance(value, ast.Dict)):
                continue
            named = {each.value for each in value.keys if isinstance(each, ast.Constant)}
            wrong += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in named & OTHER_SPELLINGS]
    assert not wrong, f"use {sorted(NAMES)}: {wrong}"
