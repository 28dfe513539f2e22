"""Rules over texts, near-duplicates and batches: the pure parts of training."""

from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from promptdial.command import Command
from promptdial.relevance import SCORER_FILE, SCORER_TOKENIZER_FILE, Floats, RelevanceScorer, load_scorer
from promptdial.tokenizer import PromptTokenizer
from training import batches, init, recipe, rules
from training.batches import IGNORED, BatchDataset, Row
from training.embeddings import EmbeddingCache
from training.episodes import Episode
from training.errors import TrainingError
from training.split import near_duplicates

TEXT = (
    "A weathered wooden boat rests on a pebble beach at dawn. Soft pink light falls on the calm water. "
    'A sign says "KEEP OUT!" beside the bow.'
)


def test_cuts_end_with_sentences_and_the_last_is_the_whole_text() -> None:
    cuts = rules.cuts(TEXT)
    assert len(cuts) == 3
    assert cuts[-1] == TEXT
    assert all(TEXT.startswith(cut) and cut.endswith(".") for cut in cuts)


def test_key_phrases_are_runs_of_content_words() -> None:
    assert rules.key_phrases("A red umbrella in the heavy rain, near a bus") == [
        "red umbrella",
        "heavy rain",
        "near a bus"[-3:],
    ]


def test_a_head_phrase_is_the_beginning_without_dangling_words() -> None:
    for seed in range(20):
        head = rules.head_phrase(TEXT, random.Random(seed))
        assert "weathered wooden boat" in head
        assert head.split()[-1] not in rules.STOPWORDS


def test_derived_inputs_hold_words_of_the_text_only() -> None:
    known = set(rules.words(TEXT))
    for seed in range(20):
        rng = random.Random(seed)
        for make in (rules.telegraphic, rules.tag_list, rules.half, rules.head_phrase):
            assert set(rules.words(make(TEXT, rng))) <= known


def test_motion_words_are_found() -> None:
    assert rules.MOTION.search("the camera pans over a field")
    assert not rules.MOTION.search("a field of poppies under a stormy sky")


sets = st.lists(st.text("abcdef ", min_size=1, max_size=12), min_size=2, max_size=12)


@given(sets)
def test_near_duplicates_are_found_exactly(texts: list[str]) -> None:
    expected = set()
    for (i, first), (j, second) in itertools.combinations(enumerate(texts), 2):
        left, right = set(rules.words(first)), set(rules.words(second))
        if left and right and len(left & right) / len(left | right) >= 0.7:
            expected.add((i, j))
    found = [(min(pair), max(pair)) for pair in near_duplicates(texts)]
    assert len(found) == len(set(found))
    assert set(found) == expected


TOKENIZER = PromptTokenizer.train([TEXT] * 3, 400)


def _rows(count: int) -> list[Row]:
    rng = random.Random(0)
    return [
        Row(
            Command("expand", "image", 0.5, 9),
            [80] * rng.randint(1, 30),
            [*[90] * rng.randint(1, 60), TOKENIZER.end_id],
        )
        for _ in range(count)
    ]


def test_batches_hold_every_row_once_within_the_token_budget() -> None:
    rows = _rows(200)
    data = BatchDataset(rows, TOKENIZER, 512, 0.0, 0)
    items = [data[index] for index in range(len(data))]
    assert sum(len(item["input_ids"]) for item in items) == len(rows)
    assert all(item["input_ids"].numel() <= 512 for item in items)
    assert sum(int((item["labels"] != IGNORED).sum()) for item in items) == sum(
        len(row.output) for row in rows
    )


def test_a_training_row_begins_with_the_ids_that_serving_sends() -> None:
    """Rows are cut from episodes, prompts come from requests: both must read the same to the model."""
    episode = Episode(
        "tags", "video", "boat, <end> beach", TEXT, "real", "pair", "s", "MIT", "k", relevance=0.61, words=25
    )
    rows = batches.tokenize([episode], TOKENIZER, recipe.DataRecipe(100, 200))
    item = BatchDataset(rows, TOKENIZER, 512, 0.0, 0)[0]
    prompt = TOKENIZER.prompt(Command("tags", "video", 0.61, 25), "boat, <end> beach")
    assert item["input_ids"][0, : len(prompt)].tolist() == prompt
    target = item["labels"][0][item["labels"][0] != IGNORED].tolist()
    assert target == [*TOKENIZER.encode(TEXT), TOKENIZER.end_id]
    assert item["labels"][0, : len(prompt)].tolist() == [IGNORED] * len(prompt)


def test_a_share_of_the_fields_is_left_out() -> None:
    data = BatchDataset(_rows(400), TOKENIZER, 100_000, 0.25, 0)
    any_id = TOKENIZER.token_id("<rel:any>")
    relevance = torch.cat([data[i]["input_ids"][:, 2] for i in range(len(data))])
    assert 0.15 < float((relevance == any_id).float().mean()) < 0.35


