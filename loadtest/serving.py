"""How the service does under several streaming clients, beside its own engine without HTTP: JSON, by rounds.

`--clients` read streams one after another (a closed loop, so it can't show a stall in front of the listener);
`--others` more requests a second come in with long inputs, which have to be prefilled meanwhile. Each round
also runs the same requests on the bundle's engine in this process, with as many threads, for the ratio. The
client takes CPU of its own: where it shares the server's cores, the ratio is a lower bound.

    make serve &
    python -m loadtest.serving --bundle models/small --clients 16 --rounds 5 > serving.json

A gap of 0 between tokens means that both came in one read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from loadtest.latency import (
    INPUTS,
    LoadError,
    build,
    commit,
    described_model,
    hardware,
    percentiles,
    versions,
)
from promptdial.bundle import load_bundle
from promptdial.engine import Done, Engine, Event, Failed, available_cpus
from service.planning import Planner
from service.schemas import GenerateRequest
from service.settings import Settings

LONG_INPUT = " ".join(INPUTS)
MOST_OTHERS = 16  # at once; what would come on top is counted as skipped
COUNTERS = ("promptdial_score_cpu_seconds_total", "process_cpu_seconds_total")


@dataclass
class Seen:
    """What the clients of one round measured, in milliseconds."""

    first_token_ms: list[float] = field(default_factory=list)
    inter_token_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    score_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    others: int = 0
    others_skipped: int = 0


def body(index: int, arguments: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """The request at place `index`; the same ones in every round."""
    request = {
        "task": "expand",
        "input": INPUTS[index % len(INPUTS)],
        "target_length": arguments.target_length,
        "max_tokens": arguments.max_tokens,
        "seed": index,
        "score": arguments.score,
        "timeout_ms": 60_000,
    }
    return request | changes


@asynccontextmanager
async def posted(url: str, request: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    """Open a connection and post; bare sockets, since a client library would cost more than the server."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    content = json.dumps(request).encode()
    head = (
        f"POST /generate HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    try:
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def read_stream(url: str, request: dict[str, Any], seen: Seen) -> None:
    """One streamed request; LoadError unless it is answered to its end."""
    begun = last = time.perf_counter()
    answer, tokens, read = bytearray(), 0, 0
    async with posted(url, request | {"stream": True}) as reader:
        while part := await reader.read(65536):
            now = time.perf_counter()
            answer += part
            new = answer.count(b"event: token\n", max(0, read - 12))
            read = len(answer)
            for _ in range(new):
                gaps = seen.inter_token_ms if tokens else seen.first_token_ms
                gaps.append((now - last) * 1000)
                last, tokens = now, tokens + 1
    done = re.search(rb"event: done\ndata: (.*)\n\n", answer)
    if done is None:
        raise LoadError(f"a stream ended without `done`: {bytes(answer[-300:])!r}")
    seen.total_ms.append((time.perf_counter() - begun) * 1000)
    told = json.loads(done[1])
    seen.score_ms.append(told["timing"]["score_ms"])
    seen.tokens += told["usage"]["completion_tokens"]


async def round_over_http(arguments: argparse.Namespace) -> tuple[Seen, float]:
    """All requests of a round by the clients, and the seconds that it took."""
    seen, places = Seen(), iter(range(arguments.requests))

    async def client() -> None:
        for place in places:
            await read_stream(arguments.url, body(place, arguments), seen)

    begun = time.perf_counter()
    arriving = asyncio.create_task(others(arguments, seen))
    try:
        await asyncio.gather(*(client() for _ in range(arguments.clients)))
        seconds = time.perf_counter() - begun
    finally:
        arriving.cancel()
        await asyncio.gather(arriving, return_exceptions=True)
    return seen, seconds


async def others(arguments: argparse.Namespace, seen: Seen) -> None:
    """Requests with long inputs at a steady rate, whatever becomes of the ones before."""
    if not arguments.others:
        return
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        request = body(seen.others, arguments, input=LONG_INPUT, max_tokens=4, score=False)
        async with posted(arguments.url, request) as reader:
            await reader.read()

    try:
        while True:
            if len(running) < MOST_OTHERS:
                task = asyncio.create_task(one())
                running.add(task)
                task.add_done_callback(running.discard)
                seen.others += 1
            else:
                seen.others_skipped += 1
            await asyncio.sleep(1 / arguments.others)
    finally:
        await asyncio.gather(*running)


class Baseline:
    """The engine alone: the same requests, as many at once, no HTTP, no scores."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        bundle = load_bundle(arguments.bundle)
        settings = Settings(bundle=arguments.bundle)
        self.arguments = arguments
        self.planner = Planner(bundle, bundle.tokenizer(), settings)
        self.engine = Engine.from_bundle(bundle, threads=arguments.threads, slots=settings.slots)
        self.engine.start()

    def tokens_per_s(self) -> float:
        """Tokens of a round by its seconds."""
        ended: queue.SimpleQueue[Event] = queue.SimpleQueue()
        tokens = 0

        def on_event(event: Event) -> None:
            nonlocal tokens
            if isinstance(event, Done | Failed):
                ended.put(event)
            else:
                tokens += hasattr(event, "token_id")

        begun = time.perf_counter()
        for place in range(self.arguments.requests):
            if place >= self.arguments.clients:
                self._check(ended.get())
            request = GenerateRequest(**body(place, self.arguments))
            self.engine.submit(self.planner.plan(request, time.monotonic()).work, on_event)
        for _ in range(min(self.arguments.clients, self.arguments.requests)):
            self._check(ended.get())
        return tokens / (time.perf_counter() - begun)

    def _check(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise LoadError(f"the engine failed: {event.error}")


def counters(client: httpx.Client) -> dict[str, float]:
    """The server's CPU seconds: of scoring, and of the whole process."""
    page = client.get("/metrics").text
    return {name: float(re.findall(rf"^{name} (\S+)", page, re.MULTILINE)[0]) for name in COUNTERS}


def one_round(client: httpx.Client, baseline: Baseline, arguments: argparse.Namespace) -> dict[str, Any]:
    """Engine alone, then over HTTP."""
    alone = baseline.tokens_per_s()
    before, own_before = counters(client), time.process_time()
    seen, seconds = asyncio.run(round_over_http(arguments))
    own = time.process_time() - own_before
    spent = {name: value - before[name] for name, value in counters(client).items()}
    gaps = percentiles(seen.inter_token_ms)
    return {
        "tokens_per_s": round(seen.tokens / seconds, 1),
        "engine_tokens_per_s": round(alone, 1),
        "share_of_engine": round(seen.tokens / seconds / alone, 3),
        "first_token_ms": percentiles(seen.first_token_ms),
        "inter_token_ms": gaps,
        "inter_token_p99_by_p50": round(gaps["p99"] / gaps["p50"], 2) if gaps["p50"] else None,
        "total_ms": percentiles(seen.total_ms),
        "score_ms": percentiles(seen.score_ms),
        "scoring_share_of_cpu": round(spent[COUNTERS[0]] / max(spent[COUNTERS[1]], 1e-9), 3),
        "client_share_of_machine": round(own / seconds / available_cpus(), 3),
        "others": seen.others,
        "others_skipped": seen.others_skipped,
    }


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and extremes over the rounds, of every figure."""
    found: dict[str, Any] = {}
    for name, value in rounds[0].items():
        values = [each[name] for each in rounds]
        if isinstance(value, dict):
            found[name] = summary(values)
        elif all(each is not None for each in values):
            found[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the service listens")
    parser.add_argument("--bundle", type=Path, default=Path("models/small"), help="the one that is served")
    parser.add_argument("--threads", type=int, help="of the engine alone; give what the server has")
    parser.add_argument("--clients", type=int, default=16, help="streams at once")
    parser.add_argument("--requests", type=int, default=160, help="streams of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", type=float, default=0.0, help="requests with long inputs per second")
    parser.add_argument("--target-length", type=int, default=60, help="words; max-tokens decides")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--score", action=argparse.BooleanOptionalAction, default=True, help="measure relevance"
    )
    arguments = parser.parse_args(argv)
    if min(arguments.clients, arguments.requests, arguments.rounds) < 1 or arguments.others < 0:
        parser.error("--clients, --requests and --rounds must be at least 1, --others at least 0")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 with one line on stderr where the service can't be measured."""
    arguments = parse(argv)
    try:
        with httpx.Client(base_url=arguments.url, timeout=30) as client:
            served = {"model": described_model(client), "build": build(client)}
            baseline = Baseline(arguments)
            asyncio.run(round_over_http(arguments))  # warm-up
            rounds = [one_round(client, baseline, arguments) for _ in range(arguments.rounds)]
            baseline.engine.close()
    except (httpx.TransportError, OSError) as error:
        print(f"{arguments.url} does not answer ({error}). Start it with: make serve", file=sys.stderr)
        return 1
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    report = {
        "summary": summary(rounds),
        "rounds": rounds,
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "served": served,
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
