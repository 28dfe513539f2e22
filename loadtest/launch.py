"""A service to put load on: the one at an address, or one of our own on a free port, ended afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from loadtest.latency import LoadError

ROOT = Path(__file__).parents[1]
LISTENING = re.compile(r"Uvicorn running on (http://[\w.:\[\]]+)")
START_S = 120.0
STOP_S = 150.0  # more than the service gives the requests that it admitted


class Service:
    """`python -m service` in a session of its own, so that a terminal's Ctrl-C leaves it to us."""

    def __init__(self) -> None:
        environment = os.environ | {"PROMPTDIAL_PORT": "0", "PROMPTDIAL_HOST": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.log: list[str] = []  # lines of JSON
        self._address: Future[str] = Future()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if (found := LISTENING.search(line)) and not self._address.done():
                self._address.set_result(found[1])
        if not self._address.done():
            told = "".join(self.log[-3:]).strip()
            self._address.set_exception(LoadError(f"the service ended before it listened: {told}"))

    def address(self) -> str:
        """Where it listens, once it does. Raises LoadError if it ends instead."""
        try:
            return self._address.result(START_S)
        except TimeoutError:
            raise LoadError(f"the service did not listen within {START_S:.0f} s") from None

    def wait(self) -> int:
        """Its exit code, once it has left and its whole log is here."""
        code = self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        return code

    def end(self) -> None:
        """Ask it to leave, and see to it."""
        self.process.terminate()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.wait()


@contextmanager
def service_at(url: str | None) -> Iterator[str]:
    """The given address, or that of a service of our own, which the variables `PROMPTDIAL_*` configure."""
    if url:
        yield url.rstrip("/")
        return
    print("starting the service", file=sys.stderr)
    service = Service()
    try:
        yield service.address()
    finally:
        service.end()
