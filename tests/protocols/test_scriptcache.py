"""Compiled scripts are kept, and not too many."""

from __future__ import annotations

from protocols.scriptcache import ScriptCache
from protocols.sieve.errors import ScriptErrors


def test_a_script_is_compiled_once() -> None:
    cache = ScriptCache()
    assert cache.get(b"keep;") is cache.get(bytes(bytearray(b"keep;")))


def test_mistakes_are_kept_too() -> None:
    cache = ScriptCache(extensions=["copy"])
    found = cache.get(b'require "fileinto";')
    assert isinstance(found, ScriptErrors)
    assert cache.get(b'require "fileinto";') is found


def test_the_least_used_go() -> None:
    cache = ScriptCache(max_scripts=2)
    first = cache.get(b"keep;")
    cache.get(b"stop;")
    assert cache.get(b"keep;") is first
    cache.get(b"discard;")
    assert len(cache) == 2
    assert cache.get(b"keep;") is first


def test_text_is_bounded() -> None:
    cache = ScriptCache(max_text_bytes=100)
    for n in range(50):
        cache.get(b"#" * 30 + b"%d\n" % n)
    assert len(cache) == 3
