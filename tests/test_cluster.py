"""`distill --ray` and `score --ray` on a local Ray with two workers, one of which is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptdial.relevance import load_scorer
from tests.teacher_server import Teacher, answer_to, faulty, serving
from tests.test_distill import lines, report, write_inputs, write_task
from training.errors import TrainingError
from training.score import label

WAIT_S = 400.0


def start(command: list[str], log: Path) -> subprocess.Popen[str]:
    """A command of `training` on a local Ray, its output in a file."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DISABLE_MEMORY_MONITOR": "1"}
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "training", *command, "--ray", "local", "--ray-workers", "2"],
            env=settings, stdout=output, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def busy_workers(driver: int) -> list[int]:
    """Processes below a driver that hold a worker of the map and are at a batch, as Ray names them."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    raylets = {pid for pid, parent in parents.items() if parent == driver}
    return [
        pid
        for pid, title in titles.items()
        if parents.get(pid) in raylets and "ray::Map" in title and ".submit" in title
    ]


def kill_one_worker(process: subprocess.Popen[str], log: Path) -> None:
    """Wait until a worker is at a batch, and kill it."""
    deadline = time.monotonic() + WAIT_S
    while not (found := busy_workers(process.pid)):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    os.kill(found[0], signal.SIGKILL)


def test_a_killed_worker_s_questions_are_asked_again_and_nothing_is_doubled(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    given = tmp_path
    write_task(given)
    write_inputs(given, 200)
    teacher, log = Teacher(faulty(0.1, seed=2)), given / "log"
    with serving(teacher) as url:
        command = [
            *("distill", "--teacher", url, "--model", "tiny", "--licence", "MIT", "--out", given / "run"),
            *("--inputs", given / "inputs.txt", "--templates", given / "tasks", "--scorer", tiny_bundle),
            *("--concurrency", 8, "--backoff", 0.01, "--requests-per-minute", 3000),
        ]
        process = start(list(map(str, command)), log)
        kill_one_worker(process, log)
        assert process.wait(WAIT_S) == 0, log.read_text()
    asked = (given / "inputs.txt").read_text().splitlines()
    answers = lines(given / "run" / "answers.jsonl")
    assert sorted(row["text"] for row in answers) == sorted(answer_to(text) for text in asked)
    rows = lines(given / "run" / "pairs.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == report(given)["accepted"] > 100
    repeated = sum(done == "answer" for done, _, _ in teacher.log) - len(asked)
    assert 0 <= repeated <= 16  # a batch: four for each of the worker's four at a time


def test_rows_scored_by_a_cluster_are_all_there_once_in_order_and_as_scored_here(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    pairs, log = tmp_path / "pairs.jsonl", tmp_path / "log"
    rows = [
        {"input": f"a fox number {i}", "output": answer_to(f"a fox number {i}"), "id": i} for i in range(1500)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = start(
        ["score", str(pairs), "--out", str(tmp_path / "cluster.jsonl"), "--scorer", str(tiny_bundle)], log
    )
    kill_one_worker(process, log)
    assert process.wait(WAIT_S) == 0, log.read_text()
    here = [sys.executable, "-m", "training", "score", str(pairs), "--out", str(tmp_path / "here.jsonl"), "--scorer",
            str(tiny_bundle)]  # fmt: skip
    subprocess.run(here, check=True, capture_output=True)
    scored = lines(tmp_path / "cluster.jsonl")
    assert [row["id"] for row in scored] == list(range(1500))
    assert scored == lines(tmp_path / "here.jsonl")
    assert all(0 < row["relevance"] <= 1 and row["words"] == len(row["output"].split()) for row in scored)


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


def test_a_cluster_that_is_not_there_is_an_error(tmp_path: Path, tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "training", "score", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out"),
               "--scorer", str(tiny_bundle), "--ray", "no address"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == 1
    assert "error: no Ray at no address" in done.stderr
