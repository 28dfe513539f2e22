"""What becomes a row and what doesn't: rules of quality, composed rows, exclusion, and how often rows come."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from promptdial.command import DEFAULT_FORMAT
from promptdial.tokenizer import PromptTokenizer
from tests.tiny import tiny_checkpoint
from training import batches, checkpoint, derive, exclude, muon, rules
from training.episodes import Episode
from training.errors import TrainingError
from training.generator import Composer
from training.recipe import DataRecipe


def row(**fields: Any) -> dict[str, Any]:
    """A row of the open data."""
    return {"source": "vbench", "licence": "MIT", "split": "train", **fields}


def test_an_output_that_only_repeats_its_input_is_no_row() -> None:
    """A third of the rows from captions differed from their inputs by an article, which taught copying."""
    texts = [
        row(text="A red bus on a street."),
        row(text="A red bus waits on a street while people walk their dogs."),
    ]
    for seed in range(20):
        for episode in derive.from_captions(texts, seed):
            assert rules.adds(episode.input, episode.output), (episode.input, episode.output)
    assert not rules.adds("a red bus, street", "The red bus on a street.")
    assert rules.adds("red bus, street", "A red bus waits on a rainy street.")


def test_captions_of_one_picture_are_never_strung_together() -> None:
    """Such outputs say one thing three times, and the model learnt to."""
    captions = [
        "A dog on a lawn.",
        "A small dog runs over grass with a ball.",
        "A puppy plays outside.",
        "A pet.",
    ]
    texts = [row(text=text, group=1) for text in captions]
    for seed in range(20):
        assert {e.output for e in derive.from_captions(texts, seed) if e.task != "compress"} <= set(captions)


def test_draws_of_a_row_do_not_depend_on_other_rows() -> None:
    pair = row(
        kind="expand",
        modality="video",
        input="a fox",
        output="A red fox rests in deep snow. Pines stand behind.",
    )
    other = row(
        kind="expand", modality="video", input="an owl", output="An old owl sits on a branch. Stars shine."
    )
    alone = list(derive.from_pairs([pair], 3))
    assert list(derive.from_pairs([other, pair], 3))[-len(alone) :] == alone


def test_a_teacher_that_echoes_is_kept_as_found_only() -> None:
    pair = row(kind="expand", modality="video", input="a fox runs", teacher="hunyuan-rewriter",
               output="A fox runs. Realistic, Natural lighting, Calm")  # fmt: skip
    assert [(e.modality, e.method) for e in derive.from_pairs([pair], 0)] == [("video", "pair")]


def test_rows_by_a_language_model_are_counted_apart() -> None:
    pair = row(kind="expand", modality="image", input="a fox", output="A red fox rests in deep snow.",
               source="some-teacher-distilled")  # fmt: skip
    assert {e.origin for e in derive.from_pairs([pair], 0)} == {"distilled"}


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("A menu lies on a wooden table beside a cup of coffee.", False),
        ("A jar with a label stands on a shelf in the kitchen.", False),
        (
            "A room with a poster on the wall.",
            True,
        ),  # near the beginning: can't be told from a design by words alone
        ("A man stands in a large room and reads the old poster on the wall.", False),
        ("A minimalist logo of a fox.", True),
        ("Design a summer sale banner.", True),
        ("An elegant wedding invitation with roses.", True),
    ],
)
def test_what_is_designed_is_a_template_and_what_is_seen_is_not(text: str, template: bool) -> None:
    assert bool(rules.TEMPLATE.search(text)) == template


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Generating picture: Please draw a cat in the rain.", "A cat in the rain."),
        ("Please design a logo: There is a fox.", "There is a fox."),
        ("Draw a glass forest.", "A glass forest."),
        ("Drawing tools lie on a table.", "Drawing tools lie on a table."),
    ],
)
def test_instructions_to_a_generator_are_cut_off(text: str, plain: str) -> None:
    assert rules.without_instruction(text) == plain


@pytest.mark.parametrize(
    "text",
    [
        'The English words "hello" are on the wall.',
        "see more at www.example.com",
        "a very very old house",
        "红色的狐狸",
        "1 2 3 4 5 6 7 8 9",
    ],
)
def test_marks_of_the_web_of_translation_and_of_loops_are_noise(text: str) -> None:
    assert rules.is_noisy(text)
    assert not rules.is_noisy("A “quiet” café at dawn – with two chairs.")


def test_dashes_between_words_stay() -> None:
    assert rules.clean("Sep 16 - Sep 20 , at noon") == "Sep 16 - Sep 20, at noon"


def test_an_input_names_the_subject_and_not_the_frame_around_it() -> None:
    text = "Captured in the dim light of dusk, a close-up shot reveals a weathered brass lamp on a desk."
    assert rules.subject_part(text) == "a weathered brass lamp on a desk."
    for seed in range(20):
        assert "lamp" in rules.head_phrase(text, random.Random(seed))
        assert {"weathered", "brass", "lamp"} <= set(rules.telegraphic(text, random.Random(seed)).split())


@pytest.fixture
def composer() -> Composer:
    names = "animals dogs fruits vegetables dishes flowers objects clothing creatures instruments occupations"
    lists = {
        name: ["fox", "heron", "box of matches"] for name in (*names.split(), "cities", "adjectives", "nouns")
    }
    style = {
        "name": "art-ink",
        "prompt": "ink drawing of {prompt} . fine lines",
        "source": "s",
        "licence": "MIT",
    }
    return Composer(lists, [style], random.Random(1))


def test_composed_rows_agree_in_number_and_article(composer: Composer) -> None:
    """'Three foxes rests beside an roll' was learnt as grammar."""
    several = (
        r"\b(?:two|three|four|five|six|pair of|group of|dozens of) (?:\w+ )?(?:foxes|herons|boxes of matches)"
    )
    for episode in composer.episodes(600):
        text = episode.output
        assert not re.search(r"\ba [aeio]\w+|\ban [^aeiou\W]", text), text
        assert not re.search(rf"{several} stands\b", text, re.IGNORECASE), text
        assert not re.search(
            r"(?<!of )(?<!of \w{3} )\b(?:a|an) (?:\w+ )?(?:fox|heron|box of matches) stand\b", text
        ), text


def test_the_output_of_a_composed_row_names_its_subject(composer: Composer) -> None:
    for episode in composer.episodes(200):
        assert re.search(r"fox|heron|box", episode.output)


def episode(input: str, output: str, source: str = "vbench", origin: str = "derived") -> Episode:
    return Episode("expand", "image", input, output, origin, "m", source, "MIT", input, "train", 0.5, 5)


def test_rows_that_share_a_run_or_nearly_are_an_excluded_text_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("a red fox on a hill\n")
    long = "an old lighthouse keeper climbs the winding stairs with a lantern in hand"
    (tmp_path / "set.jsonl").write_text(json.dumps({"prompt": long, "id": 7}) + "\n")
    excluded = exclude.read([tmp_path / "set.txt", tmp_path / "set.jsonl"])
    gone = [
        episode("the red fox on a hill", "A fox with a bushy tail."),
        episode("a keeper", "At night the winding stairs with a lantern in hand are steep. He climbs."),
        episode("stairs", "Here the keeper climbs the winding stairs with a lantern in the hand."),
    ]
    kept = [episode("a red fox on the shore", "It waits."), episode("winding stairs", "A lantern in hand.")]
    assert exclude.without([*gone, *kept], excluded) == kept[:]


def test_an_unreadable_file_to_exclude_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing\.txt can't be read"):
        exclude.read([tmp_path / "nothing.txt"])
    (tmp_path / "bad.jsonl").write_text("{}\n{")
    with pytest.raises(TrainingError, match="line 2"):
        exclude.read([tmp_path / "bad.jsonl"])


def test_rows_come_as_often_as_their_source_or_else_their_origin_says() -> None:
    tokenizer = PromptTokenizer.train(
        ["a red fox rests in deep snow"] * 3, len(DEFAULT_FORMAT.special_tokens()) + 300
    )
    recipe = DataRecipe(50, 50, repeat={"derived": 3, "coco-captions": 0})
    rows = [episode("fox", "A red fox."), episode("snow", "Deep snow.", "coco-captions"),
            episode("a", "A fox rests.", origin="real")]  # fmt: skip
    assert len(batches.tokenize(rows, tokenizer, recipe)) == 3 + 0 + 1


def test_how_often_and_how_long_is_said_by_source_or_method_or_task_or_origin() -> None:
    tokenizer = PromptTokenizer.train(
        ["a red fox rests in deep snow"] * 3, len(DEFAULT_FORMAT.special_tokens()) + 300
    )
    scene, written = (replace(episode("fox", "A red fox rests."), origin="generated", method=method, words=4)
                      for method in ("scene", "written"))  # fmt: skip
    long = replace(written, output="A red fox rests in deep snow.", words=7)
    derived = replace(long, origin="derived", method="")
    shortened = replace(derived, task="compress")
    rows = [scene, written, long, derived, shortened]
    limits = {"written": 5, "compress": 7, "derived": 4}
    recipe = DataRecipe(50, 50, repeat={"generated": 2, "scene": 0}, longest=limits)
    kept = [found for found, _ in batches.fitting(rows, tokenizer, recipe)]
    assert kept == [written, shortened]
    assert len(batches.tokenize(rows, tokenizer, recipe)) == 2 + 1


def test_muon_makes_updates_orthogonal_and_learns() -> None:
    torch.manual_seed(0)
    for shape in ((3, 64, 64), (2, 32, 128), (2, 128, 32)):
        values = torch.linalg.svdvals(muon.orthogonal(torch.randn(shape)).float())
        assert (
            float(values.quantile(0.1)) > 0.4
        )  # a random square matrix has a direction or two of next to nothing
        assert float(values.max()) < 1.4
    model = checkpoint.load_model(tiny_checkpoint())
    optimizer = muon.Muon(muon.groups(model), lr=0.01, weight_decay=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    ids = torch.randint(0, model.config.vocab_size, (4, 24))
    losses = []
    for _ in range(12):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
