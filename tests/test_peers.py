"""Comparing engines: the same model and prompts for all, a floor that is measured, and failures that are told."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from loadtest.peers.__main__ import main
from loadtest.peers.bandwidth import BandwidthProbe
from loadtest.peers.catalogue import ENGINES, REQUIREMENTS, Engine
from loadtest.peers.checkpoint import make_checkpoint
from loadtest.peers.comparison import Samples, compare
from loadtest.peers.floor import bytes_per_step
from loadtest.peers.protocol import Worker, WorkerError
from loadtest.peers.report import summarize, write_report
from loadtest.peers.worker import main as worker_main
from loadtest.peers.workload import Shape, Workload, prompts

SHAPE = Shape(layers=2, heads=2, width=64, positions=64, vocabulary=640)
WORKLOAD = Workload(prompt_tokens=8, new_tokens=4, threads=1, batches=(1, 3))
OURS = Engine("promptdial fp32", "promptdial", "fp32", 32)
TORCH = Engine("transformers fp32", "transformers", "fp32", 32)
ABSENT = Engine("optimum fp32", "optimum", "fp32", 32, "nowhere")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint and its models."""
    folder = tmp_path_factory.mktemp("peers")
    make_checkpoint(folder / "checkpoint", SHAPE, WORKLOAD.prompt_tokens)
    for engine in (OURS, TORCH):
        arguments = [str(folder / "checkpoint"), str(folder / engine.model), "--precision", engine.precision]
        assert worker_main(["convert", engine.module, *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def measured(models: Path) -> list[dict[str, object]]:
    """Two rounds, in two runs, of two engines that are here and one that isn't."""
    samples = Samples(models / "samples.jsonl")
    for rounds in (1, 2):
        compare((OURS, TORCH, ABSENT), {}, models, models, WORKLOAD, samples, rounds, 60.0)
    return samples.read()


def test_a_prompt_depends_on_its_place_and_seed_alone_and_holds_no_control_token() -> None:
    assert prompts(3, 5, 100, 70, seed=2) == prompts(8, 5, 100, 70, seed=2)[:3]
    assert prompts(3, 5, 100, 70, seed=2) != prompts(3, 5, 100, 70, seed=3)
    assert min(min(prompt) for prompt in prompts(16, 48, 100, 70)) >= 70


def test_our_engine_and_transformers_choose_the_reference_tokens(measured: list[dict[str, object]]) -> None:
    found = {line["engine"]: line["same_first_token"] for line in measured if line["kind"] == "engine"}
    assert found == {"promptdial fp32": "16/16", "transformers fp32": "16/16"}


def test_a_second_run_adds_rounds_to_the_first(measured: list[dict[str, object]]) -> None:
    samples = [line for line in measured if line["kind"] == "sample"]
    assert len(samples) == 2 * 2 * 2  # rounds, engines, numbers of sequences
    assert {line["round"] for line in samples} == {1, 2}


def test_an_engine_that_is_not_set_up_is_told_and_the_others_are_measured(
    measured: list[dict[str, object]], tmp_path: Path
) -> None:
    write_report(measured, tmp_path)
    report = json.loads((tmp_path / "peers.json").read_text())
    assert "nowhere" in report["not_measured"]["optimum fp32"]
    assert report["engines"]["promptdial fp32"]["sequences"]["3"]["tokens_per_s"]["count"] == 2
    table = (tmp_path / "peers.md").read_text()
    assert "| transformers fp32 | 32 |" in table
    assert "not measured, optimum fp32" in table
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_over_the_best_peer_with_the_same_bits() -> None:
    def engine(name: str, bits: int, token_ms: float) -> list[dict[str, object]]:
        sample = {"kind": "sample", "engine": name, "round": 1, "sequences": 1, "first_ms": None}
        figures = {"token_ms": token_ms, "tokens_per_s": 1.0, "peak_rss_mb": 1.0, "other_cpus": 0.0}
        start = {"kind": "engine", "engine": name, "bits": bits, "bytes_per_step": None}
        if name.startswith("promptdial"):
            start["bytes_per_step"] = 100_000_000
        return [start, sample | figures | {"bandwidth_gb_s": {"100": 50.0, "50": 25.0}}]

    lines: list[dict[str, object]] = [{"kind": "session", "commit": "abc"}]
    for name, bits, token_ms in (
        ("promptdial int8", 8, 3.0),
        ("llama.cpp Q8_0", 8, 6.0),
        ("ctranslate2 int8", 8, 4.0),
        ("llama.cpp Q4_0", 4, 1.0),
    ):
        lines += engine(name, bits, token_ms)
    report = summarize(lines)
    ratios = {row["best_peer"]: row["ratio"] for row in report["ratios"]}
    assert report["floor_ms"] == {"promptdial int8": 2.0}
    assert ratios == {"ctranslate2 int8": 0.75, "floor": 1.5}


def test_no_samples_make_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "no samples" in capsys.readouterr().err


def test_an_idle_worker_is_stopped_and_an_engines_error_is_an_answer(models: Path) -> None:
    worker = Worker(OURS, OURS.python(models), models / OURS.model, models / "worker.log", 1)
    try:
        state = Path(f"/proc/{worker.pid}/stat")
        assert state.read_text().rpartition(")")[2].split()[0] == "T"
        with pytest.raises(WorkerError, match="tokens"):
            worker.measure([[0] * (SHAPE.positions + 1)], 1)
        assert len(worker.measure([[200] * 8], 3)["tokens"][0]) == 3
    finally:
        worker.close()


def test_a_model_that_cannot_be_loaded_is_told_with_the_workers_last_words(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"decoder\.json"):
        Worker(OURS, OURS.python(tmp_path), tmp_path / "nothing", tmp_path / "worker.log", 1)


def test_the_probe_reads_every_size() -> None:
    probe = BandwidthProbe(sizes_mb=(4, 8))
    started = time.perf_counter()
    speeds = probe.measure()
    spent = time.perf_counter() - started
    probe.close()
    assert set(speeds) == {4, 8}
    assert all(speed > size / 1000 / spent for size, speed in speeds.items())


def test_the_floor_counts_weights_and_not_tables_that_are_only_gathered_from(models: Path) -> None:
    parameters = json.loads((models / "checkpoint" / "reference.json").read_text())["parameters"]
    positions = SHAPE.positions * SHAPE.width
    counted = bytes_per_step(models / OURS.model / f"decoder.{OURS.precision}.onnx")
    assert 0 <= counted - 4 * (parameters - positions) < 8192  # beside them: masks, shapes and constants


def test_peers_are_pinned_with_one_torch_and_no_address() -> None:
    files = {path.stem: path.read_text().splitlines() for path in REQUIREMENTS.glob("*.txt")}
    assert set(files) == {engine.environment for engine in ENGINES if engine.environment}
    for lines in files.values():
        assert all("==" in line and "://" not in line for line in lines)
        assert {line for line in lines if line.startswith("torch")} <= {"torch==2.13.0"}
