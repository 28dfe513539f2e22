"""What metrics and logs cost: the service with and without them, side by side, in paired rounds, as JSON.

Two servers of the same bundle run at once. With: metrics are counted and scraped every `--scrape` seconds, and a
line per request is logged, into a file. Without: nothing is counted but the sizes of the engine's steps, and nothing
is logged. A round loads one, then the other; the next round begins with the other, so that what changes on the machine
meanwhile falls on both. The ratio is taken within a round. CPU seconds of the server per token say the same with
less noise, where others use the machine.

    python -m loadtest.overhead --rounds 10 > overhead.json
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
from pathlib import Path
from typing import Any

import httpx

from loadtest.latency import LoadError, build, commit, described_model, hardware, versions
from loadtest.serving import round_over_http
from service.metrics import Metrics
from service.server import main as serve

START_S = 300.0
LISTENING = re.compile(r"Uvicorn running on (http://[\w.:\[\]]+)")
BARE = "bare"  # the argument of a child without metrics


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


class NoMetrics(Metrics):
    """Metrics that stay at 0."""

    COUNTED = (
        *("requests", "rejected", "cancelled", "clamped_targets", "prompt_tokens", "generated_tokens"),
        *("request_seconds", "queue_seconds", "prefill_seconds", "score_seconds", "first_token_seconds"),
        *("inter_token_seconds", "score_cpu_seconds"),
    )

    def __init__(self) -> None:
        super().__init__()
        for name in self.COUNTED:
            assert hasattr(self, name)
            setattr(self, name, Nothing())

    def expect(self, tasks: Any) -> None:
        """Nothing."""

    def steered(self, field: str, task: str, target: float, achieved: float) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        """Its CPU seconds so far, user and system."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(arguments: argparse.Namespace, log: Path, *, bare: bool) -> Iterator[Server]:
    """A server in a process of its own, ended at the end. Raises LoadError where it doesn't start."""
    module = ["loadtest.overhead", BARE] if bare else ["service"]
    told = {"PROMPTDIAL_PORT": "0", "PROMPTDIAL_BUNDLE": str(arguments.bundle)}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            env=os.environ | told,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for the measurement, which ends them
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


def run_bare() -> int:
    """The server without metrics and without a line per request."""
    logging.getLogger("service.access").setLevel(logging.CRITICAL)
    return serve(NoMetrics())


@contextmanager
def scraped(url: str, interval_s: float) -> Iterator[list[float]]:
    """Scrape all the while; the list gets each scrape's milliseconds."""
    taken: list[float] = []
    over = threading.Event()

    def scrape() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not over.wait(interval_s):
                begun = time.perf_counter()
                client.get("/metrics").raise_for_status()
                taken.append((time.perf_counter() - begun) * 1000)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def load(one: Server, arguments: argparse.Namespace) -> dict[str, float]:
    """One round's figures of one server."""
    arguments.url = one.url
    before = one.cpu_s()
    seen, seconds = asyncio.run(round_over_http(arguments))
    cpu_s = one.cpu_s() - before
    return {"tokens_per_s": seen.tokens / seconds, "cpu_us_per_token": cpu_s / seen.tokens * 1e6}


def rounds(arguments: argparse.Namespace, on: Server, off: Server) -> list[dict[str, Any]]:
    """Every pair, with how the servers compare in it; Ctrl-C ends them and keeps those that are done."""
    found: list[dict[str, Any]] = []
    try:
        measure(arguments, on, off, found)
    except KeyboardInterrupt:
        if not found:
            raise
        print(f"interrupted: the report is of {len(found)} rounds", file=sys.stderr)
    return found


def measure(arguments: argparse.Namespace, on: Server, off: Server, found: list[dict[str, Any]]) -> None:
    """Add the rounds, one by one."""
    for number in range(-1, arguments.rounds):  # the first one warms up
        figures: dict[str, dict[str, float]] = {}
        for name in ("on", "off") if number % 2 else ("off", "on"):
            if name == "on":
                with scraped(on.url, arguments.scrape):
                    figures["on"] = load(on, arguments)
            else:
                figures["off"] = load(off, arguments)
        ratios = {f"{key}_ratio": figures["on"][key] / figures["off"][key] for key in figures["on"]}
        if number >= 0:
            found.append(figures | ratios)
            print(f"round {number + 1} of {arguments.rounds}: {ratios}", file=sys.stderr)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    names = ("min", "quarter", "median", "three_quarters", "max")
    return dict(zip(names, (round(each, 4) for each in (min(values), *quartiles, max(values))), strict=True))


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over the rounds: each server's figures, and the ratios that count."""
    result: dict[str, Any] = {
        name: {key: spread([each[name][key] for each in found]) for key in found[0][name]}
        for name in ("on", "off")
    }
    for key in ("tokens_per_s_ratio", "cpu_us_per_token_ratio"):
        result[key] = spread([each[key] for each in found])
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("models/small"))
    parser.add_argument("--rounds", type=int, default=10, help="pairs")
    parser.add_argument("--requests", type=int, default=64, help="streams of a server in a round")
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the servers must be ended
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            on = stack.enter_context(server(arguments, folder / "on.log", bare=False))
            off = stack.enter_context(server(arguments, folder / "off.log", bare=True))
            with httpx.Client(base_url=on.url, timeout=30) as client:
                served = {"model": described_model(client), "build": build(client)}
            found = rounds(arguments, on, off)
    except (httpx.HTTPError, OSError, LoadError) as error:
        print(error, file=sys.stderr)
        return 1
    report = {"summary": summary(found), "rounds": found, "arguments": told, "served": served}
    print(json.dumps(report | {"hardware": hardware(), "versions": versions(), "commit": commit()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run_bare() if sys.argv[1:] == [BARE] else main())
