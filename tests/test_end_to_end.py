"""The whole line with real programs: a teacher answers over HTTP, and at its end so does the model it has taught."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests import open_data
from tests.make_serve import make_serve
from tests.teacher_server import Teacher, serving
from tests.test_distill import write_task
from tests.test_training_pipeline import RECIPE

LIGHT = (
    "soft morning light",
    "the glow of a lantern",
    "cold moonlight",
    "warm evening sun",
    "pale winter light",
)
NEAR = ("a fallen birch tree", "an old stone wall", "two wooden boats", "a row of red tents", "a frozen stream",
        "a rusty iron gate", "tall yellow grass", "a small white chapel")  # fmt: skip
FAR = ("Behind it the hills fade into blue mist", "Far off, thin smoke rises from a chimney",
       "Above it, dark clouds gather over the ridge", "In the distance a train crosses a bridge",
       "Around it, fine snow covers the ground", "At the edge of the frame, a bird takes off")  # fmt: skip
DETAIL = ("Its wet coat shines, and every hair is sharp", "Small drops hang from the leaves beside it",
          "A narrow path leads past it to the left", "Colours are muted, with one bright spot of orange",
          "The camera is low, close to the ground", "Long shadows stretch across the stones")  # fmt: skip


def describe(asked: str) -> str:
    """What a good teacher could say: a plain description that holds what was asked for."""
    rng = random.Random(asked)
    return (
        f"{asked.capitalize()} stands beside {rng.choice(NEAR)} in {rng.choice(LIGHT)}. {rng.choice(FAR)}. "
        f"{rng.choice(DETAIL)}, near {rng.choice(NEAR)}."
    )


def run(module: str, *arguments: object) -> str:
    """One stage as a program; its standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTDIAL_")}
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], env={**clean, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, check=False, timeout=400)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_from_a_teacher_s_answers_to_an_answer_of_the_service(tmp_path: Path, tiny_bundle: Path) -> None:
    data = open_data.write(tmp_path / "data", pairs=60, texts=60)
    rng = random.Random(3)
    asked = {f"a {rng.choice(open_data.COLORS)} {animal} in the {place}" for animal in open_data.ANIMALS
             for place in open_data.PLACES}  # fmt: skip
    (tmp_path / "inputs.txt").write_text("\n".join(sorted(asked)))
    write_task(tmp_path)
    (tmp_path / "test.toml").write_text(RECIPE.replace("steps = 12", "steps = 60"))

    with serving(Teacher(reply=describe)) as url:
        run("training", "distill", "--teacher", url, "--model", "good-teacher", "--licence", "CC0-1.0", "--out",
            tmp_path / "distilled", "--inputs", tmp_path / "inputs.txt", "--templates", tmp_path / "tasks", "--scorer",
            tiny_bundle)  # fmt: skip
    pairs, episodes = tmp_path / "distilled" / "pairs.jsonl", tmp_path / "episodes"
    accepted = len(pairs.read_bytes().splitlines())
    reasons = json.loads((tmp_path / "distilled" / "report.json").read_text())["reasons"]
    assert reasons == {"accepted": accepted, "near-duplicate": 120 - accepted}  # it has few things to say
    assert accepted >= 10
    run("training", "prepare", "--data-dir", data, "--pairs", pairs, "--out", episodes, "--scorer", tiny_bundle,
        "--generated", 100, "--written", 100)  # fmt: skip
    run("training", "tokenizer", "--episodes", episodes, "--recipe", tmp_path / "test.toml")
    run("training", "train", "--episodes", episodes, "--recipe", tmp_path / "test.toml", "--out", tmp_path / "run",
        "--scorer", tiny_bundle, "--probe-every", 0)  # fmt: skip
    run("export", tmp_path / "run" / "final", tmp_path / "bundle", "--precision", "int8", "--name", "taught",
        "--scorer", tiny_bundle)  # fmt: skip

    with make_serve(PROMPTDIAL_BUNDLE=str(tmp_path / "bundle")) as service:
        question = {"task": "expand", "input": "a red fox in the snow", "target_length": 20, "seed": 1}
        answer = (
            httpx.post(f"{service.address()}/generate", json=question, timeout=60).raise_for_status().json()
        )
        model = httpx.get(f"{service.address()}/model", timeout=60).raise_for_status().json()
    _check(answer, model)


def _check(answer: dict[str, Any], model: dict[str, Any]) -> None:
    (candidate,) = answer["candidates"]
    assert answer["model"].startswith("taught@")
    assert candidate["text"].split()
    assert candidate["achieved_length"] == len(candidate["text"].split())
    assert 0 <= candidate["achieved_relevance"] <= 1
    (source,) = [row for row in model["data"] if row["source"] == "good-teacher-distilled"]
    assert source["licence"] == "CC0-1.0" and source["rows"] > 30
    assert model["training"]["steps"] == 60
