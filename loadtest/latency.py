"""How long one client waits for one answer: requests one after another, the figures printed as JSON.

This is the number a person at a keyboard feels, with no queue in it. What many clients at once do to the
service is another question, and a closed loop like this one can't answer it. Warm-up requests come first
and are not counted.

    make serve &
    python -m loadtest.latency --url http://127.0.0.1:8000 --requests 100

Every answer carries the server's own split of its time; ``outside_ms`` is what the client waited beyond
that: HTTP, JSON and the loopback. The report names the hardware, versions, commit and bundle that the
figures belong to.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

INPUTS = (
    "a fox in the snow",
    "an old lighthouse in a storm",
    "two children flying a red kite on a beach",
    "a bowl of ramen on a wooden table",
    "a city street at night in the rain",
    "a portrait of a retired sailor",
    "an astronaut resting in a field of sunflowers",
    "a cat asleep on a stack of books",
    "a mountain lake at dawn",
    "a robot watering plants in a greenhouse",
)
PARTS = ("queue_ms", "prefill_ms", "decode_ms", "score_ms", "total_ms")
PACKAGES = ("onnxruntime", "tokenizers", "numpy", "fastapi", "uvicorn", "httpx", "aiohttp")


class LoadError(Exception):
    """The server can't be reached refused a request or is another program; the text says which and why."""


@dataclass(frozen=True)
class Sample:
    """One counted request: what the client waited, and what the server says it did."""

    wall_ms: float
    timing: dict[str, float]
    completion_tokens: int


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, mean and extremes, in the unit of ``values`` (at least one)."""
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {
        "p50": round(cuts[49], 2),
        "p90": round(cuts[89], 2),
        "p99": round(cuts[98], 2),
        "mean": round(statistics.fmean(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def body(index: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The request sent at place ``index``: another input each time, the same ones in every run."""
    return {
        "task": arguments.task,
        "input": INPUTS[index % len(INPUTS)],
        "target_length": arguments.target_length,
        "max_tokens": arguments.max_tokens,
        "n": arguments.n,
        "seed": index,
        "score": arguments.score,
    }


def post(client: httpx.Client, request: dict[str, Any]) -> Sample:
    """Send one request and read its whole answer; LoadError unless it is a 200."""
    started = time.perf_counter()
    response = client.post("/generate", json=request)
    wall_ms = (time.perf_counter() - started) * 1000
    if response.status_code != httpx.codes.OK:
        raise LoadError(f"POST /generate answered {response.status_code}: {response.text[:500]}")
    try:
        answer = response.json()
        timing = {part: float(answer["timing"][part]) for part in PARTS}
        return Sample(wall_ms, timing, int(answer["usage"]["completion_tokens"]))
    except (ValueError, TypeError, KeyError):
        raise stranger(response) from None


def stranger(response: httpx.Response) -> LoadError:
    """The error for a 200 that isn't Promptdial's."""
    path = response.request.url.path
    return LoadError(f"{path} is not answered by Promptdial; is the address right? {response.text[:200]!r}")


def measure(client: httpx.Client, arguments: argparse.Namespace) -> list[Sample]:
    """The counted requests, after the warm-up ones."""
    for index in range(arguments.warmup):
        post(client, body(index, arguments))
    return [post(client, body(index, arguments)) for index in range(arguments.requests)]


def hardware() -> dict[str, Any]:
    """What this machine is; the server is assumed to run on it as well."""
    model = platform.processor() or platform.machine()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kib = next((int(line.split()[1]) for line in _lines(Path("/proc/meminfo"))), 0)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "system": platform.platform(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def versions() -> dict[str, str]:
    """Python and the packages that decide the figures, as installed here; ``served`` has the server's."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, with ``-dirty`` where tracked files were changed; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def report(
    samples: Sequence[Sample], served: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Everything that is printed: figures first, then what they belong to."""
    tokens = [sample.completion_tokens for sample in samples]
    outside = [sample.wall_ms - sample.timing["total_ms"] for sample in samples]
    parts = {part: percentiles([sample.timing[part] for sample in samples]) for part in PARTS}
    return {
        "requests": len(samples),
        "wall_ms": percentiles([sample.wall_ms for sample in samples]),
        "server": parts,
        "outside_ms": percentiles(outside),
        "completion_tokens": percentiles(tokens),
        "request": body(0, arguments),
        "served": served,
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }


def build(client: httpx.Client) -> dict[str, str]:
    """The labels of the server's ``promptdial_build_info``: its code, bundle, device and runtime versions."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("promptdial_build_info{"):
            return dict(re.findall(r'(\w+)="([^"]*)"', line))
    return {}


def described_model(client: httpx.Client) -> dict[str, Any]:
    """What ``GET /model`` says about the bundle and the engine, without its long tables."""
    answer = client.get("/model")
    if answer.status_code != httpx.codes.OK:
        raise LoadError(f"GET /model answered {answer.status_code}: {answer.text[:500]}")
    try:
        short = dict(answer.json())
    except (ValueError, TypeError):
        raise stranger(answer) from None
    for table in ("support", "calibration", "data", "tasks", "metrics", "training"):
        short.pop(table, None)
    return short


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line; every field of the request that decides its cost can be set."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.latency", description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the service listens")
    parser.add_argument("--requests", type=int, default=100, help="counted requests")
    parser.add_argument("--warmup", type=int, default=5, help="requests sent before, not counted")
    parser.add_argument("--task", default="expand")
    parser.add_argument(
        "--target-length", type=int, default=60, help="words; long enough that max-tokens decides"
    )
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--n", type=int, default=1, help="candidates per request")
    parser.add_argument(
        "--score", action=argparse.BooleanOptionalAction, default=True, help="measure relevance"
    )
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for one answer")
    arguments = parser.parse_args(argv)
    if arguments.requests < 1 or arguments.warmup < 0:
        parser.error("--requests must be at least 1 and --warmup at least 0")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 with one line on stderr where the service can't be measured."""
    arguments = parse(argv)
    try:
        with httpx.Client(base_url=arguments.url, timeout=arguments.timeout) as client:
            served = {"model": described_model(client), "build": build(client)}
            samples = measure(client, arguments)
    except httpx.TransportError as error:
        print(
            f"{arguments.url} does not answer ({error}). Is it running? Start it with: make serve",
            file=sys.stderr,
        )
        return 1
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(report(samples, served, arguments), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
