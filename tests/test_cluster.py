"""`distill --ray` and `score --ray` on a Ray with two workers, one of which is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.teacher_server import Teacher, answer_to, serving
from tests.test_distill import command, distill, lines, report, write_inputs, write_task
from tests.test_make import free_port

WAIT_S = 600.0
# Of a Ray that others started: on 127.0.0.1 alone, with the key to it, and workers with their share of a busy machine.
OPERATORS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "of-the-tests" * 4,
    "RAY_worker_niceness": "0",
}
RAY = ("--ray", "local", "--ray-workers", "2")


class Holding:
    """Answers so many questions and then holds what it is asked, until `let_go` is set."""

    def __init__(self, answered: int) -> None:
        self.let_go = threading.Event()
        self.held = 0
        self._left = answered
        self._lock = threading.Lock()

    def __call__(self, asked: str) -> str:
        with self._lock:
            self._left -= 1
            holds = self._left < 0
            self.held += holds
        if holds:
            self.let_go.wait(WAIT_S)
        return answer_to(asked)


@contextmanager
def holding_teacher(folder: Path, inputs: int, reply: Holding) -> Iterator[tuple[Teacher, str]]:
    """A teacher and its URL, with a task and so many inputs to ask it about in the folder."""
    write_task(folder)
    write_inputs(folder, inputs)
    teacher = Teacher(reply=reply)
    with serving(teacher) as url:
        yield teacher, url


@contextmanager
def running(line: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a terminal's process group of its own, its output in a file; ended with the block."""
    with log.open("w") as output:
        process = subprocess.Popen(
            line, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=output, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def processes() -> dict[int, tuple[int, str]]:
    """Parent and title of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it ended meanwhile
            continue
        found[int(folder.name)] = (parent, title)
    return found


def below(ancestor: int) -> dict[int, str]:
    """Titles of the processes that a process started, and of those that they started."""
    every = processes()
    found: dict[int, str] = {}
    while more := {
        pid: title
        for pid, (parent, title) in every.items()
        if pid not in found and (parent == ancestor or parent in found)
    }:
        found |= more
    return found


def wait_for(what: Callable[[], object], process: subprocess.Popen[str], log: Path) -> None:
    """Until something is so; the log of a process that ended before that tells why."""
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def at_work(ancestor: int) -> list[int]:
    """Ray's workers below a process that are at a piece of the map, by the titles that Ray gives them."""
    return [pid for pid, title in below(ancestor).items() if "ray::MapWorker" in title and ".submit" in title]


@contextmanager
def cluster() -> Iterator[tuple[str, int]]:
    """A Ray here with two CPUs, started as an operator would, ended with the block: its address and process."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        port = free_port()
        line = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
        line += ["--num-cpus=2", f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats"]
        log = Path(folder) / "log"
        with running(line, log) as process:
            try:
                wait_for(lambda: "Ray runtime started" in log.read_text(), process, log)
                yield f"127.0.0.1:{port}", process.pid
            finally:
                process.terminate()
                process.wait(WAIT_S)


def test_a_killed_worker_has_what_it_was_asking_asked_again_and_nothing_is_lost_or_doubled(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    reply, log = Holding(100), tmp_path / "log"
    with holding_teacher(tmp_path, 200, reply) as (teacher, url):
        with running(command(tmp_path, url, tiny_bundle, "--timeout", "100", *RAY), log) as process:
            wait_for(lambda: reply.held == 8, process, log)  # four of each worker
            os.kill(at_work(process.pid)[0], signal.SIGKILL)
            reply.let_go.set()
            assert process.wait(WAIT_S) == 0, log.read_text()
        asked = len(teacher.log)
        first = (tmp_path / "run").rename(tmp_path / "over_ray")
        distill(tmp_path, url, tiny_bundle)
    inputs = (tmp_path / "inputs.txt").read_text().splitlines()
    assert asked == len(inputs) + 4
    answers = lines(first / "answers.jsonl")
    assert sorted(row["text"] for row in answers) == sorted(answer_to(text) for text in inputs)
    rows, alone = lines(first / "pairs.jsonl"), lines(tmp_path / "run" / "pairs.jsonl")
    told = json.loads((first / "report.json").read_text())
    assert len({row["id"] for row in rows}) == len(rows) == told["accepted"]
    assert {row["id"]: row["output"] for row in rows} == {row["id"]: row["output"] for row in alone}


@pytest.mark.system  # takes minutes
def test_a_killed_worker_s_rows_are_scored_again_and_all_come_out_in_order_as_scored_here(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OPERATORS.items():
        monkeypatch.setenv(name, value)
    pairs, log, here, there = (
        tmp_path / name for name in ("pairs.jsonl", "log", "here.jsonl", "there.jsonl")
    )
    texts = [f"a fox number {i}" for i in range(400)]
    rows = [{"input": text, "output": answer_to(text), "id": i} for i, text in enumerate(texts)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = [sys.executable, "-m", "training", "score", str(pairs), "--scorer", str(tiny_bundle), "--out"]
    with cluster() as (address, head), running([*score, str(there), "--ray", address], log) as process:
        wait_for(lambda: at_work(head), process, log)
        os.kill(at_work(head)[0], signal.SIGKILL)
        assert process.wait(WAIT_S) == 0, log.read_text()
    subprocess.run([*score, str(here)], check=True, capture_output=True)
    assert there.read_bytes() == here.read_bytes()


@pytest.mark.system  # takes a minute
def test_ctrl_c_ends_ray_too_and_what_was_answered_is_not_asked_for_again(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    reply, log = Holding(20), tmp_path / "log"
    with holding_teacher(tmp_path, 60, reply) as (teacher, url):
        with running(command(tmp_path, url, tiny_bundle, "--timeout", "100", *RAY), log) as process:
            answers = tmp_path / "run" / "answers.jsonl"
            wait_for(
                lambda: reply.held == 8 and len(lines(answers)) == 20, process, log
            )  # none is on its way
            started = below(process.pid)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(WAIT_S) == 130, log.read_text()
        assert any("raylet" in title for title in started.values())
        ends = time.monotonic() + 30  # the last ones are on their way out
        while left := [title for pid, (_, title) in processes().items() if started.get(pid) == title]:
            assert time.monotonic() < ends, left
            time.sleep(0.1)
        reply.let_go.set()
        stored = [row["text"] for row in lines(tmp_path / "run" / "answers.jsonl")]
        assert len(stored) == 20
        distill(tmp_path, url, tiny_bundle)
    asked = [text for _, text, _ in teacher.log]
    assert len(asked) == 60 + 8
    assert len(lines(tmp_path / "run" / "answers.jsonl")) == 60 == report(tmp_path)["answered"]


@pytest.mark.system  # takes a minute
def test_a_refused_key_ends_run_and_ray_with_the_server_s_words(tmp_path: Path, tiny_bundle: Path) -> None:
    """Ray Data, still at work when its Ray was gone, started another one and ended the process with a core dump."""
    write_task(tmp_path)
    write_inputs(tmp_path, 200)
    teacher, log = (
        Teacher(lambda asked, before: "no key" if asked.endswith("7") else "answer"),
        tmp_path / "log",
    )
    with serving(teacher) as url, running(command(tmp_path, url, tiny_bundle, *RAY), log) as process:
        assert process.wait(WAIT_S) == 1, log.read_text()
    told = log.read_text()
    assert told.splitlines()[-1].startswith(f"error: {url} answered 401")
    assert "Traceback" not in told
    assert 0 < report(tmp_path)["answered"] < 200


def test_a_ray_that_is_not_there_is_an_error(tmp_path: Path, tiny_bundle: Path) -> None:
    line = [sys.executable, "-m", "training", "score", tmp_path / "pairs.jsonl", "--out", tmp_path / "out"]
    done = subprocess.run([*map(str, line), "--scorer", str(tiny_bundle), "--ray", "no address"],
                          capture_output=True, text=True, check=False, timeout=WAIT_S)  # fmt: skip
    assert done.returncode == 1
    assert "error: no Ray at no address" in done.stderr


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    main = "import sys; sys.modules['ray'] = None; from training.__main__ import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", main, "score", tmp_path / "pairs.jsonl", "--out", tmp_path / "out"]
    done = subprocess.run([*map(str, line), "--ray", "local"], capture_output=True, text=True, check=False,
                          timeout=WAIT_S)  # fmt: skip
    assert done.returncode == 1
    assert "install the extra, promptdial[ray]" in done.stderr
