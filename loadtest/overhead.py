"""What metrics and logs cost: one running service with and without them, in paired rounds, as JSON.

With: metrics are counted and scraped every `--scrape` seconds, and a line per request is logged, into a file. Without:
nothing is counted but the sizes of the engine's steps, and nothing is logged. A signal switches the server between the
two, so that both are one process: of two processes that do the same, one is up to 3 % faster, by where its memory
lies. A round loads it with and without; the next round begins with the other, so that what changes on the machine
meanwhile falls on both. The ratio is taken within a round. CPU seconds of the server per token say the same with
less noise, where others use the machine. A third time, again without (`control`), shows what the comparison would find
where there is no difference.

    python -m loadtest.overhead --rounds 20 > overhead.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import httpx

from loadtest.latency import LoadError, build, commit, described_model, hardware, versions
from loadtest.serving import round_over_http
from service.metrics import Metrics
from service.server import main as serve

START_S = 300.0
WAYS = ("on", "off", "control")  # the last one is as the second, and shows the noise
LISTENING = re.compile(r"Uvicorn running on (http://[\w.:\[\]]+)")
SWITCHED = "switched"  # the argument of the child that is measured
ON, OFF = signal.SIGUSR1, signal.SIGUSR2
SETTLING_S = 0.05  # until a signal has been acted on, or the last request of a round is counted
COUNT = re.compile(r"^promptdial_requests_total{.*} (\S+)$", re.MULTILINE)


class Nothing:
    """A metric that counts nothing."""

    def labels(self, *labels: str) -> Nothing:
        """Itself, whatever the labels."""
        return self

    def inc(self, amount: float = 1.0) -> None:
        """Nothing."""

    def observe(self, value: float) -> None:
        """Nothing."""

    def observe_all(self, values: Any) -> None:
        """Nothing."""


class SwitchedMetrics(Metrics):
    """Metrics that may be told to count nothing for a while."""

    COUNTED = (
        *("requests", "rejected", "cancelled", "clamped_targets", "prompt_tokens", "generated_tokens"),
        *("request_seconds", "queue_seconds", "prefill_seconds", "score_seconds", "first_token_seconds"),
        *("inter_token_seconds", "score_cpu_seconds"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._counting = {name: getattr(self, name) for name in self.COUNTED}

    def switch(self, on: bool) -> None:
        """Count from now on, or don't."""
        for name, metric in self._counting.items():
            setattr(self, name, metric if on else Nothing())

    def steered(self, field: str, task: str, target: float, achieved: float) -> None:
        """Count what became of a target, if anything is counted."""
        if self.requests is self._counting["requests"]:
            super().steered(field, task, target, achieved)


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        """Its CPU seconds so far, user and system."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def switch(self, on: bool) -> None:
        """With metrics and logs from now on, or without."""
        os.kill(self.pid, ON if on else OFF)
        time.sleep(SETTLING_S)

    def counted(self) -> float:
        """Requests that its metrics tell of."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).raise_for_status().text
        return sum(map(float, COUNT.findall(text)))


