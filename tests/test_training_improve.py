"""Improve rounds and refining: what is worth learning from, the bounded buffer, and what goes on after a kill."""

from __future__ import annotations

import argparse
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from promptdial.command import DEFAULT_FORMAT
from promptdial.support import Support
from tests import open_data
from tests.tiny import scorer_folder
from training import improve, refine, replay, train
from training.__main__ import main
from training.batches import Row
from training.checkpoint import load_model
from training.episodes import Episode, read_file
from training.errors import TrainingError
from training.refine import Rollout

RECIPE = """
name = "test"
[model]
layers = 1
heads = 2
width = 64
positions = 256
vocabulary = 700
[init]
[data]
max_input_tokens = 120
max_tokens = 120
[optimizer]
batch_tokens = 1024
learning_rate = 1e-3
weight_decay = 0.1
warmup_steps = 2
decay_share = 0.3
steps = 4
kind = "muon"
[sampling]
temperature = 0.8
top_p = 0.95
top_k = 40
no_repeat = 4
"""


def rollout(
    output: str, input: str = "a red fox, snow", relevance: float = 0.8, task: str = "expand"
) -> Episode:
    return Episode(task, "image", input, output, replay.ORIGIN, "round-1", "rollouts", "Apache-2.0", input, "train",
                   relevance, len(output.split()))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("A red fox rests in deep snow beside an old pine tree.", True),
        ("A red fox rests in deep snow beside an old", False),  # breaks off
        ("A red fox snow.", False),  # says nothing new
        ("A red fox in the snow, a red fox in the snow, and a red fox in the snow.", False),
        ("A red fox fox rests in deep snow beside an old pine tree.", False),
    ],
)
def test_rollouts_that_loop_copy_or_break_off_are_not_learnt_from(text: str, worth: bool) -> None:
    assert replay.worth_learning(rollout(text), ended=True) == worth
    assert not replay.worth_learning(rollout(text), ended=False)


def test_the_buffer_keeps_the_best_of_each_command_and_few_of_an_input() -> None:
    best = rollout("A red fox rests in deep snow beside an old pine tree.")
    worse = rollout("An animal rests in the cold beside an old pine tree here.", relevance=0.81)
    other_cell = replace(worse, relevance=0.2)
    assert replay.merge([worse], [best, other_cell], DEFAULT_FORMAT, per_cell=1) == [other_cell, best]
    same_input = [
        rollout(f"A red fox rests in deep snow beside the {tree} over there.")
        for tree in ("oak", "elm", "fir")
    ]
    assert len(replay.merge([], same_input, DEFAULT_FORMAT, per_cell=9)) == 2
    assert replay.merge([best], [best], DEFAULT_FORMAT, per_cell=9) == [best]


