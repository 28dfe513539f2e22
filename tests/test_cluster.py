"""`distill --ray` and `score --ray` on a Ray with two workers, one of which is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.teacher_server import Teacher, answer_to, faulty, serving
from tests.test_distill import command, distill, lines, report, write_inputs, write_task

WAIT_S = 400.0
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


def at_work(process: subprocess.Popen[str]) -> list[int]:
    """Ray's workers that are at a piece of the map, by the titles that Ray gives them."""
    return [pid for pid, title in below(process.pid).items() if "ray::MapWorker" in title and ".submit" in title]


def test_a_killed_worker_has_what_it_was_asking_asked_again_and_nothing_is_lost_or_doubled(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    write_task(tmp_path)
    write_inputs(tmp_path, 200)
    reply, log = Holding(100), tmp_path / "log"
    teacher = Teacher(faulty(0.1, seed=2), reply=reply)
    with serving(teacher) as url:
        with running(command(tmp_path, url, tiny_bundle, "--timeout", "100", *RAY), log) as process:
            wait_for(lambda: reply.held == 8, process, log)  # four of each worker
            os.kill(at_work(process)[0], signal.SIGKILL)
            reply.let_go.set()
            assert process.wait(WAIT_S) == 0, log.read_text()
        asked = sum(done == "answer" for done, _, _ in teacher.log)
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
