"""A small folder of open data in the published format, written by rule, for tests of training."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

ANIMALS = (
    "fox",
    "owl",
    "horse",
    "whale",
    "tiger",
    "heron",
    "rabbit",
    "turtle",
    "falcon",
    "otter",
    "crane",
    "moose",
)
PLACES = ("snow", "harbor", "forest", "desert", "kitchen", "library", "meadow", "canyon", "station", "garden")
COLORS = ("red", "blue", "golden", "silver", "green", "violet", "black", "white")


def write(folder: Path, pairs: int = 120, texts: int = 240) -> Path:
    """Write the four files and return the folder."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    _lines(folder / "pairs.jsonl", [_pair(number, rng) for number in range(pairs)])
    _lines(folder / "texts.jsonl", [_text(number, rng) for number in range(texts)])
    style = {
        "name": "art-watercolor",
        "prompt": "watercolor of {prompt} . soft, wet",
        "source": "s",
        "licence": "MIT",
    }
    _lines(folder / "styles.jsonl", [style])
    names = (
        "animals dogs birds fruits vegetables dishes flowers objects clothing creatures instruments occupations colors "
        "adjectives nouns rooms moods materials weather cities mediums movements style_phrases"
    )
    lists = {name: {"values": [f"{name[:-1]} {word}" for word in PLACES]} for name in names.split()}
    (folder / "lists.json").write_text(json.dumps(lists), encoding="utf-8")
    return folder


def _pair(number: int, rng: random.Random) -> dict[str, object]:
    animal, place, color = rng.choice(ANIMALS), rng.choice(PLACES), rng.choice(COLORS)
    kind, modality = (("expand", "video"), ("expand", "image"), ("brief", "template"), ("tags", "image"))[
        number % 4
    ]
    own = [_word(rng) for _ in range(12)]  # so that rows are no near-duplicates of each other
    asked = f"{color} {animal} {own[0]} {own[1]} {own[2]} in the {place}"
    light, dust = " ".join(own[4:8]), " ".join(own[8:])
    output = (
        f"A {color} {animal} rests in the {own[0]} {own[1]} {own[2]} {place}. {own[3].title()} light falls on {light}. "
        f"Behind it the {place} fades into {rng.choice(COLORS)} mist, and {dust} drifts through the air."
    )
    return {
        "input": {"brief": f"Design a poster of a {asked}.", "tags": ", ".join(asked.split())}.get(kind, asked),
        "output": output, "modality": modality, "kind": kind, "split": "eval" if number % 5 == 0 else "train",
        "source": "vbench", "licence": "Apache-2.0", "teacher": "test",
    }  # fmt: skip


def _text(number: int, rng: random.Random) -> dict[str, object]:
    animal, place, color = rng.choice(ANIMALS), rng.choice(PLACES), rng.choice(COLORS)
    if number % 3 == 0:
        text = f"{color} {animal} {_word(rng)}, {place}, oil painting, soft light, detailed"
        return {"text": text, "source": "pickapic", "licence": "MIT"}
    if number % 3 == 1:
        return {"text": f"The {animal} sleeps in a {color} {place} {number}. A poster hangs above it.",
                "source": "unigenbench-train", "licence": "CC-BY-4.0"}  # fmt: skip
    return {"text": f"A {color} {animal} near the {place} {number}", "source": "coco-captions", "licence": "CC-BY-4.0",
            "group": number // 12}  # fmt: skip


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("bdfglmnprstvz") + rng.choice("aeiou") for _ in range(3))


def _lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
