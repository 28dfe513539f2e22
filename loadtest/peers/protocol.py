"""The parent's side of a worker: start it, let it measure, and keep it stopped while others measure.

Engines keep threads spinning between calls. So a worker that isn't measuring is stopped (SIGSTOP), and its
memory stays. Requests and answers are JSON lines; see `loadtest.peers.worker`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from loadtest.peers.catalogue import ROOT, Engine

LOAD_S = 180.0
MEASURE_S = 120.0
END_S = 5.0
LOG_TAIL = 600


class WorkerError(Exception):
    """A worker couldn't be started, ended, answered too late, or its engine failed; the text says which."""


class Worker:
    """One engine's process. Raises WorkerError from the start on, when the engine can't be loaded."""

    def __init__(self, engine: Engine, python: Path, model: Path, log: Path, threads: int) -> None:
        if not python.exists():
            raise WorkerError(
                f"its environment was not set up: there is no {python.name} in {engine.environment}"
            )
        self._log = log
        options = ["--variant", engine.variant, "--precision", engine.precision, "--threads", str(threads)]
        command = [str(python), "-m", "loadtest.peers.worker", "serve", engine.module, str(model), *options]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self._buffer = b""
        try:
            self.hello = self._read(LOAD_S)
        except WorkerError:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    @property
    def pid(self) -> int:
        """Of the worker's process."""
        return self._process.pid

    def measure(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """The worker's answer, with ``cpu_s``, the processor time it used, among it."""
        self._signal(signal.SIGCONT)
        try:
            before = self._cpu_s()
            request = json.dumps({"prompts": prompts, "new_tokens": new_tokens}) + "\n"
            assert self._process.stdin is not None
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
            answer = self._read(MEASURE_S)
            answer["cpu_s"] = self._cpu_s() - before
        except (BrokenPipeError, OSError) as error:
            raise WorkerError(self._ended()) from error
        finally:
            self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the process; a stopped one is killed as it is."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                continue

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        give_up = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, give_up - time.monotonic())):
                    raise WorkerError(f"no answer within {timeout_s:.0f} s")
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise WorkerError(self._ended())
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> str:
        # Its pipe closes before its last words are written.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        tail = self._log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
        last = tail.splitlines()[-1] if tail else "it said nothing"
        return f"its process ended: {last}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is not None:
            return
        os.killpg(self._process.pid, number)
        if (
            number == signal.SIGSTOP
        ):  # it takes effect a moment later, and the next engine must not start before
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _cpu_s(self) -> float:
        fields = (
            Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
