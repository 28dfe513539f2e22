"""`refine`: what a sentence's faults are, and what its tokens gain. The command is run in test_training_improve."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from promptdial.bundle import load_bundle
from promptdial.command import Command
from promptdial.relevance import default_bundle
from promptdial.tokenizer import PromptTokenizer
from training import refine
from training.episodes import Episode
from training.errors import TrainingError
from training.refine import Rollout
from training.sense import Faults, Sense


def row(input: str, output: str, task: str = "expand") -> Episode:
    return Episode(task, "image", input, output, "generated", "written", "s", "MIT", input, "train", 0.7,
                   len(output.split()))  # fmt: skip


SENSE = Sense.of(
    [
        row("a fox", "The fox rests beside a stone wall. A lamp post stands behind the fox."),
        row("a heron", "The heron rests beside a stone wall. A lamp post stands behind the heron."),
        row("an otter", "The otter rests beside a stone wall. A lamp post stands behind the otter."),
        row("a red kite", "The red kite rests beside a stone wall."),
        row("a barge", "A yacht rests beside a stone wall."),  # about something else
        row("a fox", "stone, unheard", task="tags"),
    ]
)


@pytest.mark.parametrize(
    ("sentence", "faults"),
    [
        ("The newt rests beside a stone wall.", Faults(0, 0, 0)),
        ("A lamp post stands behind the newt.", Faults(0, 0, 0)),
        ("The crested newt rests beside a stone wall.", Faults(0, 0, 0)),  # as the input has it
        ("The crested newts rests beside a stone wall.", Faults(0, 0, 0)),
        ("The newt crested rests beside a stone wall.", Faults(1, 0, 0)),
        ("The newt rests stone wall.", Faults(1, 0, 0)),
        ("The newt rests beside a.", Faults(1, 0, 0)),
        ("The yacht rests beside a stone wall.", Faults(1, 1, 0)),
        ("The newt rests beside a stone wall behind the newt.", Faults(1, 0, 1)),
        ("The newt behind the newt rests beside a stone wall.", Faults(1, 0, 1)),
        ("A lamp post stands behind a stone lamp post.", Faults(3, 0, 2)),
    ],
)
def test_faults_are_unknown_pairs_strange_things_and_echoes(sentence: str, faults: Faults) -> None:
    ((_, found),) = SENSE.sentences("a crested newt", sentence)
    found = replace(found, lost=0)  # most leave out "crested"
    assert found == faults
    assert bool(found) == (faults != Faults(0, 0, 0))


def test_a_longer_answer_that_lacks_words_of_a_short_input_is_at_fault_in_its_first_sentence() -> None:
    def lost(input: str, answer: str, *, on_topic: bool = True) -> list[int]:
        return [faults.lost for _, faults in SENSE.sentences(input, answer, on_topic=on_topic)]

    answer = "The newt rests beside a stone wall. A lamp post stands behind the newt."
    assert lost("a newt by a barge", answer) == [1, 0]
    assert lost("a newt by a wall", answer) == [0, 0]
    assert lost("a newt by a barge", "A newt.") == [0]  # no room
    assert not any(
        lost("a newt by" + " a big barge and" * 5, " ".join([answer] * 3))
    )  # of a long one a part is told
    assert lost("a newt by a barge", answer, on_topic=False) == [0, 0]


def test_words_that_rows_say_twice_may_come_again() -> None:
    told = "The fox and the heron stand side by side."
    sense = Sense.of([row(f"fox, heron {number}", told) for number in range(3)])
    ((_, found),) = sense.sentences("an otter", "The otter and the wall stand side by side.")
    assert found.echoes == 0
    ((_, found),) = sense.sentences("an otter", "The otter stands stone by stone.")
    assert found.echoes == 1


def test_nothing_is_strange_where_another_topic_was_asked_for() -> None:
    sentence = "A yacht rests beside a stone wall."
    assert SENSE.sentences("a newt", sentence) == [(sentence, Faults(0, 1, 0, lost=1))]
    assert SENSE.sentences("a newt", sentence, on_topic=False) == [(sentence, Faults(0, 0, 0))]


GOOD, BAD = "The fox rests beside a wall.", "Wall beside the the."

TOKENIZER = PromptTokenizer.train([GOOD, BAD] * 3, 400)


def rollout(*sentences: tuple[str, bool], ended: bool = True) -> Rollout:
    return Rollout(
        Command("expand", "image", 0.7, 10), "a fox", " ".join(s for s, _ in sentences), ended, sentences
    )


def test_tokens_gain_by_how_their_sentence_compares_with_the_others_answers_to_the_command() -> None:
    first, second = rollout((GOOD, False), (BAD, True)), rollout((GOOD, False), (GOOD, False))
    rows = refine.gained([[first, second, rollout((GOOD, False), ended=False)]], TOKENIZER)
    assert [TOKENIZER.decode(row.output) for row in rows] == [
        first.output,
        second.output,
    ]  # what never ended teaches nothing
    assert all(len(row.gains or ()) == len(row.output) for row in rows)
    gains = rows[0].gains or []
    split = len(TOKENIZER.encode(GOOD))
    assert len({*gains[:split]}) == 1
    assert len({*gains[split:-1]}) == 1
    assert 0 > gains[0] > gains[-2]  # of the good sentence and of the bad one
    assert (rows[1].gains or [])[0] > 0  # on which no bad one followed


def test_a_first_sentence_is_held_against_first_ones() -> None:
    hard = [rollout((BAD, True), (GOOD, False)), rollout((BAD, True), (BAD, True))]
    ours, others = refine.gained([hard], TOKENIZER)
    split = len(TOKENIZER.encode(BAD))
    assert (
        (ours.gains or [])[0] == -(others.gains or [])[0] > 0
    )  # both are bad; what followed makes the difference
    assert (ours.gains or [])[split] > (ours.gains or [])[0]


def test_of_answers_that_are_all_alike_there_is_nothing_to_learn() -> None:
    assert refine.gained([[rollout((GOOD, False)), rollout((GOOD, False))]], TOKENIZER) == []


def test_commands_ask_for_what_the_bundle_supports_and_tell_what_is_to_be_on_topic() -> None:
    bundle = load_bundle(default_bundle(), verify=False)
    rows = [
        row(f"a fox and {number} herons", "A fox.", task)
        for number in range(20)
        for task in ("expand", "style")
    ]
    rows += [replace(row("a barge", "A yacht."), method="mismatched"), row("fox, heron", "A fox.", "tags")]
    asked = list(refine.commands(rows, bundle, 400, random.Random(0)))
    assert {chosen.input for _, chosen, _ in asked} <= {each.input for each in rows[:40]}
    for command, chosen, on_topic in asked:
        assert (command.task, command.modality) == (chosen.task, chosen.modality)
        assert command.length is not None
        cell = bundle.support.cell(command.task, command.length)
        assert cell is not None
        if command.relevance is None:
            assert on_topic  # where nothing is said of relevance, nothing else is to be written about
        elif on_topic:
            assert cell.p50 <= command.relevance <= cell.p95 + 0.05
        else:
            assert cell.p05 <= command.relevance <= cell.p50
    free, strays = (
        sum(chosen) for chosen in zip(*((c.relevance is None, not t) for c, _, t in asked), strict=True)
    )
    assert 20 < free < 65
    assert 40 < strays < 110


def test_without_rows_that_are_answered_in_sentences_there_is_nothing_to_ask() -> None:
    bundle = load_bundle(default_bundle(), verify=False)
    with pytest.raises(TrainingError, match="hold no rows of expand, brief, style, suggest"):
        list(refine.commands([row("fox, heron", "A fox.", "tags")], bundle, 1, random.Random(0)))
