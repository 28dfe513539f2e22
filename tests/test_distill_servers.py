"""`distill` against servers of the OpenAI protocol that others wrote, with a tiny random model behind them.

What such a model writes can't be used, so that these runs show what has to hold whatever comes: every request is
answered and stored once, every answer is judged, and the report's counts are those of the server's own log.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest.peers.environments import set_up
from tests.teacher_model import make_model
from tests.test_distill import write_inputs, write_task

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv-peers"
LLAMACPP = "llamacpp-server"
START_S = 180.0
COUNT = 24


class Server:
    """A server process: where it listens, and what its access log says."""

    def __init__(self, command: Sequence[str]) -> None:
        settings = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, errors="replace")  # fmt: skip
        self.lines: list[str] = []
        self._address: Future[str] = Future()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line)
                if (found := re.search(r"running on (http://[\w.]+:\d+)", line)) and not self._address.done():
                    self._address.set_result(found[1].replace("localhost", "127.0.0.1"))
        if not self._address.done():
            self._address.set_exception(AssertionError("the server ended:\n" + "".join(self.lines)))

    def url(self) -> str:
        """Where to ask, once it listens."""
        return self._address.result(START_S) + "/v1"

    def close(self) -> None:
        """End it, and wait until its whole log is read."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait()
        self._reader.join()

    @property
    def statuses(self) -> Counter[str]:
        """Status codes of its chat requests."""
        found = re.findall(r'"POST /v1/chat/completions HTTP/1\.1" (\d+)', "".join(self.lines))
        return Counter(found)


@contextmanager
def served(command: Sequence[str]) -> Iterator[Server]:
    server = Server(command)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def given(tmp_path: Path) -> Path:
    write_task(tmp_path)
    write_inputs(tmp_path, COUNT)
    return tmp_path


def distill(given: Path, url: str, model: str, scorer: Path, *more: str, code: int = 0) -> str:
    """One run into `given / "run"`; its standard error."""
    command = [sys.executable, "-m", "training", "distill", "--teacher", url, "--model", model, "--licence", "none",
               "--out", str(given / "run"), "--inputs", str(given / "inputs.txt"), "--templates", str(given / "tasks"),
               "--scorer", str(scorer), "--concurrency", "4", "--backoff", "0.05", *more]  # fmt: skip
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stderr


def nothing_is_lost(given: Path) -> dict[str, Any]:
    """Every request answered and judged once; the report."""
    report: dict[str, Any] = json.loads((given / "run" / "report.json").read_text())
    answers = [json.loads(line) for line in (given / "run" / "answers.jsonl").read_bytes().splitlines()]
    rows = (given / "run" / "pairs.jsonl").read_bytes().splitlines()
    assert len({answer["key"] for answer in answers}) == len(answers) == report["answered"] == COUNT
    assert sum(report["reasons"].values()) == COUNT
    assert report["accepted"] == len(rows)
    assert report["completion_tokens"] == sum(answer["completion_tokens"] for answer in answers) > COUNT
    return report


def test_transformers_serve_streams_every_answer_and_counts_no_tokens(
    given: Path, model: Path, tiny_bundle: Path
) -> None:
    """It answers with server-sent events also when it is asked for a whole answer, and its streams hold no usage."""
    program = Path(sys.executable).with_name("transformers")
    with served([str(program), "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"]) as server:
        # It loads a model at its first request, and fails if several come before it is there.
        first = {"model": str(model), "messages": [{"role": "user", "content": "a fox"}], "max_tokens": 2}
        httpx.post(f"{server.url()}/chat/completions", json=first, timeout=START_S).raise_for_status()
        distill(given, server.url(), str(model), tiny_bundle)
        said = distill(given, server.url(), str(model), tiny_bundle)
    report = nothing_is_lost(given)
    assert f"{COUNT} answers were there already" in said
    assert server.statuses == {"200": COUNT + 1}
    assert report["tokens_estimated"] == COUNT
    assert report["served_models"] == {f"{model}@main": COUNT}
    assert report["accepted"] == 0  # noise


def test_a_model_that_transformers_can_t_load_is_given_up(given: Path, tiny_bundle: Path) -> None:
    """Its answer to an unknown model is a 500, which is tried again before it is given up.

    The server closes the connection a moment after such an answer. When the client took it for its next request, 11 to
    15 of the 40 attempts came out as "connection", and the server had never seen them.
    """
    program = Path(sys.executable).with_name("transformers")
    with served([str(program), "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"]) as server:
        said = distill(given, server.url(), str(given / "nothing"), tiny_bundle, "--attempts", "2", "--concurrency",
                       "1", code=1)  # fmt: skip
    assert "20 requests in a row failed, the last with '500'" in said
    report = json.loads((given / "run" / "report.json").read_text())
    assert report["attempts"] == server.statuses == {"500": 40}
    assert report["given_up"] == {"500": 20}
    assert report["answered"] == 0


@pytest.mark.system
@pytest.mark.llamacpp
def test_llama_cpp_counts_its_tokens_and_nothing_is_lost(
    given: Path, model: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's server for Python, compiled into an environment of its own: what is used of it, unoptimized."""
    requirements = Path(__file__).parent / "requirements"
    only = ("LLAVA_BUILD=OFF", f"CMAKE_PROJECT_INCLUDE={requirements / LLAMACPP}.cmake")
    quick = ("CMAKE_C_FLAGS_RELEASE=-O0", "CMAKE_CXX_FLAGS_RELEASE=-O0")
    monkeypatch.setenv("CMAKE_ARGS", " ".join(f"-D{each}" for each in (*only, *quick)))
    assert (why := set_up(LLAMACPP, ENVIRONMENTS, requirements)) is None, why
    python = str(ENVIRONMENTS / LLAMACPP / "bin" / "python")
    gguf = given / "tiny.gguf"
    subprocess.run([python, str(ROOT / "tests" / "teacher_model.py"), str(model), str(gguf)], check=True)
    with served([python, "-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "tiny", "--host", "127.0.0.1",
                 "--port", "0", "--n_ctx", "1024", "--n_threads", "1"]) as server:  # fmt: skip
        distill(given, server.url(), "tiny", tiny_bundle)
    report = nothing_is_lost(given)
    assert server.statuses == report["attempts"] == {"200": COUNT}
    assert report["tokens_estimated"] == 0
    assert report["served_models"] == {"tiny": COUNT}
