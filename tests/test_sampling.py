"""Choosing tokens: the draws, top-k and top-p, and that a row is its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptdial.engine.length import Words
from promptdial.engine.sampling import Chooser, Runs, Sampling, draw, stream, surprisals

LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
IDS = np.array([[11, 22, 33, 44]])


def uniform(seed: int, candidate: int, step: int) -> float:
    return draw(stream(seed, candidate), step)


def frequencies(sampling: Sampling, count: int = 4000) -> dict[int, float]:
    draws = [uniform(1, 0, step) for step in range(count)]
    chosen = Chooser([sampling] * count).choose(np.repeat(LOGITS, count, 0), np.repeat(IDS, count, 0), draws)
    return {token: chosen.count(token) / count for token in set(chosen)}


def test_tokens_come_as_often_as_their_probability_says() -> None:
    found = frequencies(Sampling(temperature=1.0, top_p=1.0, top_k=64))
    assert found == pytest.approx({11: 0.5, 22: 0.3, 33: 0.15, 44: 0.05}, abs=0.03)


def test_temperature_sharpens() -> None:
    found = frequencies(Sampling(temperature=0.5, top_p=1.0, top_k=64))
    assert found[11] == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.03)


def test_top_k_keeps_the_likeliest_k() -> None:
    assert set(frequencies(Sampling(temperature=1.0, top_p=1.0, top_k=2))) == {11, 22}


def test_top_p_keeps_the_fewest_tokens_that_reach_p() -> None:
    assert set(frequencies(Sampling(temperature=1.0, top_p=0.75, top_k=64))) == {11, 22}
    assert set(frequencies(Sampling(temperature=1.0, top_p=0.01, top_k=64))) == {11}


def test_min_p_keeps_what_is_likely_beside_the_likeliest() -> None:
    assert set(frequencies(Sampling(temperature=1.0, top_p=1.0, top_k=64, min_p=0.3))) == {11, 22}
    assert set(frequencies(Sampling(temperature=1.0, top_p=1.0, top_k=64, min_p=1.0))) == {11}
    assert set(frequencies(Sampling(temperature=4.0, top_p=1.0, top_k=64, min_p=0.55))) == {11, 22, 33, 44}


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-9])
def test_no_temperature_means_greedy(temperature: float) -> None:
    assert set(frequencies(Sampling(temperature=temperature, top_p=1.0), 50)) == {11}


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    sampling = [Sampling(temperature=0.0), Sampling(temperature=1.0, top_p=1.0)]
    chosen = Chooser(sampling).choose(np.repeat(LOGITS, 2, 0), np.repeat(IDS, 2, 0), [0.99, 0.99])
    assert chosen == [11, 44]


@given(seed=st.integers(0, 2**63), candidate=st.integers(0, 31), step=st.integers(0, 10_000))
def test_a_draw_lies_in_0_to_1_and_repeats(seed: int, candidate: int, step: int) -> None:
    number = uniform(seed, candidate, step)
    assert 0.0 <= number < 1.0
    assert number == uniform(seed, candidate, step)


def test_draws_of_neighbouring_seeds_candidates_and_steps_are_unrelated() -> None:
    draws = np.array([[[uniform(s, c, t) for t in range(40)] for c in range(8)] for s in range(8)])
    assert len(np.unique(draws)) == draws.size
    assert abs(draws.mean() - 0.5) < 0.02
    for axis in range(3):
        left, right = np.take(draws, range(7), axis).ravel(), np.take(draws, range(1, 8), axis).ravel()
        assert abs(np.corrcoef(left, right)[0, 1]) < 0.1


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=64),
    number=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0, 100),
    top_p=st.floats(0.001, 1),
    top_k=st.integers(1, 64),
)
def test_whatever_the_numbers_a_listed_token_is_chosen(
    logits: list[float], number: float, temperature: float, top_p: float, top_k: int
) -> None:
    row = np.sort(np.array([logits], np.float32), axis=1)[:, ::-1]
    ids = np.arange(len(logits))[None]
    assert Chooser([Sampling(temperature, top_p, top_k)]).choose(row, ids, [number])[0] < min(
        top_k, len(logits)
    )


def test_a_run_of_tokens_is_barred_from_coming_twice() -> None:
    runs = Runs(3)
    for token in (1, 2, 3, 9, 1, 2):
        assert not runs.barred
        runs.add(token)
    assert set(runs.barred) == {3}
    runs.add(4)
    assert not runs.barred
    for token in (1, 2):
        runs.add(token)
    assert set(runs.barred) == {3, 4}


def test_a_run_of_words_is_barred_where_its_last_word_begins_and_no_word_is_broken_off() -> None:
    runs = Runs(2, Words.of([b".", b" ab", b"c", b" de", b"f", b" gh"]))  # words of the tokens 1 2, 3 4, 5
    for token in (1, 2, 3, 4, 5, 1):
        assert not runs.barred
        runs.add(token)
    assert not runs.barred  # "1" may become another word than "1 2"
    runs.add(2)
    assert set(runs.barred) == {3}
    runs.add(5)
    assert set(runs.barred) == {1}


def test_what_is_barred_is_barred_with_capitals_too() -> None:
    runs = Runs(2, Words.of([b" the", b" people", b" People", b" The", b"people"]))
    for token in (3, 1):
        runs.add(token)
    runs.add(0)
    assert set(runs.barred) == {1, 2}


def test_signs_between_words_make_no_run_another_one() -> None:
    runs = Runs(2, Words.of([b".", b",", b" on", b" benches", b" it", b"9"]))
    for token in (2, 3, 0, 4, 2):
        assert not runs.barred
        runs.add(token)
    assert set(runs.barred) == {3}
    for token in (3, 1, 4, 2, 3):
        runs.add(token)
    assert set(runs.barred) == {4}
    runs.add(5)  # "benches9" is another word than "benches"
    assert not runs.barred


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_barred_token_is_not_chosen_and_other_rows_do_not_notice(temperature: float) -> None:
    logits = np.array([[5.0, 4.0, 3.0], [5.0, 4.0, 3.0]], np.float32)
    ids = np.array([[7, 8, 9], [7, 8, 9]])
    chooser = Chooser([Sampling(temperature, 1.0, 3)] * 2)
    for number in np.linspace(0, 0.999, 25):
        free = chooser.choose(logits, ids, [number, number])
        found = chooser.choose(logits, ids, [number, number], [{7}, ()])
        assert found[0] in (8, 9)
        assert found[1] == free[1]
        assert chooser.choose(logits, ids, [number, number], [{7, 8, 9}, ()])[0] in (7, 8, 9)
    assert logits[0, 0] == 5.0


def test_surprisal_is_that_of_the_distribution_without_the_end() -> None:
    logits, ids = np.repeat(LOGITS, 4, 0), np.repeat(IDS, 4, 0)
    assert surprisals(logits, ids, [11, 44, 99, 22], end_id=5) == pytest.approx(
        -np.log([0.5, 0.05, 0.05, 0.3]), abs=1e-6
    )
    assert surprisals(logits, ids, [22, 44, 22, 33], end_id=11) == pytest.approx(
        -np.log([0.6, 0.1, 0.6, 0.3]), abs=1e-6
    )


def test_nothing_beside_the_end_is_no_error() -> None:
    assert np.isfinite(surprisals(np.zeros((1, 1), np.float32), np.array([[5]]), [5], end_id=5)).all()
