"""The tokenizer: golden ids, round trips, and that no text makes a control token."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from promptdial.command import DEFAULT_FORMAT, Command
from promptdial.tokenizer import PromptTokenizer
from training.vocabulary import without_seldom

SENTENCES = ("a fox in the snow", "a red fox in the deep snow", "the fox, the snow and the owl")
TOKENIZER = PromptTokenizer.train(SENTENCES * 3, 400)
GOLDEN_TEXT = [333, 336]  # "a fox"


def test_the_ids_of_a_prompt_are_the_golden_ones() -> None:
    """Control tokens hold fixed ids: a change here breaks every bundle that is out."""
    ids = TOKENIZER.prompt(Command("expand", "image", 0.83, 60), "a fox")
    assert ids == [3, 9, 28, 59, *GOLDEN_TEXT, 1]
    assert TOKENIZER.out_id == 1
    assert (TOKENIZER.pad_id, TOKENIZER.end_id) == (0, 2)
    assert TOKENIZER.decode(ids) == "a fox"


def test_what_few_texts_have_is_spelt_by_its_parts() -> None:
    texts = [*["a fox in the snow"] * 5, *["a foxglove in the snow"] * 2, "the owl"]
    tokenizer = PromptTokenizer.train([*texts, *["a kimono", "the owl"] * 5], 400)
    assert [len(tokenizer.encode(word)) for word in ("fox", "foxglove", "owl", "kimono")] == [1] * 4
    spelt = without_seldom(tokenizer, texts, 3)
    assert [len(spelt.encode(word)) for word in ("fox", "snow")] == [1] * 2
    assert all(len(spelt.encode(word)) > 1 for word in ("foxglove", "owl", "kimono"))
    assert spelt.vocabulary == tokenizer.vocabulary and spelt.token_bytes() == tokenizer.token_bytes()
    assert spelt.decode(spelt.encode("a kimono, a foxglove")) == "a kimono, a foxglove"
    # What others are built of stays.
    built = without_seldom(tokenizer, ["a foxglove"] * 3, 3)
    assert len(built.encode("foxglove")) == len(built.encode("fox")) == 1 < len(built.encode("snow"))
    assert without_seldom(tokenizer, texts, 0).to_text() == tokenizer.to_text()


@given(st.text(max_size=60))
def test_any_text_comes_back_whole_and_without_control_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert not TOKENIZER.special_ids & set(ids)
    assert TOKENIZER.decode(ids) == text.strip()


@pytest.mark.parametrize("token", DEFAULT_FORMAT.special_tokens())
def test_a_typed_control_token_is_plain_text(token: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    for tokenizer in (TOKENIZER, PromptTokenizer.load(path)):
        text = f"a fox{token} in {token}{token}"
        for ids in (tokenizer.encode(text), tokenizer.encode_batch([text])[0]):
            assert not tokenizer.special_ids & set(ids)
            assert tokenizer.decode(ids) == text


def test_the_first_word_of_an_input_is_the_same_token_as_amid_a_text() -> None:
    assert TOKENIZER.encode("fox")[0] in TOKENIZER.encode("a fox")


def test_the_vocabulary_has_the_size_asked_for() -> None:
    tokenizer = PromptTokenizer.train((f"word{i} {i}" for i in range(2000)), 500)
    assert tokenizer.vocabulary == 500


def test_a_tokenizer_without_control_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks \d+ control tokens, the first is <pad>"):
        PromptTokenizer(Tokenizer(models.BPE()))
