"""Measures of texts and statistics of figures, on numbers that were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training import measures
from training.evaluation import intervals


def test_copying_repeating_and_distinct_pairs_of_short_texts() -> None:
    assert measures.copy_rate("a fox in snow", "a fox in snow") == 1.0
    assert measures.copy_rate("a fox in snow", "the red fox in deep snow") == pytest.approx(2 / 6)
    assert measures.repetition("the sea and the sky") == 0.0
    assert measures.repetition("so it goes on so it goes on so it goes on") == pytest.approx(5 / 9)
    assert measures.distinct_2([["a", "b", "c", "d"]]) == 1.0
    assert measures.distinct_2([["a", "b", "a", "b", "a", "b"]]) == pytest.approx(2 / 5)
    assert measures.distinct_2([["a", "b"], ["a", "b"]]) == 0.5  # no pair across two texts


def test_entity_recall_counts_content_words_singular_or_plural() -> None:
    assert measures.entity_recall("two foxes in the snow", "A fox.") == 0.0  # only a plain s is folded
    assert measures.entity_recall("red horses in the snow", "A red horse rests.") == pytest.approx(2 / 3)
    assert measures.entity_recall("the dog's glass", "dogs and a glass") == 1.0
    assert math.isnan(measures.entity_recall("the of and", "anything"))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It rests.", True),
        ('He says "stop!"', True),
        ("A fox (asleep).) ", True),
        ("A fox in the", False),
        ("", False),
    ],
)
def test_a_sentence_end_may_stand_before_closing_marks(text: str, whole: bool) -> None:
    assert measures.ends_sentence(text) is whole


def self_bleu(*texts: str) -> float:
    return measures.self_bleu([measures.grams(text.split()) for text in texts])


def test_self_bleu_is_what_it_is_by_hand() -> None:
    # "a b c d e" against "a b c d f": 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; equal lengths.
    both = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert self_bleu("a b c d e", "a b c d f") == pytest.approx(both)
    # One text of two words lacks triples and quadruples; 1 of 2 words and no pair (0.1 of 1) match, and it is shorter
    # than the other: exp(1 - 5/2). The long one: 1 of 5, then 0.1 of 4, 3 and 2; no penalty.
    short = (1 / 2 * 0.1 / 1) ** 0.5 * math.exp(1 - 5 / 2)
    long = (1 / 5 * 0.1 / 4 * 0.1 / 3 * 0.1 / 2) ** 0.25
    assert self_bleu("a z", "a b c d e") == pytest.approx((short + long) / 2)


def test_self_bleu_takes_the_largest_count_of_any_other_text() -> None:
    # "a a" against "a" and "a a a": both words are in the third; closest length of the three is "a" (1), shorter: no
    # penalty. A text never matches itself: "a a a" finds two of its three words in "a a", one of its two pairs.
    first = (2 / 2 * 1 / 1) ** 0.5
    second = 1.0 * math.exp(1 - 2 / 1)
    third = (2 / 3 * 1 / 2 * 0.1 / 1) ** (1 / 3)
    assert self_bleu("a a", "a", "a a a") == pytest.approx((first + second + third) / 3)


def test_self_bleu_is_one_for_equal_texts_and_near_zero_for_unlike_ones() -> None:
    assert self_bleu("the sea is calm today", "the sea is calm today") == pytest.approx(1.0)
    assert self_bleu("the sea is calm today", "red foxes sleep under pines") < 0.05
    assert self_bleu("alone") == 0.0


def test_ranks_of_equal_values_are_shared() -> None:
    assert intervals.ranks([10, 20, 20, 30]).tolist() == [1, 2.5, 2.5, 4]


def test_spearman_with_ties_is_what_it_is_by_hand() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, variances 4.5 and 5.
    assert intervals.spearman([10, 20, 20, 30], [1, 3, 2, 9]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert intervals.spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert intervals.spearman([1, 2, 3], [5, 5, 5]) == 0.0


def coverage(of: str, truth: float, draws: list[np.ndarray]) -> float:
    found = [getattr(intervals, of)(draw) for draw in draws]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


def test_the_bootstrap_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    draws = [rng.exponential(2.0, 50) for _ in range(300)]  # skewed, as copy rates are
    assert 0.88 < coverage("mean", 2.0, draws) < 0.98
    ratios = [intervals.ratio(draw, rng.normal(4.0, 1.0, 50)) for draw in draws]
    assert 0.88 < np.mean([each.low <= 0.5 <= each.high for each in ratios]) < 0.98


def test_halves_cover_as_the_bootstrap_does_and_do_not_take_a_text_for_its_own_repetition() -> None:
    rng = np.random.default_rng(1)
    draws = [rng.normal(1.0, 0.5, 60) for _ in range(300)]
    found = [intervals.of_set(lambda chosen, draw=draw: float(draw[chosen].mean()), 60) for draw in draws]  # type: ignore[misc]
    assert 0.88 < np.mean([each.low <= 1.0 <= each.high for each in found]) < 0.98
    texts = [[f"w{i}", f"v{i}", f"u{i}"] for i in range(40)]
    distinct = intervals.of_set(lambda chosen: measures.distinct_2([texts[i] for i in chosen]), 40)
    assert (distinct.value, distinct.low, distinct.high) == (1.0, 1.0, 1.0)


def test_pairing_shows_a_difference_that_two_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(0.5, 0.2, 60)
    better = base + rng.normal(0.02, 0.02, 60)
    apart = intervals.mean(better), intervals.mean(base)
    assert apart[0].low < apart[1].high
    assert intervals.mean(better - base).differs
    assert not intervals.mean(base - base).differs


def test_inputs_without_a_value_are_left_out() -> None:
    assert intervals.mean([0.5, math.nan, 0.7]).value == pytest.approx(0.6)
    assert math.isnan(intervals.mean([math.nan]).value)
    assert math.isnan(intervals.ratio([1.0], [0.0]).value)
    assert intervals.mean_of([[1.0, 1.0], [0.0] * 6]).value == 0.5  # groups count alike, whatever their sizes


def test_a_share_has_wilsons_interval() -> None:
    found = intervals.share(90, 100)  # Wilson 1927, as in any table
    assert found.to_json() == pytest.approx([0.9, 0.8256, 0.9448], abs=2e-4)
    assert intervals.share(100, 100).low == pytest.approx(0.963, abs=1e-3)
    assert intervals.share(0, 20).low == 0.0