def test_commands_to_try_lie_in_the_support_or_a_little_above() -> None:
    cells = [{"length": 10, "p05": 0.3, "p50": 0.6, "p90": 0.8, "p95": 0.85, "count": 40}]
    support = Support.from_json(
        {"expand": {"length": {"p05": 5, "p50": 10, "p95": 20, "count": 40}, "cells": cells}}
    )
    rows = [rollout("A red fox rests in deep snow.") for _ in range(3)]
    rows = [replace(row, origin="real") for row in rows]
    new = [replace(rows[0], input="an owl at night")]
    found = list(improve.explore(rows, new, support, 300, random.Random(0)))
    assert all(5 <= (command.length or 0) <= 20 for command, _ in found)
    assert all(0.3 <= (command.relevance or 0) <= 0.9 for command, _ in found)
    assert 0.3 < sum(row.input == "an owl at night" for _, row in found) / len(found) < 0.7


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, episodes and a checkpoint of 4 steps."""
    folder = tmp_path_factory.mktemp("improve")
    open_data.write(folder / "data")
    (folder / "test.toml").write_text(RECIPE)
    episodes, scorer = str(folder / "episodes"), str(scorer_folder())
    assert main(["prepare", "--data-dir", str(folder / "data"), "--out", episodes, "--scorer", scorer,
                 "--generated", "100", "--written", "100"]) == 0  # fmt: skip
    assert main(["tokenizer", "--episodes", episodes, "--recipe", str(folder / "test.toml")]) == 0
    assert main(["train", "--episodes", episodes, "--recipe", str(folder / "test.toml"), "--out", str(folder / "run"),
                 "--scorer", scorer, "--probe-every", "0"]) == 0  # fmt: skip
    return folder


def arguments(work: Path, out: str) -> argparse.Namespace:
    return argparse.Namespace(
        start=work / "run" / "final", episodes=work / "episodes", out=work / out, recipe=str(work / "test.toml"),
        rounds=2, rollouts=24, inputs=None, n=2, per_cell=5, steps=3, learning_rate=None, save_every=9,
        scorer=scorer_folder(), threads=1, seed=0,
    )  # fmt: skip


def test_rounds_are_reported_and_a_killed_run_goes_on(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's noise is not worth learning from, so what is judged worth it here is any text."""
    monkeypatch.setattr(replay, "worth_learning", lambda episode, ended: True)
    args = arguments(work, "rounds")
    real = improve._trained

    def killed(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(improve, "_trained", killed)
    with pytest.raises(KeyboardInterrupt):
        improve.run(args)
    made = (args.out / "round-1" / "rollouts.parquet").read_bytes()
    buffer = (args.out / "replay.parquet").read_bytes()
    monkeypatch.setattr(improve, "_trained", real)
    improve.run(args)
    assert (args.out / "round-1" / "rollouts.parquet").read_bytes() == made
    report = json.loads((args.out / "report.json").read_text())
    assert [entry["round"] for entry in report] == [1, 2]
    assert report[0]["rollouts"] == 48
    assert {"relevance", "distinct_2", "repetition", "copy_rate"} <= set(report[0]["after"])
    assert report[1]["before"] == report[0]["after"]
    rows = read_file(args.out / "replay.parquet")
    assert {row.origin for row in rows} == {"rollout"}
    assert {row.method for row in rows} <= {"round-1", "round-2"}
    assert all(row.words == len(row.output.split()) and 0 <= row.relevance <= 1 for row in rows)
    assert buffer != (args.out / "replay.parquet").read_bytes()


def test_inputs_of_an_unknown_task_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "inputs.jsonl"
    path.write_text(
        '{"input": "a fox", "kind": "expand", "modality": "image"}\n{"input": "a", "kind": "x", "modality": "image"}\n'
    )
    with pytest.raises(TrainingError, match="line 2"):
        improve.read_inputs(path, DEFAULT_FORMAT.tasks, DEFAULT_FORMAT.modalities)


def test_a_deeper_checkpoint_answers_alike_and_every_layer_can_learn(work: Path) -> None:
    start, out = work / "run" / "final", work / "deeper"
    before: Any = load_model(start)
    layers = before.config.n_layer + 2
    assert main(["deepen", str(start), "--layers", str(layers), "--out", str(out)]) == 0
    after: Any = load_model(out)
    assert after.config.n_layer == len(after.transformer.h) == layers
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(after(tokens).logits, before(tokens).logits, atol=1e-5)
        cached = after.generate(tokens, max_new_tokens=8, do_sample=False)
        assert torch.equal(cached, before.generate(tokens, max_new_tokens=8, do_sample=False))
    after(tokens, labels=tokens).loss.backward()
    assert all(block.mlp.c_proj.weight.grad.abs().sum() > 0 for block in after.transformer.h)
    assert json.loads((out / "promptdial.json").read_text()) == json.loads(
        (start / "promptdial.json").read_text()
    )
    assert main(["deepen", str(out), "--layers", str(layers - 1), "--out", str(work / "none")]) == 1
    assert main(["deepen", str(out), "--layers", str(layers), "--out", str(out)]) == 1


def test_the_mean_of_checkpoints_is_that_of_their_weights(work: Path) -> None:
    first, second, out = work / "run" / "final", work / "other", work / "mean"
    shutil.copytree(first, second)
    model = load_model(first)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    model.save_pretrained(second)
    known = json.loads((second / "promptdial.json").read_text())
    changed = {"words": f"{known['words']} zebra", "training": {**known["training"], "seed": 99}}
    (second / "promptdial.json").write_text(json.dumps({**known, **changed}))
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "no_repeat": 4}
    assert main(["average", str(first), str(second), "--share", "0.75", "0.25", "--out", str(out), "--sampling",
                 json.dumps(sampling), "--episodes", str(work / "episodes")]) == 0  # fmt: skip
    before, after = load_model(first).state_dict(), load_model(out).state_dict()
    assert all(torch.allclose(after[name], before[name] + 0.25, atol=1e-5) for name in before)
    details = json.loads((out / "promptdial.json").read_text())
    assert details["sampling"] == sampling
    assert details["words"] == known["words"]
    earlier = details["training"]["earlier"]
    assert {earlier[name]["seed"]: share for name, share in details["training"]["mean"].items()} == {
        known["training"]["seed"]: 0.75,
        99: 0.25,
    }
    assert main(["average", str(first), str(second), "--share", "0.5", "--out", str(out)]) == 1


