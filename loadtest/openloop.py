"""Open-loop load: requests leave at the times of a Poisson process, whatever becomes of the ones before.

    python -m loadtest.openloop                                   # a service of its own; looks for the knee
    python -m loadtest.openloop --url http://127.0.0.1:8000 --rates 5,10 --seconds 30 --slo 'p99<=500ms'

Latencies count from the *intended* send time, so a stall shows in every request that it delayed. A closed loop waits
with the server and hides it (coordinated omission).

Without `--rates` the rate rises until the service can't follow, and the knee is found between; then it is held at half,
at 0.8 and at twice the knee, and bursts follow. `report.json` and `report.html` are written into `--out`, after Ctrl-C
with what was measured until then.

Exit codes: 0; 1 the service can't be measured; 2 wrong options; 3 an `--slo` was missed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx

from loadtest import context, report, retries, slo, sweep, workload
from loadtest.latency import LoadError
from loadtest.launch import service_at
from loadtest.peers.comparison import say
from loadtest.player import Player, poisson
from loadtest.records import summarise
from loadtest.sending import Sender
from loadtest.workload import Request

WARM_UP = 20
BURSTS = 10
HELD = {0.5: "half the knee", 0.8: "0.8 of the knee", 1.0: "the knee", 2.0: "twice the knee"}


class OpenLoop:
    """One run against the service at `url`, made in the loop that it runs in.

    What it has measured is in `steps`, `knee` and the player's checker.
    """

    def __init__(self, url: str, options: argparse.Namespace) -> None:
        self.options = options
        self.steps: list[dict[str, Any]] = []
        self.knee: dict[str, Any] | None = None
        self.interrupted = False
        self.trouble: str | None = None
        self.player = Player(Sender(url, options.timeout_ms), options.retry_checks)
        self._metrics = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
        self._numbers = itertools.count()

    async def run(self) -> None:
        """All steps. A Ctrl-C ends them early and keeps what they gave."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, task.cancel)
        try:
            await self._warm_up()
            if self.options.rates:
                for rate in self.options.rates:
                    await self._hold(f"{rate:g}/s", rate, self.options.seconds)
            else:
                await self._search()
                await self._around_the_knee()
            await self._bursts()
        except asyncio.CancelledError:
            self.interrupted = True
        except httpx.TransportError as error:
            self.trouble = f"the service stopped answering ({type(error).__name__}: {error})"
        finally:
            for signum in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(signum)
            await self.player.sender.close()
            await self._metrics.aclose()

    async def _warm_up(self) -> None:
        """First connections, and a service that has learnt how fast it is; not counted."""
        for request in itertools.islice(self._requests("warm-up"), WARM_UP):
            record = await self.player.send(request)
            if record.outcome == "error" and "deadline" not in record.kind:
                raise LoadError(f"a warm-up request failed: {record.kind}")

    async def _search(self) -> None:
        search = sweep.Search(self.options.start, self.options.most_steps)
        give_up = time.monotonic() + self.options.minutes * 60
        while search.rate is not None and time.monotonic() < give_up:
            name = f"search {search.steps + 1}"
            step = await self._hold(name, search.rate, self.options.seconds, searching=True)
            search.note(step["goodput"])
            self.knee = search.found()

    async def _around_the_knee(self) -> None:
        knee = self.knee["rate_per_s"] if self.knee else None
        if knee is None:
            say("no rate held, so there is no knee to look around")
            return
        say(f"the knee: {knee:g} requests/s")
        for part in self.options.hold:
            name = HELD.get(part, f"{part:g} of the knee")
            await self._hold(name, part * knee, self.options.hold_seconds, of_knee=part)

    async def _hold(self, name: str, rate: float, seconds: float, **more: Any) -> dict[str, Any]:
        """Send at a rate for so long."""
        say(f"{name}: {rate:.1f} requests/s for {seconds:g} s")
        seed = f"{self.options.seed}-{next(self._numbers)}"
        arrivals = poisson(random.Random(seed), rate, seconds)
        step = {"name": name, "offered_per_s": round(rate, 2), "searching": False, **more}
        self.player.checker.when = "past the knee" if step.get("of_knee", 0) > 1 else "other steps"
        # Drawn before, not while the service is measured on the same cores.
        schedule = list(zip(arrivals, self._requests(seed), strict=False))
        return await self._measure(step, schedule, seconds)

    async def _bursts(self) -> None:
        """Many requests at once, then nothing: what refusals say is put to the test with no other load."""
        checker, options = self.player.checker, self.options
        at_once, checker.at_once, checker.when = checker.at_once, min(1, checker.at_once), "after bursts"
        for number in range(options.bursts):
            say(f"burst {number + 1} of {options.bursts}: {options.burst_size} requests at once")
            requests = itertools.islice(self._requests(f"burst-{number}"), options.burst_size)
            step = {"name": f"burst {number + 1}", "offered_per_s": None, "searching": True}
            await self._measure(step, ((0.0, request) for request in requests), options.timeout_ms / 1000)
        checker.at_once = at_once

    def _requests(self, part: str) -> Iterable[Request]:
        return workload.requests(f"{self.options.seed}-{part}", self.options.timeout_ms)

    async def _measure(
        self, step: dict[str, Any], schedule: Iterable[tuple[float, Request]], seconds: float
    ) -> dict[str, Any]:
        """Play a schedule and put its figures into `step`; after a cancellation, those until then."""
        watch = context.CpuWatch(await self._page())
        try:
            await self.player.play(schedule)
        except asyncio.CancelledError:
            seconds = max(0.001, min(seconds, self.player.sender.now()))
            raise
        finally:
            step |= summarise(self.player.records, seconds, self.options.good_ms)
            step |= {"unsent": self.player.unsent, "cpu": None}
            self.steps.append(step)
            step["cpu"] = watch.cores(await self._page())
        say(
            f"  {step['ok']} ok ({step['goodput'] or 0:.1%} good), {step['refused']} refused, {step['errors']} errors; "
            f"p50 {step['latency_ms']['p50']} ms, p99 {step['latency_ms']['p99']} ms"
        )
        return step

    async def _page(self) -> str:
        return (await self._metrics.get("/metrics")).text

    def report(self, described: dict[str, Any]) -> dict[str, Any]:
        """Everything that the run gave."""
        retry = retries.summarise(self.player.checker.checks)
        whole = {"retry_right": retry["all"]["right_share"], "knee": (self.knee or {}).get("rate_per_s")}
        options = vars(self.options) | {"slo": [each.text for each in self.options.slo]}
        return {
            "kind": "open loop",
            "context": described,
            "options": {
                name: str(value) if isinstance(value, Path) else value for name, value in options.items()
            },
            "workload": workload.described(),
            "interrupted": self.interrupted,
            "trouble": self.trouble,
            "knee": self.knee,
            "steps": self.steps,
            "retry_after": retry,
            "checks": [dataclasses.asdict(each) for each in self.player.checker.checks],
            "slo": slo.judge(self.options.slo, self.steps, whole),
        }


