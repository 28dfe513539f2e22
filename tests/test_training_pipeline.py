"""The line from open data to a bundle and back, through the command line, on a small data set."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from promptdial.bundle import load_bundle
from promptdial.engine.spelling import words_of
from promptdial.relevance import load_scorer
from tests import open_data
from training import sources
from training.checkpoint import last_whole, load_model
from training.episodes import Episode, read_episodes
from training.errors import TrainingError
from training.prepare import without_seen
from training.split import near_duplicates

RECIPE = """
name = "test"
[model]
layers = 2
heads = 2
width = 64
positions = 256
vocabulary = 600
[init]
positions = "sinusoidal"
attention = "copy"
[data]
seldom = 2000
max_input_tokens = 120
max_tokens = 120
repeat = { real = 2 }
[optimizer]
batch_tokens = 2048
learning_rate = 2e-3
weight_decay = 0.05
warmup_steps = 4
decay_share = 0.3
steps = 12
[sampling]
temperature = 0.7
top_p = 0.9
top_k = 40
"""


def training(*arguments: object, code: int = 0, **environment: str) -> str:
    """Run `python -m training`; its standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTDIAL_")}
    result = subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)],
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A folder with data, episodes, tokenizer, recipe and a run of 12 steps."""
    folder = tmp_path_factory.mktemp("training")
    open_data.write(folder / "data")
    (folder / "test.toml").write_text(RECIPE)
    training("prepare", "--data-dir", folder / "data", "--out", folder / "episodes", "--scorer", tiny_bundle,
             "--generated", 400, "--written", 100)  # fmt: skip
    training("tokenizer", "--episodes", folder / "episodes", "--recipe", folder / "test.toml")
    train(folder, tiny_bundle, "--steps", "8")
    return folder


def train(folder: Path, scorer: Path, *arguments: str, run: str = "run") -> str:
    """`train` with the test's recipe."""
    return training("train", "--episodes", folder / "episodes", "--recipe", folder / "test.toml", "--out", folder / run,
                    "--scorer", scorer, "--save-every", "4", "--probe-every", "4", *arguments)  # fmt: skip


def test_every_task_and_modality_has_labelled_episodes(work: Path, tiny_bundle: Path) -> None:
    episodes = read_episodes(work / "episodes", "train")
    assert {episode.task for episode in episodes} == {
        "expand",
        "tags",
        "brief",
        "style",
        "compress",
        "suggest",
    }
    assert {episode.modality for episode in episodes} == {"image", "video", "template"}
    assert {episode.origin for episode in episodes} == {"real", "derived", "generated"}
    chosen = episodes[::40]
    scores = load_scorer(tiny_bundle).score([e.input for e in chosen], [e.output for e in chosen])
    assert [e.relevance for e in chosen] == pytest.approx(scores, abs=2e-3)
    assert all(len(e.output.split()) == e.words for e in episodes)