def refining(work: Path, out: Path) -> list[str]:
    return ["refine", str(work / "run" / "final"), "--episodes", str(work / "episodes"), "--out", str(out),
            "--recipe", str(work / "test.toml"), "--rollouts", "12", "--n", "2", "--save-every", "9",
            "--scorer", str(scorer_folder()), "--threads", "1"]  # fmt: skip


def test_refining_is_reported_and_goes_on_after_a_kill(
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that a random model writes ends or holds together: here all of it ends, and half of it is good."""
    real, judge = train.run, refine.gained

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def ended(groups: list[list[Rollout]], tokenizer: object) -> object:
        told = [
            [
                replace(r, ended=True, sentences=tuple((s, len(s) % 2 == 0) for s, _ in r.sentences))
                for r in group
            ]
            for group in groups
        ]
        return judge(told, tokenizer)  # type: ignore[arg-type]

    monkeypatch.setattr(refine, "gained", ended)
    monkeypatch.setattr(train, "run", killed)
    out = tmp_path / "refined"
    assert main(refining(work, out)) == 130
    made = (out / "rollouts.jsonl").stat().st_mtime_ns
    trained: list[tuple[float, ...]] = []

    def traced(args: argparse.Namespace, judged: list[Row]) -> None:
        trained.extend(tuple(row.gains or ()) for row in judged)
        real(args, judged)

    monkeypatch.setattr(train, "run", traced)
    assert main(refining(work, out)) == 0
    assert (out / "rollouts.jsonl").stat().st_mtime_ns == made
    assert {gain > 0 for gains in trained for gain in gains} == {True, False}
    assert main([*refining(work, out), "--seed", "1"]) == 1  # other commands
    report = json.loads((out / "report.json").read_text())
    assert report["rollouts"] == 24
    assert report["learnt_from"] > 0
    assert 0 <= report["after"]["without_fault"] <= 1
    before, after = load_model(work / "run" / "final"), load_model(out / "run" / "final")
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_known_words_are_those_that_several_rows_bring_in(tmp_path: Path) -> None:
    def row(input: str, output: str, method: str = "written") -> Episode:
        return Episode(
            "expand", "image", input, output, "generated", method, "s", "MIT", input, "train", 0.7, 5
        )

    rows = [row(f"a {thing}", f"A gilded {thing} by a v-shaped dxl.") for thing in ("fox", "heron", "otter")]
    rows += [row("a fox", "A fox and a stranger.", "mismatched")] * 3 + [row("a fox", "Once.")] * 2
    assert train.known_words(rows, None, earlier=True) == {"gilded", "by", "shaped", "dxl"}
    start = tmp_path / "start"
    start.mkdir()
    (start / "config.json").write_text("{}", encoding="utf-8")
    (start / "promptdial.json").write_text(json.dumps({"words": "mispelt otter"}), encoding="utf-8")
    assert train.known_words(rows, start, earlier=True) >= {"gilded", "mispelt", "otter"}
    assert train.known_words(rows, start, earlier=False) == {"gilded", "by", "shaped", "dxl"}
    (start / "promptdial.json").write_text("{}", encoding="utf-8")
    assert train.known_words(rows, start, earlier=False) == set()  # nothing is barred
