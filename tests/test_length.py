"""Keeping to a number of words: what tokens count, when a text may and has to end, and that the engine obeys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptdial.bundle import load_bundle
from promptdial.command import Command, word_count
from promptdial.engine import Engine, GenerationRequest, Sampling
from promptdial.engine.cached import Top
from promptdial.engine.length import Pace, Words
from promptdial.errors import InvalidRequest
from promptdial.relevance import default_bundle
from tests.toy import END, ToyDecoder

#         0    1    2     3        4       5     6      7      8
TOKENS = (b"", b"", b"", b" fox", b"es", b".", b" a", b'."', b" 4")
TABLE = Words.of(TOKENS)
KEPT = Sampling(temperature=0.0, length_tolerance=0.1)


def text(ids: Sequence[int]) -> str:
    return b"".join(TOKENS[token] for token in ids).decode()


def pace(wanted: int, ids: Sequence[int], tolerance: float = 0.1) -> Pace:
    made = Pace(wanted, tolerance, TABLE)
    for token in ids:
        made.add(token)
    return made


@given(st.lists(st.integers(3, 8), max_size=40))
def test_words_are_counted_as_everywhere(ids: list[int]) -> None:
    count = word_count(text(ids))
    assert pace(max(1, count), ids).may_end or not ids
    if ids:
        assert not pace(count + 1, ids, tolerance=0.0).may_end


def test_a_text_may_end_when_it_is_nearly_long_enough() -> None:
    assert not pace(10, [3] * 8).may_end
    assert pace(10, [3] * 9).may_end


def test_a_text_has_to_end_with_the_sentence_that_comes_nearest() -> None:
    sentence = [6, 3, 3, 3, 3, 5]  # 5 words
    assert not pace(10, sentence).must_end  # another one would meet the length
    assert pace(10, sentence * 2).must_end
    assert not pace(10, [*sentence, *sentence[:-1]]).must_end  # the same words, but amid a sentence
    assert pace(12, sentence * 2, tolerance=0.2).must_end  # 2 short now, 3 long with another one
    assert not pace(13, sentence * 2, tolerance=0.3).must_end  # 3 short now, 2 long with another one


def test_a_quotation_can_end_a_sentence() -> None:
    assert pace(3, [6, 3, 3, 7]).must_end


class Script(ToyDecoder):
    """Says the same tokens again and again, and would rather end: <end> is the likeliest at every step."""

    def __init__(self, script: Sequence[int], *, ends: bool) -> None:
        super().__init__()
        self._script, self._ends = script, ends

    def _top(self, rows: Sequence[int], lengths: Sequence[int]) -> Top:
        ids = [self._script[(length - 2) % len(self._script)] for length in lengths]
        return Top(
            np.array([[1.0, 0.0] if self._ends else [0.0, 1.0]] * len(ids), np.float32),
            np.array([[END, token] if self._ends else [token, END] for token in ids]),
        )


def said(decoder: ToyDecoder, words: int | None, sampling: Sampling = KEPT) -> str:
    engine = Engine(decoder, END, words=TABLE, clock=decoder.clock)
    engine.start(background=False)
    generation = engine.submit(GenerationRequest((1, 1), max_tokens=60, sampling=sampling, words=words))
    while generation.status.value != "over":
        engine.step()
    ((ids, _),) = generation.result().candidates
    return text(ids)


def test_a_model_that_ends_too_soon_goes_on() -> None:
    script = [6, 3, 3, 5]
    assert said(Script(script, ends=True), words=None) == ""
    assert said(Script(script, ends=True), words=9) == " a fox fox. a fox fox. a fox fox"
    assert said(Script(script, ends=True), words=9, sampling=Sampling(temperature=0.0)) == ""


def test_a_model_that_goes_on_too_long_ends_with_a_sentence() -> None:
    assert said(Script([6, 3, 3, 5], ends=False), words=9) == " a fox fox. a fox fox. a fox fox."
    assert said(Script([6, 3, 3, 5], ends=False), words=8) == " a fox fox. a fox fox. a fox fox."


def test_no_sentence_is_cut_to_meet_a_length() -> None:
    """The longest answer wins over the wanted length: it ends by max_tokens, as without one."""
    assert word_count(said(Script([3], ends=False), words=9)) == 60


@pytest.mark.small_bundle
def test_texts_of_the_trained_model_reach_the_length() -> None:
    bundle = load_bundle(default_bundle())
    tokenizer = bundle.tokenizer()
    prompt = tuple(tokenizer.prompt(Command("expand", "image", 0.8, 50), "a fox in the snow"))
    engine = Engine.from_bundle(bundle, threads=1)
    engine.start()
    try:
        sampling = Sampling(temperature=1.0, top_p=1.0, top_k=64, length_tolerance=0.1)
        asked = GenerationRequest(prompt, n=16, max_tokens=180, sampling=sampling, words=50)
        answers = engine.submit(asked).result().candidates
    finally:
        engine.close()
    lengths = [word_count(tokenizer.decode(ids)) for ids, reason in answers if reason == "stop"]
    assert len(lengths) > 8 and min(lengths) >= 45


@pytest.mark.parametrize(("words", "tolerance"), [(0, 0.1), (12, 1.0), (12, -0.1)])
def test_what_can_not_be_kept_to_is_refused(words: int, tolerance: float) -> None:
    engine = Engine(ToyDecoder(), END, words=TABLE)
    with pytest.raises(InvalidRequest):
        engine.submit(GenerationRequest((1, 1), sampling=Sampling(length_tolerance=tolerance), words=words))
