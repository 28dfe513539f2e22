"""What tests of whole processes share: `make serve` in a process group of its own, as in a terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = 120.0
STOP_S = 30.0
LISTENING = re.compile(r"Uvicorn running on (http://[\w.:\[\]]+)")


def environment(**variables: str) -> dict[str, str]:
    """This process's variables, less what make and Promptdial would take as orders, plus ``variables``."""
    orders = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"}
    kept = {name: value for name, value in os.environ.items() if name not in orders}
    return {name: value for name, value in kept.items() if not name.startswith("PROMPTDIAL_")} | variables


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in the checkout to its end."""
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


class MakeServe:
    """A running `make serve`; its output is read as it comes, and tells where the service listens."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["make", "serve"],
            cwd=ROOT,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._address: Future[str] = Future()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)
                if (found := LISTENING.search(line)) and not self._address.done():
                    self._address.set_result(found[1])
        if not self._address.done():
            self._address.set_exception(AssertionError(f"make serve ended:\n{self.output}"))

    @property
    def output(self) -> str:
        """What make and the service have printed so far."""
        return "".join(self.lines)

    def address(self) -> str:
        """Where the service listens, once it does."""
        return self._address.result(START_S)

    def server_pid(self) -> int:
        """The service's process, make's only child."""
        (pid,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pid)

    @property
    def running(self) -> bool:
        """Whether make or the service is still there."""
        return self.process.poll() is None or self._reader.is_alive()

    def wait(self) -> int:
        """The exit status of make, once make and the service have both gone."""
        self._reader.join(STOP_S)  # the pipe ends with the last process that holds it
        assert not self._reader.is_alive(), f"the service did not stop:\n{self.output}"
        return self.process.wait(STOP_S)


@contextmanager
def make_serve(**variables: str) -> Iterator[MakeServe]:
    """`make serve` on a free port, unless ``variables`` name one; killed at the end where it still runs."""
    started = MakeServe({"PROMPTDIAL_PORT": "0"} | variables)
    try:
        yield started
    finally:
        if started.running:
            os.killpg(started.process.pid, signal.SIGKILL)
        started.wait()