def test_the_loss_is_the_mean_over_output_tokens_as_transformers_computes_it() -> None:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=TOKENIZER.vocabulary, n_positions=128, n_embd=32, n_layer=2, n_head=2)
    ).eval()
    item = BatchDataset(_rows(5), TOKENIZER, 2048, 0.0, 0)[0]
    ours = batches.output_loss(model, item).detach()
    theirs = model(input_ids=item["input_ids"], labels=item["labels"]).loss.detach()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_a_tokens_gain_is_that_of_its_own_term_and_others_have_one() -> None:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=TOKENIZER.vocabulary, n_positions=128, n_embd=32, n_layer=2, n_head=2)
    ).eval()
    command, output = Command("expand", "image", 0.5, 9), [91, 92, 93, TOKENIZER.end_id]
    judged, plain = Row(command, [80, 81], output, [0.0, 0.0, 2.0, 0.0]), Row(command, [82], output)
    batch = BatchDataset([judged, plain], TOKENIZER, 512, 0.0, 0)[0]
    terms = []
    for row in (judged, plain):
        ids = torch.tensor([[*TOKENIZER.frame(command, row.input), *output]])
        chances = model(input_ids=ids).logits.log_softmax(-1)[0, -len(output) - 1 : -1]
        terms.append(-chances.gather(1, torch.tensor(output)[:, None])[:, 0])
    expected = (2 * terms[0][2] + terms[1].sum()) / 8
    assert float(batches.output_loss(model, batch).detach()) == pytest.approx(
        float(expected.detach()), rel=1e-4
    )


def test_what_has_gains_keeps_its_command() -> None:
    row = Row(Command("expand", "image", 0.5, 9), [80], [90, TOKENIZER.end_id], [1.0, 1.0])
    data = BatchDataset([row] * 50, TOKENIZER, 100_000, 0.9, 0)
    prompt = torch.tensor(TOKENIZER.frame(row.command, row.input))
    assert all((ids[: len(prompt)] == prompt).all() for ids in data[0]["input_ids"])


@pytest.mark.parametrize("name", ["small", "base"])
def test_a_recipe_has_the_size_it_is_named_for(name: str) -> None:
    model = recipe.load(name).model
    parameters = model.vocabulary * model.width + model.positions * model.width + 2 * model.width
    parameters += model.layers * (12 * model.width**2 + 13 * model.width)
    low, high = {"small": (10e6, 25e6), "base": (104e6, 105e6)}[name]
    assert low <= parameters <= high


def test_an_unknown_recipe_or_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no recipe 'huge': give one of base, small"):
        recipe.load("huge")
    text = (recipe.RECIPES / "small.toml").read_text().replace("layers = 4", "depth = 4")
    assert tomllib.loads(text)
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(TrainingError, match=r"own.toml, \[model\]: unknown setting 'depth'"):
        recipe.load(str(tmp_path / "own.toml"))


def test_whole_words_start_from_the_scorers_embedding_of_them(tiny_bundle: Path) -> None:
    scorer = load_scorer(tiny_bundle)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=TOKENIZER.vocabulary, n_positions=64, n_embd=scorer.width, n_layer=1, n_head=6)
    )
    init.initialize(model, recipe.InitRecipe("scorer", "sinusoidal", "copy"), TOKENIZER, scorer)
    ids = TOKENIZER.word_ids()
    expected = scorer.embed([TOKENIZER.decode([token_id]) for token_id in ids])
    expected -= expected.mean(axis=0)
    found = model.transformer.wte.weight.detach()[ids]
    assert float(torch.cosine_similarity(found, torch.from_numpy(expected)).min()) > 0.9
    assert 0.015 < float(found.std()) < 0.025
    narrow = GPT2LMHeadModel(
        GPT2Config(vocab_size=TOKENIZER.vocabulary, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    )
    with pytest.raises(TrainingError, match=r"needs model\.width 384, got 32"):
        init.initialize(narrow, recipe.InitRecipe("scorer"), TOKENIZER, scorer)


def test_a_scorer_never_meets_another_scorers_embeddings(tiny_bundle: Path, tmp_path: Path) -> None:
    """The cache was keyed by text alone, so that a new scorer silently gave the old one's labels."""

    class Reversed(RelevanceScorer):
        def embed(self, texts: Sequence[str], batch_size: int = 64) -> Floats:
            return super().embed(texts, batch_size)[:, ::-1]

    scorer = load_scorer(tiny_bundle)
    other = Reversed(tiny_bundle / SCORER_FILE, tiny_bundle / SCORER_TOKENIZER_FILE)
    first = EmbeddingCache(tmp_path, scorer).embed(["an owl"])
    second = EmbeddingCache(tmp_path, other).embed(["an owl"])
    assert (second[:, ::-1] == first).all()
    assert (EmbeddingCache(tmp_path, scorer).rows(["an owl"]) == first).all()
