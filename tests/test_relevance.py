"""The relevance scorer: close to the model it was made from, and the same for a text in any company."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertModel

from export.__main__ import main
from export.scorer import build_scorer, find_weights
from promptdial.errors import BundleError, ExportError
from promptdial.relevance import MAX_WORDPIECES, RelevanceScorer, load_scorer
from tests.tiny import SENTENCES, scorer_folder, tiny_bundle

SUBJECTS = (
    "a fox",
    "a lighthouse",
    "an old bicycle",
    "two chess players",
    "a bowl of ramen",
    "a red sports car",
)
PLACES = (
    "in the snow",
    "at night",
    "on a crowded street",
    "under water",
    "in a quiet library",
    "on the moon",
)
TEXTS = [
    *(f"{subject} {place}" for subject in SUBJECTS for place in PLACES),
    *SENTENCES,
    " ".join(SENTENCES * 2),
]


@pytest.fixture(scope="module")
def scorer() -> RelevanceScorer:
    return load_scorer(scorer_folder())


def reference() -> np.ndarray:
    """fp32 embeddings by transformers."""
    folder = find_weights()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_WORDPIECES)
    model = BertModel.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for text in TEXTS:
            mean = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].mean(0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def test_int8_embeddings_agree_with_the_fp32_model(scorer: RelevanceScorer) -> None:
    found, wanted = scorer.embed(TEXTS), reference()
    agreement = (found * wanted).sum(axis=1)
    assert agreement.mean() > 0.995
    assert agreement.min() > 0.99
    assert np.abs(found @ found.T - wanted @ wanted.T).mean() < 0.01


def test_a_text_is_embedded_the_same_alone_and_in_any_batch(scorer: RelevanceScorer) -> None:
    together = scorer.embed(TEXTS)
    alone = np.concatenate([scorer.embed([text]) for text in TEXTS])
    assert together == pytest.approx(alone, abs=1e-5)
    assert scorer.embed(TEXTS[::-1], batch_size=3) == pytest.approx(alone[::-1], abs=1e-5)


def test_embeddings_are_unit_vectors(scorer: RelevanceScorer) -> None:
    assert np.linalg.norm(scorer.embed(TEXTS), axis=1) == pytest.approx(1.0, abs=1e-5)
    assert scorer.embed([]).shape == (0, 384)


def test_scores_rank_a_fitting_output_over_an_unrelated_one_and_a_copy_is_1(scorer: RelevanceScorer) -> None:
    text = "a fox in the snow"
    fitting, unrelated, copy = scorer.score([text] * 3, [SENTENCES[0], SENTENCES[4], text])
    assert 0.0 <= unrelated < 0.3
    assert 0.5 < fitting < 1.0
    assert copy == pytest.approx(1.0, abs=1e-5)
    assert scorer.score([], []) == []


def test_odd_texts_have_scores_too(scorer: RelevanceScorer) -> None:
    odd = ["", "   ", "🦊🦊", "北京", "\x00\u200b", "word " * 5000]
    assert all(0.0 <= score <= 1.0 for score in scorer.score(odd, odd[::-1]))


def test_inputs_and_outputs_must_pair(scorer: RelevanceScorer) -> None:
    with pytest.raises(ValueError, match="2 inputs but 1 outputs"):
        scorer.score(["a", "b"], ["c"])


def test_the_default_scorer_is_that_of_the_named_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTDIAL_BUNDLE", str(tiny_bundle()))
    assert load_scorer().score(["a fox"], ["a fox"]) == [pytest.approx(1.0, abs=1e-5)]


def test_no_bundle_no_file_and_a_broken_file_each_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTDIAL_BUNDLE", str(tmp_path / "nowhere"))
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere.*PROMPTDIAL_BUNDLE"):
        load_scorer()
    with pytest.raises(BundleError, match=r"scorer\.onnx is missing.*export scorer"):
        load_scorer(tmp_path)
    (tmp_path / "scorer.onnx").write_bytes(b"nonsense")
    (tmp_path / "scorer_tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"scorer\.onnx is no readable ONNX model"):
        load_scorer(tmp_path)
    (tmp_path / "scorer.onnx").write_bytes((scorer_folder() / "scorer.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"scorer_tokenizer\.json is not a tokenizer"):
        load_scorer(tmp_path)


def test_the_command_line_builds_a_scorer_and_refuses_other_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scorer", "--out", str(tmp_path / "scorer")]) == 0
    assert load_scorer(tmp_path / "scorer").score(["x"], ["x"]) == [pytest.approx(1.0, abs=1e-5)]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    assert main(["scorer", "--out", str(tmp_path), "--weights", str(tmp_path)]) == 1
    assert "has no model.safetensors" in capsys.readouterr().err
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ExportError, match="must be a BERT"):
        build_scorer(tmp_path, tmp_path)
