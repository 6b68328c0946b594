from __future__ import annotations

from cluster.replays import GENERATION, ReplayWindow


def test_a_nonce_is_new_once() -> None:
    window = ReplayWindow()
    assert window.is_new(b"a")
    assert window.is_new(b"b")
    assert not window.is_new(b"a")


def test_at_least_a_generation_is_remembered_and_at_most_two() -> None:
    window = ReplayWindow()
    nonces = [number.to_bytes(12, "big") for number in range(2 * GENERATION)]
    assert all(window.is_new(nonce) for nonce in nonces)
    assert not any(window.is_new(nonce) for nonce in nonces[GENERATION:])
    assert window.is_new(nonces[0])
