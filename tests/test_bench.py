"""`make bench` on a tiny bundle: every figure is there, and the operators' times add up to the run's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from loadtest.bench import BATCHES, by_operator
from tests.tiny import tiny_bundle


def test_the_bench_prints_its_figures_as_json_and_as_a_table() -> None:
    command = [sys.executable, "-m", "loadtest.bench", "--bundle", str(tiny_bundle()), "--rounds", "1"]
    done = subprocess.run(
        [*command, "--threads", "1"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        timeout=120,
    )
    found = json.loads(done.stdout)
    assert {"hardware", "cpu_flags", "versions", "commit", "threads"} < found.keys()
    (model,) = found["models"]
    assert model["model"] == "tiny int8"
    for rows in BATCHES:
        figures = model[f"step_{rows}_ms"]
        assert 0 < figures["min"] <= figures["median"] <= figures["max"]
    assert 50_000 < model["bytes_per_step"] < tiny_bundle().joinpath("weights.int8.bin").stat().st_size
    assert model["operators_ms"]["step_16"]["GroupQueryAttention"] > 0
    assert "tiny int8: floor" in done.stderr


def test_operators_are_counted_over_the_last_runs_only() -> None:
    runs = [{"name": "model_run", "ts": 100 * index, "dur": 90} for index in range(10)]
    nodes = [
        {
            "name": "x_kernel_time",
            "cat": "Node",
            "ts": 100 * index + 5,
            "dur": 40_000 if index < 2 else 2_000,
            "args": {"op_name": "MatMul"},
        }
        for index in range(10)
    ]
    assert by_operator([*runs, *nodes]) == {"MatMul": 2.0}