def test_relevance_covers_low_and_high(work: Path) -> None:
    values = sorted(e.relevance for e in read_episodes(work / "episodes", "train") if e.task == "expand")
    assert values[len(values) // 20] < 0.5
    assert values[-len(values) // 20] > 0.75


def test_no_near_duplicate_of_a_validation_input_is_trained_on(work: Path) -> None:
    held = [e.key for e in read_episodes(work / "episodes", "validation") if e.origin != "generated"]
    trained = [e.key for e in read_episodes(work / "episodes", "train") if e.origin != "generated"]
    unique = [*dict.fromkeys(held), *dict.fromkeys(trained)]
    border = len(set(held))
    assert border > 0
    assert not [pair for pair in near_duplicates(unique) if min(pair) < border <= max(pair)]


def test_the_card_tells_rows_by_task_modality_length_and_relevance(work: Path) -> None:
    card = (work / "episodes" / "CARD.md").read_text()
    assert "| task | modality | words | 0.0-0.2 |" in card
    assert "| real | pair |" in card
    assert "| vbench | Apache-2.0 |" in card
    assert "Vchitect/VBench" in card


def test_preparing_again_gives_the_same_rows_and_embeds_nothing(work: Path, tiny_bundle: Path) -> None:
    before = (work / "episodes" / "train.parquet").read_bytes()
    said = training("prepare", "--data-dir", work / "data", "--out", work / "episodes", "--scorer", tiny_bundle,
                    "--generated", 400, "--written", 100)  # fmt: skip
    assert "embedded" not in said
    assert (work / "episodes" / "train.parquet").read_bytes() == before


def test_a_run_resumes_where_it_was_and_logs_speed_and_time_left(work: Path, tiny_bundle: Path) -> None:
    shutil.rmtree(work / "run" / "final")
    said = train(work, tiny_bundle, "--steps", "12")
    history = [json.loads(line) for line in (work / "run" / "history.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in history if "loss" in line]
    assert steps.count(4) == 1  # not trained twice
    assert 12 in steps
    assert "validation loss" in said
    details = json.loads((work / "run" / "final" / "promptdial.json").read_text())
    assert details["training"]["steps"] == 12
    assert details["training"]["recipe"]["model"]["layers"] == 2


def test_a_half_written_checkpoint_is_passed_over(work: Path, tiny_bundle: Path) -> None:
    """A kill while saving leaves a folder without promptdial.json, which is written last."""
    half = work / "run" / "checkpoint-99"
    half.mkdir()
    (half / "config.json").write_text("{}")
    assert last_whole(work / "run") == work / "run" / "checkpoint-12"
    train(work, tiny_bundle, "--steps", "12")
    half.joinpath("config.json").unlink()
    half.rmdir()


def test_a_run_is_not_resumed_with_another_recipe_or_other_data(work: Path, tiny_bundle: Path) -> None:
    other = work / "other.toml"
    other.write_text(RECIPE.replace("weight_decay = 0.05", "weight_decay = 0.5"))
    arguments = ("train", "--episodes", work / "episodes", "--out", work / "run", "--scorer", tiny_bundle)
    said = _last_line(training(*arguments, "--recipe", other, code=1))
    assert "began with something else" in said and "'weight_decay': 0.05" in said
    shutil.copytree(work / "episodes", work / "other", ignore=shutil.ignore_patterns("embeddings"))
    shutil.copy(work / "other" / "validation.parquet", work / "other" / "train.parquet")
    said = _last_line(
        training("train", "--episodes", work / "other", "--out", work / "run", "--scorer", tiny_bundle,
                 "--recipe", work / "test.toml", code=1)
    )  # fmt: skip
    assert "train.parquet" in said and "give another --out" in said


@pytest.fixture(scope="module")
def bundle(work: Path, tiny_bundle: Path) -> Path:
    """The bundle of the run's checkpoint."""
    target = work / "bundle"
    checkpoint = sorted((work / "run").glob("checkpoint-*"))[-1]
    command = [sys.executable, "-m", "export", checkpoint, target, "--precision", "fp32", "--name", "test", "--scorer",
               tiny_bundle, "--hf-checkpoint"]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return target


def test_evaluate_reports_on_validation_episodes_and_writes_the_figures_into_the_bundle(
    work: Path, bundle: Path
) -> None:
    training("evaluate", bundle, "--episodes", work / "episodes", "--out", work / "report", "--inputs", "4",
             "--cell-inputs", "2", "--seeds", "1", "--write")  # fmt: skip
    report = (work / "report" / "report.md").read_text()
    held_out = read_episodes(work / "episodes", "validation")
    for task in {episode.task for episode in held_out if episode.method != "mismatched"}:
        assert f"| {task} | " in report.split("## Verdict")[1].split("## ")[0]
    assert (work / "report" / "steering.png").read_bytes().startswith(b"\x89PNG")
    manifest = load_bundle(bundle).manifest
    assert manifest["calibration"] == {}  # no cell has 30 rows here
    assert manifest["metrics"]["expand_image"]["inputs"] == 4
    assert manifest["metrics"]["validation_loss"] > 0
    assert "lowest_spearman" in (bundle / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("kept", [True, False])
def test_training_goes_on_from_a_bundle(work: Path, bundle: Path, tiny_bundle: Path, kept: bool) -> None:
    start = work / f"start-{kept}"
    shutil.copytree(bundle, start, ignore=None if kept else shutil.ignore_patterns("checkpoint"))
    train(work, tiny_bundle, "--steps", "2", "--init", str(start), run=f"from-{kept}")
    details = json.loads((work / f"from-{kept}" / "final" / "promptdial.json").read_text())
    record = details["training"]["earlier"][details["training"]["init"]]
    before = load_bundle(bundle).manifest["training"]
    assert (record["data"], record["steps"]) == (before["data"], before["steps"])  # the lineage is kept
    known = {word for row in read_episodes(work / "episodes", "train") for word in words_of(row.output)}
    assert load_bundle(bundle).words()
    assert set(load_bundle(bundle).words()) <= set(details["words"].split()) < known


def test_training_starts_from_any_gpt2_and_adds_the_command_tokens(work: Path, tiny_bundle: Path) -> None:
    foreign = work / "foreign"
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["a fox in the snow"] * 5, vocab_size=300, show_progress=False)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=tokenizer.get_vocab_size(), n_positions=256, n_embd=32, n_layer=1, n_head=2)
    ).save_pretrained(foreign)
    tokenizer.save(str(foreign / "tokenizer.json"))
    train(work, tiny_bundle, "--steps", "2", "--init", str(foreign), run="from-foreign")
    assert json.loads((work / "from-foreign" / "final" / "promptdial.json").read_text())["words"] == ""
    config = json.loads((work / "from-foreign" / "final" / "config.json").read_text())
    assert config["vocab_size"] > tokenizer.get_vocab_size() + 60


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_a_missing_data_folder_is_named(tmp_path: Path, tiny_bundle: Path) -> None:
    arguments: Sequence[object] = ("prepare", "--out", tmp_path / "out", "--scorer", tiny_bundle)
    assert "--data-dir or set PROMPTDIAL_DATA_DIR" in _last_line(training(*arguments, code=1))
    said = training(*arguments, code=1, PROMPTDIAL_DATA_DIR=str(tmp_path / "nowhere"))
    assert "nowhere does not exist" in _last_line(said)
    said = training(*arguments, "--data-dir", tmp_path, code=1)
    assert "lacks pairs.jsonl, texts.jsonl, styles.jsonl, lists.json" in _last_line(said)


def test_a_damaged_row_is_named_by_file_and_line(tmp_path: Path, tiny_bundle: Path) -> None:
    data = open_data.write(tmp_path / "data", pairs=8, texts=8)
    with (data / "texts.jsonl").open("a") as file:
        file.write('{"text": "no source"}\n')
    said = training("prepare", "--data-dir", data, "--out", tmp_path / "out", "--scorer", tiny_bundle, code=1)
    assert "texts.jsonl, line 9: field 'source' is missing or no text" in _last_line(said)
    with (data / "pairs.jsonl").open("a") as file:
        file.write("{half a row\n")
    said = training("prepare", "--data-dir", data, "--out", tmp_path / "out", "--scorer", tiny_bundle, code=1)
    assert "pairs.jsonl, line 9: not JSON" in _last_line(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[1, 2]\n", "a row must be an object"),
        (b'{"text": "\xff", "source": "s", "licence": "MIT"}\n', "not JSON"),
        (b'{"text": null, "source": "s", "licence": "MIT"}\n', "field 'text' is missing or no text"),
    ],
)
def test_a_row_of_another_kind_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    data = open_data.write(tmp_path / "data", pairs=8, texts=8)
    (data / "texts.jsonl").write_bytes(line)
    with pytest.raises(TrainingError, match=f"texts.jsonl, line 1: {said}"):
        sources.load(data)


def test_more_pairs_are_read_behind_the_folder_s_own(tmp_path: Path) -> None:
    data = open_data.write(tmp_path / "data", pairs=8, texts=8)
    own = sources.load(data).pairs
    (tmp_path / "more.jsonl").write_bytes((data / "pairs.jsonl").read_bytes())
    assert sources.load(data, [tmp_path / "more.jsonl"]).pairs == own + own


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"kind": "story"}, "line 9: kind is 'story', which is none of expand, tags"),
        ({"split": "test"}, "line 9: split is 'test', which is none of train, eval"),
        ({"output": " "}, "line 9: field 'output' is missing or no text"),
    ],
)
def test_a_bad_row_of_more_pairs_is_named_by_file_and_line(
    tmp_path: Path, tiny_bundle: Path, row: dict[str, str], said: str
) -> None:
    data = open_data.write(tmp_path / "data", pairs=8, texts=8)
    lines = (data / "pairs.jsonl").read_text().splitlines()
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join([*lines, json.dumps({**json.loads(lines[0]), **row})]))
    answer = training("prepare", "--data-dir", data, "--pairs", more, "--out", tmp_path / "out",
                      "--scorer", tiny_bundle, code=1)  # fmt: skip
    assert f"{more}, {said}" in _last_line(answer)


