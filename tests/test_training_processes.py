"""Training in several processes, in pieces and with checkpointed gradients comes to what one process gets at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import open_data
from tests.test_training_pipeline import RECIPE, training

STEPS = 8
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "training",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Episodes, a tokenizer, a recipe with Muon, and the run of one process in two pieces a step."""
    folder = tmp_path_factory.mktemp("processes")
    open_data.write(folder / "data", pairs=60, texts=60)
    (folder / "test.toml").write_text(RECIPE.replace("[optimizer]", '[optimizer]\nkind = "muon"'))
    training("prepare", "--data-dir", folder / "data", "--out", folder / "episodes", "--scorer", tiny_bundle,
             "--generated", 100, "--written", 100)  # fmt: skip
    training("tokenizer", "--episodes", folder / "episodes", "--recipe", folder / "test.toml")
    train(
        folder,
        tiny_bundle,
        "one",
        [sys.executable, "-m", "training"],
        "--accumulate",
        "2",
        "--probe-every",
        "4",
    )
    return folder


def train(folder: Path, scorer: Path, run: str, launcher: list[str], *more: str, code: int = 0) -> str:
    """`train` under a launcher; its standard error."""
    command = [*launcher, "train", "--episodes", folder / "episodes", "--recipe", folder / "test.toml", "--out",
               folder / run, "--scorer", scorer, "--steps", STEPS, "--save-every", 4, *more]  # fmt: skip
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, command)), env=settings, capture_output=True, text=True, check=False,
                          timeout=1200)  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr


def losses(run: Path) -> list[float]:
    """Training losses at each logging step, and the loss over the validation rows."""
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    final = json.loads((run / "final" / "promptdial.json").read_text())
    return [*(line["loss"] for line in history if "loss" in line), final["metrics"]["validation_loss"]]


def same(first: Path, second: Path) -> Any:
    """Losses and weights are those of another run but for what bf16 sums differ by."""
    assert losses(first) == pytest.approx(losses(second), rel=2e-3)
    ours, theirs = (load_file(run / "final" / "model.safetensors") for run in (first, second))
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().mean()) < 0.05 * float(theirs[name].abs().mean()) + 1e-5, (
            name
        )


def test_two_processes_learn_what_one_learns_at_the_same_batch(work: Path, tiny_bundle: Path) -> None:
    """Gloo on two CPU processes, Muon for the matrices; the first process alone writes and tells."""
    said = train(work, tiny_bundle, "two", TORCHRUN, "--probe-every", "8")
    same(work / "two", work / "one")
    steps = [json.loads(line)["step"] for line in (work / "two" / "history.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 8]  # two losses and a probe, once
    assert said.count("; wrote ") == 1
    details = json.loads((work / "two" / "final" / "promptdial.json").read_text())["training"]
    assert (details["processes"], details["tokens_at_most"]) == (2, STEPS * 2048)


def test_several_processes_on_cpus_say_how_a_stopped_run_goes_on(work: Path, tiny_bundle: Path) -> None:
    assert "go on with one process and --accumulate 2" in train(work, tiny_bundle, "two", TORCHRUN, code=1)


def test_checkpointed_gradients_are_the_same_gradients(work: Path, tiny_bundle: Path) -> None:
    train(work, tiny_bundle, "thrifty", [sys.executable, "-m", "training"], "--accumulate", "2", "--probe-every", "0",
          "--gradient-checkpointing")  # fmt: skip
    same(work / "thrifty", work / "one")


def test_tensorboard_reads_the_curves(work: Path) -> None:
    curves = EventAccumulator(str(work / "one" / "tensorboard")).Reload()
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_s_at_most",
            "probe/relevance_at_0.85", "probe/words_at_50"} <= set(curves.Tags()["scalars"])  # fmt: skip
    points = [(point.step, point.value) for point in curves.Scalars("train/loss")]
    assert [step for step, _ in points] == [4, 8]
    assert [value for _, value in points] == pytest.approx(losses(work / "one")[:-1], rel=1e-4)
