"""The cache: never above its capacity, never a torn body as a whole one, never an error of the reader."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.model import ContentHash
from storage.objects.cache import TOUCH_EVERY_S, BodyCache
from tests.support.faults import Fault, FaultyDisk, Killed, Kind

Build = Callable[..., BodyCache]
ROOT = Path(__file__).resolve().parents[3]


def key(number: int) -> ContentHash:
    return ContentHash(number.to_bytes(2, "big") + bytes(30))


def on_disk(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("??/*"))


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    made: list[BodyCache] = []

    def make(capacity: int = 1000, largest: int = 1000, **options: object) -> BodyCache:
        cache = BodyCache(tmp_path / "cache", capacity, largest, **options)  # type: ignore[arg-type]
        cache.open()
        made.append(cache)
        return cache

    yield make
    for cache in made:
        cache.close()


def test_what_was_put_is_found_also_after_a_restart(build: Build) -> None:
    cache = build()
    assert cache.get(key(1)) is None
    assert cache.put(key(1), [b"one", b"two"])
    assert cache.get(key(1)) == b"onetwo"
    again = build()
    assert again.get(key(1)) == b"onetwo"
    assert again.used_bytes == 6
    assert (cache.counters.hits, cache.counters.misses) == (1, 1)


def test_least_recently_used_goes_first(build: Build) -> None:
    cache = build(capacity=300)
    for number in (1, 2, 3):
        cache.put(key(number), [bytes(100)])
    cache.get(key(1))
    cache.put(key(4), [bytes(100)])
    assert [number for number in (1, 2, 3, 4) if key(number) in cache] == [1, 3, 4]
    assert cache.counters.evicted == 1


def test_recency_survives_a_restart(build: Build) -> None:
    now = 1_000_000.0
    cache = build(capacity=300, clock=lambda: now)
    for number in (1, 2, 3):
        cache.put(key(number), [bytes(100)])
        os.utime(cache._path(key(number)), (now + number, now + number))
    now += TOUCH_EVERY_S + 10
    cache.get(key(1))
    again = build(capacity=300, clock=lambda: now)
    again.put(key(4), [bytes(100)])
    assert [number for number in (1, 2, 3, 4) if key(number) in again] == [1, 3, 4]


def test_never_above_capacity(build: Build, tmp_path: Path) -> None:
    rng = random.Random(7)
    cache = build(capacity=5_000, largest=2_000)
    for _ in range(400):
        cache.put(key(rng.randrange(200)), [bytes(rng.randrange(2_500))])
        if rng.random() < 0.1:
            cache.drop(key(rng.randrange(200)))
        assert on_disk(tmp_path / "cache") == cache.used_bytes <= 5_000
    assert cache.counters.evicted > 50


def test_too_large_a_body_evicts_nothing(build: Build) -> None:
    cache = build(capacity=300, largest=200)
    cache.put(key(1), [bytes(100)])
    assert not cache.put(key(2), [bytes(201)])
    assert key(1) in cache


def test_smaller_capacity_is_kept_from_the_start(build: Build, tmp_path: Path) -> None:
    cache = build(capacity=1000)
    for number in range(10):
        cache.put(key(number), [bytes(100)])
    build(capacity=250)
    assert on_disk(tmp_path / "cache") <= 250


def test_processes_share_one_bound(build: Build, tmp_path: Path) -> None:
    one, two = build(capacity=500), build(capacity=500)
    for number in range(20):
        (one if number % 2 else two).put(key(number), [bytes(100)])
        assert on_disk(tmp_path / "cache") == one.used_bytes == two.used_bytes <= 500
    assert any(one.get(key(number)) for number in range(0, 20, 2))  # of the other's


def test_a_process_with_nothing_of_its_own_evicts_the_others(build: Build, tmp_path: Path) -> None:
    one, two = build(capacity=500), build(capacity=500)
    for number in range(5):
        one.put(key(number), [bytes(100)])
    assert two.put(key(9), [bytes(100)])
    assert on_disk(tmp_path / "cache") == 500


def test_files_that_vanish_are_misses(build: Build) -> None:
    cache = build()
    cache.put(key(1), [bytes(100)])
    cache._path(key(1)).unlink()
    assert cache.get(key(1)) is None
    cache.drop(key(1))
    for number in range(2, 30):
        assert cache.put(key(number), [bytes(100)])


def test_several_processes_hammer_one_directory(tmp_path: Path) -> None:
    program = """