def parts(text: str) -> list[float]:
    """Numbers over 0, separated by commas."""
    found = [float(part) for part in text.split(",") if part]
    if not found or min(found) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must hold numbers above 0, like 5,10")
    return found


def condition(text: str) -> slo.Condition:
    """One `--slo`."""
    try:
        return slo.Condition.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.openloop", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--url", help="of a running service; left out, one is started, as PROMPTDIAL_* variables say")
    add("--out", type=Path, default=Path("runs/loadtest/open"), help="folder of the report")
    add("--seed", type=int, default=0, help="of arrivals and requests")
    add("--rates", type=parts, help="requests per second, instead of the search for the knee: 5,10,20")
    add("--start", type=float, default=5.0, help="first rate of the search")
    add("--seconds", type=float, default=10.0, help="of a step of the search, or at each of --rates")
    add("--most-steps", type=int, default=24, help="of the search")
    add("--minutes", type=float, default=6.0, help="that the search takes at most")
    add("--hold", type=parts, default=[0.5, 0.8, 2.0], help="parts of the knee that are held (0.5,0.8,2)")
    add("--hold-seconds", type=float, default=30.0)
    add("--bursts", type=int, help="bursts at the end (default: 10, with --rates none)")
    add("--burst-size", type=int, default=120, help="requests of one")
    add("--good-ms", type=float, default=1000.0, help="an answer is good up to this latency")
    add("--timeout-ms", type=int, help="that each request gives the service (default: what is good)")
    add("--retry-checks", type=int, default=2, help="refusals that are followed up at once; 0 for none")
    add(
        "--slo",
        type=condition,
        action="append",
        default=[],
        help="such as p99<=500ms, goodput>=0.9@2; repeatable",
    )
    options = parser.parse_args(argv)
    options.timeout_ms = options.timeout_ms or round(options.good_ms)
    if options.bursts is None:
        options.bursts = 0 if options.rates else BURSTS
    if min(options.start, options.seconds, options.hold_seconds, options.minutes, options.good_ms) <= 0:
        parser.error("--start, --seconds, --hold-seconds, --minutes and --good-ms must be above 0")
    if min(options.most_steps, options.burst_size, options.timeout_ms) < 1:
        parser.error("--most-steps, --burst-size and --timeout-ms must be at least 1")
    if min(options.bursts, options.retry_checks) < 0:
        parser.error("--bursts and --retry-checks must be at least 0")
    return options


async def _measure(url: str, options: argparse.Namespace) -> OpenLoop:
    run = OpenLoop(url, options)
    await run.run()
    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report, judge."""
    options = parse(argv)
    try:
        with service_at(options.url) as url:
            described = context.described(url, started_here=not options.url)
            run = asyncio.run(_measure(url, options))
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    result = run.report(described)
    report.write(result, options.out)
    return report.tell(result, options.out)


if __name__ == "__main__":
    sys.exit(main())
