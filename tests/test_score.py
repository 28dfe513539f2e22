"""`python -m training score`: rows in their order with their labels, resumed, and named where they can't be scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from promptdial.relevance import load_scorer
from tests.teacher_server import answer_to
from tests.test_distill import lines
from training.errors import TrainingError
from training.score import label


def test_every_row_is_there_once_in_its_order_with_its_labels(tmp_path: Path, tiny_bundle: Path) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    rows = [
        {"input": f"a fox number {i}", "output": answer_to(f"a fox number {i}"), "id": i} for i in range(300)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "training", "score", pairs, "--out", out, "--scorer", tiny_bundle]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    relevance = load_scorer(tiny_bundle).score(
        [str(r["input"]) for r in rows], [str(r["output"]) for r in rows]
    )
    assert [row["relevance"] for row in lines(out)] == pytest.approx(relevance, abs=1e-3)
    assert [{name: row[name] for name in ("input", "output", "id")} for row in lines(out)] == rows
    assert all(row["words"] == len(row["output"].split()) for row in lines(out))


def test_scoring_goes_on_behind_the_rows_of_an_earlier_start(tmp_path: Path, tiny_bundle: Path) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    pairs.write_text(
        "".join(json.dumps({"input": text, "output": answer_to(text)}) + "\n" for text in "abcdef")
    )
    label(pairs, out, load_scorer(tiny_bundle))
    whole = out.read_bytes()
    partial = tmp_path / "scored.jsonl.partial"
    partial.write_bytes(whole[: whole.index(b"\n") + 20])  # a row, and a line cut off
    out.unlink()
    label(pairs, out, load_scorer(tiny_bundle))
    assert out.read_bytes() == whole and not partial.exists()
    partial.write_bytes(whole.splitlines(keepends=True)[1])
    with pytest.raises(TrainingError, match=r"scored\.jsonl\.partial holds rows that .* does not begin with"):
        label(pairs, out, load_scorer(tiny_bundle))


def test_a_row_that_can_t_be_scored_is_named_by_file_and_line(tmp_path: Path, tiny_bundle: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"input": "a", "output": "b"}\n{"input": "a"}\n')
    with pytest.raises(TrainingError, match=r"pairs\.jsonl, line 2: field 'output' is missing or no text"):
        label(pairs, tmp_path / "out.jsonl", load_scorer(tiny_bundle))
