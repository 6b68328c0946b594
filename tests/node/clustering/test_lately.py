from __future__ import annotations

from node.clustering.lately import LATELY_S, SAMPLE_EVERY_S, Lately


def test_before_the_first_sample_all_is_new() -> None:
    assert Lately().rise("a", {"a": 7}) == 7


def test_a_rise_is_forgotten_after_a_while() -> None:
    lately = Lately()
    lately.note({"a": 0}, 0.0)
    lately.note({"a": 7}, SAMPLE_EVERY_S)
    assert lately.rise("a", {"a": 9}) == 9
    lately.note({"a": 9}, SAMPLE_EVERY_S + LATELY_S)
    assert lately.rise("a", {"a": 9}) == 2
    lately.note({"a": 9}, SAMPLE_EVERY_S + 2 * LATELY_S)
    assert lately.rise("a", {"a": 9}) == 0


def test_samples_are_few_however_often_they_come() -> None:
    lately = Lately()
    for second in range(3600):
        lately.note({"a": second}, float(second))
    assert len(lately._samples) <= LATELY_S / SAMPLE_EVERY_S + 2
    assert LATELY_S <= lately.rise("a", {"a": 3600}) <= LATELY_S + 2 * SAMPLE_EVERY_S


def test_a_counter_that_began_anew_counts_from_nothing() -> None:
    lately = Lately()
    lately.note({"a": 100}, 0.0)
    assert lately.rise("a", {"a": 3}) == 3
