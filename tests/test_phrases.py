"""Sentences that don't hold together are told by the phrases of what was learnt, and drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from promptdial.bundle import PHRASES_FILE
from promptdial.engine import Engine, Event, Generation, GenerationRequest, Sampling, Token
from promptdial.engine.cached import Top
from promptdial.engine.length import Words
from promptdial.engine.phrases import Draft, Phrases, Sentences
from promptdial.errors import InvalidRequest, Overloaded
from tests.toy import END, ToyDecoder
from training import phrases as training
from training.episodes import Episode

ROWS = (
    ("a red fox", "A fox rests on the soft snow. The fox is seen from the side, and the light is warm."),
    ("two dogs", "Two dogs rest by an old gate. The view widens until open air appears."),
    ("a cat", "A cat and its shadow lie side by side. The view narrows."),
)


def episode(input: str, output: str, *, key: str = "", method: str = "written") -> Episode:
    return Episode("expand", "image", input, output, "generated", method, "s", "l", key or input)


KNOWN = training.learnt(
    [episode(input, output) for input, output in ROWS] + [episode("", "It goes on, side by side.")] * 3
)


def strange(input: str, sentence: str) -> bool:
    return KNOWN.is_strange(sentence, KNOWN.given(input))


@pytest.mark.parametrize(
    ("input", "sentence"),
    [
        ("a red fox", "A fox rests on the soft snow."),
        ("a wolf", "A wolf rests on the soft snow."),  # what is known with one thing is known with all
        ("three horses", "Three horses rest by an old gate."),
        ("a wolf", "The view widens until open air appears!"),
        ("a wolf", "A wolf and its shadow lie side by side."),  # as several rows have it
    ],
)
def test_known_sentences_hold_together(input: str, sentence: str) -> None:
    assert not strange(input, sentence)


@pytest.mark.parametrize(
    ("input", "sentence"),
    [
        ("a wolf", "The view widens until the side."),  # goes over from one sentence to another
        ("a wolf", "A wolf rest by an old gate."),  # a plural's verb
        ("a wolf", "The view widens until open."),  # breaks off
        ("a wolf", "A wolf rests on the soft."),
        ("a wolf", "A wolf and a wolf rests on the soft snow."),
        ("a wolf", "The light is light."),
    ],
)
def test_others_do_not(input: str, sentence: str) -> None:
    assert strange(input, sentence)


def test_a_word_may_come_twice_where_the_input_has_it_twice() -> None:
    known = training.learnt([episode("a dog by a dog", "A dog lies by a dog.")])
    assert not known.is_strange("A cat lies by a cat.", known.given("a cat and a cat"))
    assert known.is_strange("A cat lies by a cat.", known.given("a cat"))


def test_phrases_are_read_as_they_were_written() -> None:
    assert Phrases.from_bytes(KNOWN.to_bytes()) == KNOWN


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"{}\nbits", b"[]\nbits", b'{"repeated": []}\nbits', b"\xff\nbits"]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Phrases.from_bytes(data)


def test_a_filter_takes_few_others_for_known() -> None:
    known = Phrases.of({f"known {number}" for number in range(5000)}, (), ())
    assert all(known._has(f"known {number}") for number in range(5000))
    assert sum(known._has(f"other {number}") for number in range(5000)) < 100


def test_rows_that_tell_nothing_of_other_texts_leave_no_file(tmp_path: Path) -> None:
    alike = [episode(f"a fox {number}", "A fox rests on the soft snow.") for number in range(300)]
    training.write(tmp_path, alike)
    assert (tmp_path / PHRASES_FILE).is_file()
    unlike = [
        episode(f"a fox {number}", f"Number {chr(97 + number % 26)}{number} rests.") for number in range(300)
    ]
    letters = str.maketrans("0123456789", "abcdefghij")
    unlike = [episode(each.input, each.output.translate(letters)) for each in unlike]
    training.write(tmp_path, unlike)
    assert not (tmp_path / PHRASES_FILE).exists()


#         0    1    2     3       4       5        6     7
TOKENS = (b"", b"", b"", b" a", b" fox", b" sits", b".", b" sees")
WORDS = Words.of(TOKENS)
SITS = Sentences.of(Phrases.of({". a fox", "a fox sits", "fox sits ."}, (), ()), TOKENS, WORDS)
STRANGE, SOUND = [3, 4, 7, 6], [3, 4, 5, 6]


EITHER = (b"", b"", b"", b" a", b" fox", b" sits", b".", b" sees", b" hen")
EITHER_WORDS = Words.of(EITHER)
BOTH_SIT = Sentences.of(
    Phrases.of({". a fox", "a fox sits", "fox sits .", ". a hen", "a hen sits", "hen sits ."}, (), ()),
    EITHER,
    EITHER_WORDS,
)


class Sure(ToyDecoder):
    """Says "a fox sits." and "a hen sits." equally often, and that it sees hardly ever."""

    def _top(self, rows: Sequence[int], lengths: Sequence[int]) -> Top:
        ids = [((3, 3), (4, 8), (5, 7), (6, 6))[(length - 2) % 4] for length in lengths]
        logits = [[0.0, 0.0 if (length - 2) % 4 == 1 else -9.0] for length in lengths]
        return Top(np.array(logits, np.float32), np.array(ids))


class Wavering(ToyDecoder):
    """Says "a fox sits." and "a fox sees." equally often."""

    def _top(self, rows: Sequence[int], lengths: Sequence[int]) -> Top:
        ids = [[STRANGE[(length - 2) % 4], SOUND[(length - 2) % 4]] for length in lengths]
        return Top(np.zeros((len(ids), 2), np.float32), np.array(ids))


def said(
    engine: Engine, *, redraws: int, n: int = 1, seed: int = 0, temperature: float = 1.0
) -> list[list[int]]:
    """Candidates, which their events have told of in the same order."""
    sampling = Sampling(temperature, top_p=1.0, redraws=redraws)
    told: dict[int, list[int]] = {index: [] for index in range(n)}

    def note(event: Event) -> None:
        if isinstance(event, Token):
            told[event.candidate].append(event.token_id)

    request = GenerationRequest((1, 1), n=n, max_tokens=22, sampling=sampling, seed=seed)
    generation = engine.submit(request, note)
    while generation.status.value != "over":
        engine.step()
    found = [ids for ids, _ in generation.result().candidates]
    assert found == list(told.values())
    return found


def started(decoder: ToyDecoder, sentences: Sentences | None) -> Engine:
    engine = Engine(decoder, END, words=WORDS, sentences=sentences, clock=decoder.clock)
    engine.start(background=False)
    return engine


def test_a_strange_sentence_is_drawn_anew() -> None:
    engine = started(Wavering(), SITS)
    plain = said(engine, redraws=0, n=8)
    assert any(7 in each for each in plain) and engine.stats.redrawn_sentences == 0
    assert all(each == [*SOUND * 5, 3, 4] for each in said(engine, redraws=30, n=8))
    assert engine.stats.redrawn_sentences > 8


@pytest.mark.parametrize(("words", "rest"), [(18, []), (40, [3, 4])])
def test_a_sentence_that_does_not_fit_is_left_out_of_a_text_that_is_long_enough(
    words: int, rest: list[int]
) -> None:
    engine = started(Wavering(), SITS)
    sampling = Sampling(1.0, top_p=1.0, redraws=30, length_tolerance=0.2)
    told: list[Event] = []
    request = GenerationRequest((1, 1), max_tokens=22, sampling=sampling, words=words)
    generation = engine.submit(request, told.append)
    while generation.status.value != "over":
        engine.step()
    assert generation.result().candidates == [([*SOUND * 5, *rest], "length")]
    assert [event.token_id for event in told if isinstance(event, Token)] == [*SOUND * 5, *rest]


def test_a_sentence_that_is_strange_again_and_again_stays() -> None:
    engine = started(Wavering(), Sentences.of(Phrases.of({"nothing"}, (), ()), TOKENS, WORDS))
    ((ids),) = said(engine, redraws=3)
    assert len(ids) == 22 and engine.stats.redrawn_sentences == 3 * 5


def test_of_sentences_that_are_all_strange_the_least_strange_is_taken() -> None:
    engine = started(Wavering(), Sentences.of(Phrases.of({". a fox", "a fox sits"}, (), ()), TOKENS, WORDS))
    assert any(7 in ids for ids in said(engine, redraws=0, n=8))
    assert said(engine, redraws=20, n=8) == [[*SOUND * 5, 3, 4]] * 8
    drawn = engine.stats.redrawn_sentences
    assert 20 * 5 * 8 < drawn < 21 * 5 * 8  # once more where the last draw wasn't the best


class Forgetful(Wavering):
    """Its prefill is another graph, as that of an int8 bundle is: only it says "a fox sits" in a first sentence."""

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top:
        super().prefill(row, tokens, past)
        return Top(np.zeros((1, 2), np.float32), np.array([[5, 5]]))


def test_what_is_said_again_is_what_was_said() -> None:
    """The first draw of a text begins with what the prefill gives, which no later one does."""
    known = Phrases.of({". sits fox", "sits fox sits"}, (), ())
    engine = started(Forgetful(), Sentences.of(known, TOKENS, WORDS))
    plain = said(engine, redraws=0, n=8)
    assert all(ids[0] == 5 for ids in plain)
    again = said(engine, redraws=2, n=8)
    assert [ids[0] for ids in again].count(5) >= 4  # those whose first draw had "sits fox sits"
    assert any(ids[:4] == [5, 4, 5, 6] for ids in again)


@pytest.mark.parametrize("min_p", [0.05, 0.0])
def test_a_sentence_that_bars_leave_no_good_way_for_is_drawn_anew(min_p: float) -> None:
    """A second "a fox sits" is barred: it says "a hen sits" and not "a fox sees", as long as `min_p` rules that out."""
    texts = {". a fox", ". a hen", *(f"a {who} {does}" for who in ("fox", "hen") for does in ("sits", "sees")),
             *(f"{who} {does} ." for who in ("fox", "hen") for does in ("sits", "sees"))}  # fmt: skip
    decoder = Sure()
    sentences = Sentences.of(Phrases.of(texts, (), ()), EITHER, EITHER_WORDS)
    engine = Engine(decoder, END, words=EITHER_WORDS, sentences=sentences, clock=decoder.clock)
    engine.start(background=False)
    found = {}
    for redraws in (0, 20):
        sampling = Sampling(1.0, top_p=1.0, min_p=min_p, no_repeat=3, redraws=redraws)
        handles = [
            engine.submit(GenerationRequest((1, 1), n=8, max_tokens=length, sampling=sampling))
            for length in (8, 12)
        ]
        while any(handle.status.value != "over" for handle in handles):
            engine.step()
        found[redraws] = [[ids for ids, _ in handle.result().candidates] for handle in handles]
    assert any(7 in ids for ids in found[0][0])
    assert any(7 in ids for ids in found[20][0]) == (min_p == 0)
    assert all({4, 8} <= set(ids) for ids in found[20][0]) == (min_p > 0)
    # With three sentences there is no other way, and the last of so many tries stays.
    assert all(7 in ids for ids in found[20][1])


def test_admission_learns_how_much_is_drawn_anew() -> None:
    """Every sentence four times: who leaves twice the time of the text alone is refused once that is known."""
    decoder = Wavering()
    engine = started(decoder, Sentences.of(Phrases.of({"nothing"}, (), ()), TOKENS, WORDS))
    sampling = Sampling(1.0, top_p=1.0, redraws=3)
    alone_s = 22 * (decoder.step_s + decoder.row_s)

    def submit() -> Generation:
        deadline = decoder.now + 2 * alone_s
        return engine.submit(GenerationRequest((1, 1), max_tokens=22, sampling=sampling, deadline=deadline))

    submit().cancel()
    for seed in range(40):
        said(engine, redraws=3, seed=seed)
    with pytest.raises(Overloaded, match="idle engine"):
        submit()


def test_nothing_is_drawn_anew_without_phrases_or_where_all_draws_are_alike() -> None:
    assert said(started(Wavering(), None), redraws=3) == said(started(Wavering(), SITS), redraws=0)
    engine = started(Wavering(), SITS)
    assert said(engine, redraws=3, temperature=0.0) == [[*STRANGE * 5, 3, 4]]
    assert engine.stats.redrawn_sentences == 0


def test_a_candidate_says_the_same_in_any_company() -> None:
    together = said(started(Wavering(), SITS), redraws=1, n=8, seed=4)
    assert together[:3] == said(started(Wavering(), SITS), redraws=1, n=3, seed=4)
    assert len({tuple(each) for each in together}) > 1


def test_a_sentence_is_handed_out_when_it_is_whole() -> None:
    engine = started(Wavering(), SITS)
    heard: list[Event] = []
    sampling = Sampling(1.0, top_p=1.0, redraws=3)
    generation = engine.submit(GenerationRequest((1, 1), max_tokens=22, sampling=sampling), heard.append)
    counts = []
    while generation.status.value != "over":
        engine.step()
        counts.append(sum(isinstance(event, Token) for event in heard))
    assert set(counts) == {0, 4, 8, 12, 16, 20, 22}


class Hashing(ToyDecoder):
    """Either of two tokens may follow what a row holds, which a hash tells."""

    def _top(self, rows: Sequence[int], lengths: Sequence[int]) -> Top:
        ids = [
            may_follow(self._cells[row, :length].tolist()) for row, length in zip(rows, lengths, strict=True)
        ]
        return Top(np.zeros((len(ids), 2), np.float32), np.array(ids))


def may_follow(held: list[int]) -> list[int]:
    token = hash(tuple(held)) % 4
    return [3 + token, 3 + (token + 1) % 5]


def test_what_was_withdrawn_leaves_nothing_in_the_cache() -> None:
    engine = started(Hashing(), Sentences.of(Phrases.of({"nothing"}, (), ()), TOKENS, WORDS))
    for ids in said(engine, redraws=2, n=6):
        held = [1, 1]
        for token in ids:
            assert token in may_follow(held)
            held.append(token)
    assert engine.stats.redrawn_sentences > 6


def test_a_draft_gives_each_sentence_as_many_tries() -> None:
    draft = Draft(SITS, SITS.given((1, 1)), redraws=2)
    assert [draft.refuses(STRANGE) for _ in range(6)] == [True, True, False, True, True, False]
    assert draft.refuses(STRANGE) and not draft.refuses(SOUND)
    assert [draft.refuses(STRANGE) for _ in range(3)] == [True, True, False]
    assert draft.ends_with(6) and not draft.ends_with(5)


class Doubting(ToyDecoder):
    """Says "a fox sits.", and "a hen sits." in one of four sentences."""

    def _top(self, rows: Sequence[int], lengths: Sequence[int]) -> Top:
        ids = [((3, 8), (4, 8), (5, 8), (6, 8))[(length - 2) % 4] for length in lengths]
        rare = [np.log(1 / 3) if (length - 2) % 4 == 1 else -30.0 for length in lengths]
        return Top(np.array([[0.0, each] for each in rare], np.float32), np.array(ids))


@pytest.mark.parametrize(("max_surprisal", "rare"), [(0.0, True), (1.5, True), (1.3, False)])
def test_an_unlikely_sentence_is_drawn_anew(max_surprisal: float, rare: bool) -> None:
    """A hen has ln 4 = 1.39 nats, and what else a sentence says none."""
    decoder = Doubting()
    engine = Engine(decoder, END, words=EITHER_WORDS, sentences=BOTH_SIT, clock=decoder.clock)
    engine.start(background=False)
    sampling = Sampling(1.0, top_p=1.0, redraws=20, max_surprisal=max_surprisal)
    handle = engine.submit(GenerationRequest((1, 1), n=8, max_tokens=20, sampling=sampling))
    while handle.status.value != "over":
        engine.step()
    assert any(8 in ids for ids, _ in handle.result().candidates) == rare
    assert (engine.stats.redrawn_sentences == 0) == rare


def test_of_sentences_that_are_all_unlikely_the_likeliest_is_said_again() -> None:
    draft = Draft(BOTH_SIT, BOTH_SIT.given((1, 1)), redraws=2, max_surprisal=1.0)
    likeliest = [3, 8, 5, 6]

    def refuses(*nats: float, said: list[int] = SOUND) -> bool:
        for each in nats:
            draft.adds(each)
        return draft.refuses(said)

    # The two least likely tokens count, those of one try alone.
    assert not refuses(0.3, 0.5, 0.2, 0.4)
    assert refuses(0.3, 0.8, 0.2, 0.4)
    assert refuses(0.0, 0.7, 0.4, 0.1, said=likeliest)
    assert refuses(0.9, 0.9, 0.0, 0.0)
    assert [draft.goes_on(place) for place in range(5)] == [*likeliest, None]
    assert not refuses(9.0, 9.0, 9.0, 9.0)
    assert draft.goes_on(0) is None


class Closing(ToyDecoder):
    """Says "a fox sits.", then anything; of its first text it is sure."""

    def _top(self, rows: Sequence[int], lengths: Sequence[int]) -> Top:
        sure = [(3, 8), (4, 8), (5, 8), (6, 8)]
        ids = [sure[length - 2] if length < 6 else (8, END) for length in lengths]
        rare = [-30.0 if length < 6 else 0.0 for length in lengths]
        return Top(np.array([[0.0, each] for each in rare], np.float32), np.array(ids))


def test_what_ends_a_text_is_no_part_of_a_sentence() -> None:
    """That it is long enough is known when its next token has been drawn, which is not said."""
    decoder = Closing()
    engine = Engine(decoder, END, words=EITHER_WORDS, sentences=SITS, clock=decoder.clock)
    engine.start(background=False)
    sampling = Sampling(1.0, top_p=1.0, length_tolerance=0.2, redraws=2, max_surprisal=1e-6)
    for seed in range(8):
        request = GenerationRequest((1, 1), max_tokens=9, sampling=sampling, words=3, seed=seed)
        handle = engine.submit(request)
        while handle.status.value != "over":
            engine.step()
        assert handle.result().candidates == [(SOUND, "stop")]
    assert engine.stats.redrawn_sentences == 0


@pytest.mark.parametrize(
    ("field", "sampling"),
    [
        ("redraws", Sampling(redraws=-1)),
        ("max_surprisal", Sampling(max_surprisal=-1.0)),
        ("max_surprisal", Sampling(max_surprisal=float("nan"))),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(field: str, sampling: Sampling) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Engine(Wavering(), END).submit(GenerationRequest((1, 1), sampling=sampling))
    assert refused.value.field == field
