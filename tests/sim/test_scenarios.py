"""Every scenario with a seed or two; ``python -m tests.sim --seeds 1-200`` looks further."""

from __future__ import annotations

import pytest

from .run import simulate
from .scenarios import SCENARIOS

LONG = {"burst"}  # in make test with few seeds only


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_scenario(scenario: str) -> None:
    outcome = simulate(scenario, seed=1)
    assert not outcome.error, f"seed {outcome.seed}: {outcome.error}\nrepeat: {outcome.command}"


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_chaos(seed: int) -> None:
    outcome = simulate("chaos", seed)
    assert not outcome.error, f"seed {outcome.seed}: {outcome.error}\nrepeat: {outcome.command}"


@pytest.mark.parametrize("seed", [3, 21, 32, 2463, 2766])
def test_wrong_clocks(seed: int) -> None:
    """The first was the seed that showed a block that came back, with all clocks right; the last two showed
    one that came back and one that was lost, when a node took back its own later word after a restart."""
    outcome = simulate("wrong-clocks", seed)
    assert not outcome.error, f"seed {outcome.seed}: {outcome.error}\nrepeat: {outcome.command}"


@pytest.mark.parametrize("scenario", ["kill", "chaos"])
def test_the_same_seed_is_the_same_run(scenario: str) -> None:
    one, other = simulate(scenario, 5, 4), simulate(scenario, 5, 4)
    assert (one.trace, one.steps) == (other.trace, other.steps), one.command
    assert one.trace != simulate(scenario, 6, 4).trace


def test_encryption_changes_nothing_but_bytes() -> None:
    real = simulate("partition", 7, 4, real_cipher=True)
    assert not real.error, f"{real.error}\nrepeat: {real.command} --real-cipher"
    assert real.steps == simulate("partition", 7, 4).steps