@contextmanager
def server(arguments: argparse.Namespace, log: Path) -> Iterator[Server]:
    """A server in a process of its own, ended at the end. Raises LoadError where it doesn't start."""
    told = {"PROMPTDIAL_PORT": "0", "PROMPTDIAL_BUNDLE": str(arguments.bundle)}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.overhead", SWITCHED],
            env=os.environ | told,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for the measurement, which ends it
        )
    try:
        deadline = time.monotonic() + START_S
        while not (found := LISTENING.search(log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LoadError(f"the server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield Server(found[1], process.pid)
    finally:
        process.terminate()
        process.wait()


def run_switched() -> int:
    """The service, with a signal each for metrics and a line per request, and for neither."""
    metrics, access = SwitchedMetrics(), logging.getLogger("service.access")

    def switch(signum: int, frame: FrameType | None) -> None:
        metrics.switch(signum == ON)
        access.setLevel(logging.NOTSET if signum == ON else logging.CRITICAL)

    for signum in (ON, OFF):
        signal.signal(signum, switch)
    return serve(metrics)


@contextmanager
def scraped(url: str, interval_s: float) -> Iterator[None]:
    """Scrape all the while.

    With as little as can be done, since the scraper is on the cores that are measured: making an httpx client alone
    takes 30 ms of CPU (the authorities for TLS), 1 to 2 % of a round.
    """
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    over = threading.Event()
    failed: list[int] = []

    def scrape() -> None:
        while not over.wait(interval_s):
            connection.request("GET", "/metrics")
            with connection.getresponse() as answer:
                answer.read()
                if answer.status != HTTPStatus.OK:
                    failed.append(answer.status)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        connection.close()
    if failed:
        raise LoadError(f"{url}/metrics answered {failed[0]} to a scrape")


def load(one: Server, arguments: argparse.Namespace, *, on: bool) -> dict[str, float]:
    """One round's figures with or without. Raises LoadError where the server isn't what it was told to be."""
    one.switch(on)
    counted = one.counted()
    before = one.cpu_s()
    seen, seconds = asyncio.run(round_over_http(arguments))
    cpu_s = one.cpu_s() - before
    time.sleep(SETTLING_S)
    if (found := one.counted() - counted) != (arguments.requests if on else 0):
        raise LoadError(
            f"the server counted {found:.0f} requests of {arguments.requests}, metrics {'on' if on else 'off'}"
        )
    return {"tokens_per_s": seen.tokens / seconds, "cpu_us_per_token": cpu_s / seen.tokens * 1e6}


def rounds(arguments: argparse.Namespace, one: Server) -> list[dict[str, Any]]:
    """Every round, with how the ways compare in it; Ctrl-C ends them and keeps those that are done."""
    found: list[dict[str, Any]] = []
    try:
        measure(arguments, one, found)
    except KeyboardInterrupt:
        if not found:
            raise
        print(f"interrupted: the report is of {len(found)} rounds", file=sys.stderr)
    return found


def measure(arguments: argparse.Namespace, one: Server, found: list[dict[str, Any]]) -> None:
    """Add the rounds, one by one."""
    arguments.url = one.url
    for number in range(-1, arguments.rounds):  # the first one warms up
        figures: dict[str, dict[str, float]] = {}
        for name in WAYS if number % 2 else reversed(WAYS):
            if name == "on":
                with scraped(one.url, arguments.scrape):
                    figures["on"] = load(one, arguments, on=True)
            else:
                figures[name] = load(one, arguments, on=False)
        ratios = {
            f"{way}_{key}_ratio": figures[way][key] / figures["off"][key]
            for way in ("on", "control")
            for key in figures["off"]
        }
        if number >= 0:
            found.append(figures | ratios)
            print(f"round {number + 1} of {arguments.rounds}: {ratios}", file=sys.stderr)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    names = ("min", "quarter", "median", "three_quarters", "max")
    return dict(zip(names, (round(each, 4) for each in (min(values), *quartiles, max(values))), strict=True))


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over the rounds: the figures of each way, and the ratios to those without."""
    figures = tuple(found[0]["off"])
    ways = {name: {key: spread([each[name][key] for each in found]) for key in figures} for name in WAYS}
    return ways | {
        name: spread([each[name] for each in found])
        for name in (f"{way}_{key}_ratio" for way in ("on", "control") for key in figures)
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("models/small"))
    parser.add_argument("--rounds", type=int, default=20, help="of each way")
    parser.add_argument("--requests", type=int, default=64, help="streams of a way in a round")
    parser.add_argument("--clients", type=int, default=8, help="streams at once")
    parser.add_argument("--scrape", type=float, default=1.0, help="seconds between scrapes")
    parser.add_argument("--target-length", type=int, default=60, help="words; max-tokens decides")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--score", action=argparse.BooleanOptionalAction, default=True)
    parser.set_defaults(others=0.0)
    arguments = parser.parse_args(argv)
    if min(arguments.rounds, arguments.requests, arguments.clients) < 1 or arguments.scrape <= 0:
        parser.error("--rounds, --requests and --clients must be at least 1, --scrape above 0")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 with one line on stderr where that fails."""
    arguments = parse(argv)
    told = {name: str(value) for name, value in vars(arguments).items()}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server must be ended
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            one = stack.enter_context(server(arguments, folder / "server.log"))
            with httpx.Client(base_url=one.url, timeout=30) as client:
                served = {"model": described_model(client), "build": build(client)}
            found = rounds(arguments, one)
    except (httpx.HTTPError, OSError, LoadError) as error:
        print(error, file=sys.stderr)
        return 1
    report = {"summary": summary(found), "rounds": found, "arguments": told, "served": served}
    print(json.dumps(report | {"hardware": hardware(), "versions": versions(), "commit": commit()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run_switched() if sys.argv[1:] == [SWITCHED] else main())