import random, sys
from pathlib import Path
from storage.objects.cache import BodyCache
from storage.model import ContentHash
rng = random.Random(int(sys.argv[2]))
cache = BodyCache(Path(sys.argv[1]), 20_000, 5_000)
cache.open()
for _ in range(300):
    key = ContentHash(bytes([rng.randrange(60)]) + bytes(31))
    if rng.random() < 0.2:
        cache.drop(key)
    elif cache.get(key) is None:
        cache.put(key, [bytes(rng.randrange(3_000))])
    assert cache.used_bytes <= 20_000
"""
    commands = [[sys.executable, "-c", program, str(tmp_path / "cache"), str(n)] for n in range(3)]
    running = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert on_disk(tmp_path / "cache") <= 20_000
    cache = BodyCache(tmp_path / "cache", 20_000, 5_000)
    before = int.from_bytes((tmp_path / "cache" / ".lock").read_bytes(), "big")
    cache.open()
    assert cache.used_bytes == before == on_disk(tmp_path / "cache")


@pytest.mark.parametrize("kind", [Kind.FAILS, Kind.NO_ROOM])
def test_errors_of_the_disk_are_misses(build: Build, tmp_path: Path, kind: Kind) -> None:
    for at in range(1, 30):
        fault = Fault(at, kind)
        cache = build(capacity=250, disk=FaultyDisk(fault))
        for number in range(4):
            cache.put(key(number), [bytes(100)])
            cache.get(key(number))
        fault.is_over = True
        assert on_disk(tmp_path / "cache") <= 250
        assert cache.put(key(7), [b"after"])
        assert cache.get(key(7)) == b"after"
        if not fault.has_fired:
            return
        assert cache.counters.errors == 1
        for path in (tmp_path / "cache").glob("??/*"):
            path.unlink()


@pytest.mark.parametrize("kind", [Kind.DIES_BEFORE, Kind.DIES_AFTER])
def test_death_anywhere_leaves_a_usable_cache(build: Build, tmp_path: Path, kind: Kind) -> None:
    for at in range(1, 40):
        fault = Fault(at, kind)
        cache = build(capacity=250, disk=FaultyDisk(fault))
        try:
            for number in range(5):
                cache.put(key(number), [bytes(100)])
        except Killed:
            pass
        again = build(capacity=250)
        assert on_disk(tmp_path / "cache") == again.used_bytes <= 250
        assert again.put(key(9), [bytes(90)])
        if not fault.has_fired:
            return


def test_stale_temporary_files_go_and_young_ones_stay(build: Build) -> None:
    cache = build()
    old, young = cache.temporary(key(1)), cache.temporary(key(2))
    for path in (old, young):
        path.write_bytes(b"torn")
    os.utime(old, (1, 1))
    build()
    assert not old.exists()
    assert young.exists()


def test_sweep_mends_the_books_and_drops_what_nobody_reads(build: Build) -> None:
    now = 1_000_000.0
    cache = build(clock=lambda: now)
    for number in (1, 2, 3):
        cache.put(key(number), [bytes(100)])
        os.utime(cache._path(key(number)), (now, now))
    cache._path(key(3)).unlink()  # behind its back
    now += 10 * 86400
    cache.get(key(2))
    assert cache.sweep(5 * 86400) == 1
    assert [number for number in (1, 2, 3) if key(number) in cache] == [2]
    assert cache.used_bytes == 100


def test_adopted_file_counts(build: Build) -> None:
    cache = build(capacity=100)
    path = cache.temporary(key(1))
    path.write_bytes(bytes(60))
    assert cache.adopt(key(1), path)
    assert cache.used_bytes == 60
    large = cache.temporary(key(2))
    large.write_bytes(bytes(101))
    assert not cache.adopt(key(2), large)
    assert large.exists()