def test_a_missing_file_of_pairs_is_named(tmp_path: Path) -> None:
    data = open_data.write(tmp_path / "data", pairs=8, texts=8)
    with pytest.raises(TrainingError, match=r"more\.jsonl is missing"):
        sources.load(data, [tmp_path / "more.jsonl"])


def test_a_step_left_out_is_named(tmp_path: Path, tiny_bundle: Path) -> None:
    said = training(
        "train", "--episodes", tmp_path, "--out", tmp_path / "run", "--scorer", tiny_bundle, code=1
    )
    assert "run `python -m training prepare" in _last_line(said)


def test_a_checkpoint_of_another_architecture_is_refused(
    work: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    shutil.copy(work / "episodes" / "tokenizer.json", tmp_path / "tokenizer.json")
    said = training("train", "--episodes", work / "episodes", "--recipe", work / "test.toml", "--out", tmp_path / "run",
                    "--scorer", tiny_bundle, "--init", tmp_path, code=1)  # fmt: skip
    assert "config.json is of a 'llama' model: only 'gpt2' is supported" in _last_line(said)
    with pytest.raises(TrainingError, match="give a bundle or a GPT-2 folder"):
        load_model(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "activation_function": "relu"}')
    with pytest.raises(TrainingError, match="activation_function is 'relu', only 'gelu_new' is supported"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1}')
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match=r"the weights in .* can't be loaded"):
        load_model(tmp_path)


def test_validation_rows_that_training_has_word_for_word_are_left_out() -> None:
    def row(split: str, input: str, output: str) -> Episode:
        return Episode("expand", "image", input, output, "real", "pair", "s", "MIT", input, split)

    rows = [
        row("train", "A fox.", "A red fox in snow."),
        row("validation", "a fox", "An owl at night."),
        row("validation", "an owl", "a red fox, in snow"),
        row("validation", "an owl", "An owl at night."),
    ]
    assert without_seen(rows) == [rows[0], rows[3]]
