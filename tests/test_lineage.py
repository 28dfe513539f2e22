"""How weights came to be: every record once, and a card that a person reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.card import model_card
from promptdial.bundle import load_bundle
from tests.tiny import tiny_bundle
from training import lineage


def weights(folder: Path, record: dict[str, Any], init: Path | None = None) -> Path:
    """A checkpoint folder as far as lineage goes."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    start, earlier = lineage.start(init)
    record = {"init": start, **record, lineage.EARLIER: earlier}
    (folder / "promptdial.json").write_text(json.dumps({"training": record}))
    return folder


def averaged(folder: Path, *shares: tuple[Path, float]) -> Path:
    """A checkpoint folder of a mean, as far as lineage goes."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "promptdial.json").write_text(json.dumps({"training": lineage.mean(shares)}))
    return folder


def test_every_record_is_carried_once(tmp_path: Path) -> None:
    first = weights(tmp_path / "first", {"steps": 100, "hours": 0.5, "commit": "c" * 40})
    second = weights(tmp_path / "second", {"steps": 20}, first)
    mean = averaged(tmp_path / "mean", (second, 0.5), (first, 0.5))
    again = averaged(tmp_path / "again", (weights(tmp_path / "third", {"steps": 30}, mean), 0.7), (mean, 0.3))
    name, records = lineage.start(again)
    assert list(records)[-1] == name and len(records) == 5
    assert [record.get("steps") for record in records.values()] == [100, 20, None, 30, None]
    by_steps = {record.get("steps"): each for each, record in records.items()}
    assert records[by_steps[20]]["init"] == by_steps[100] and records[by_steps[100]]["init"] == "from scratch"
    means = [record["mean"] for record in records.values() if "mean" in record]
    assert means[0] == {by_steps[20]: 0.5, by_steps[100]: 0.5}
    assert list(means[1].values()) == [0.7, 0.3]

    manifest = {**load_bundle(tiny_bundle()).manifest, "training": records.pop(name) | {"earlier": records}}
    card = model_card(manifest)
    assert f"| {by_steps[100]} | from scratch | 100 |  | 0.5 | ccccccccc |" in card
    assert f"| 50% of {by_steps[20]} + 50% of {by_steps[100]} |" in card
    assert card.count(f"\n| {by_steps[100]} |") == 1


def test_weights_without_a_record_are_named_by_their_folder(tmp_path: Path) -> None:
    foreign = tmp_path / "gpt2"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    assert lineage.start(foreign) == ("weights of gpt2", {})
    name, records = lineage.start(weights(tmp_path / "tuned", {"steps": 5}, foreign))
    assert records[name] == {"init": "weights of gpt2", "steps": 5}
    assert lineage.start(None) == ("from scratch", {})


def test_records_within_records_are_told_apart(tmp_path: Path) -> None:
    """As older checkpoints have them."""
    first = {"init": "from scratch", "steps": 100}
    second = {"init": first, "steps": 20}
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text("{}")
    parts = {"60% of the weights": second, "30% of the weights": first, "10% of the weights": "gpt2"}
    nested = {"init": parts, "steps": 30}
    (old / "promptdial.json").write_text(json.dumps({"training": nested}))
    name, records = lineage.start(old)
    assert list(records)[-1] == name
    steps = {record.get("steps"): each for each, record in records.items()}
    assert list(steps) == [100, 20, None, 30]
    assert records[steps[None]]["mean"] == {steps[20]: 0.6, steps[100]: 0.3, "gpt2": 0.1}
    assert records[name]["init"] == steps[None] and records[steps[20]]["init"] == steps[100]
