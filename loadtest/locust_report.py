"""From what Locust's users noted to the report: the same figures as the open loop's, by stages."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from loadtest import context, report, slo, sweep, workload
from loadtest.records import Record, summarise


@dataclass
class Stage:
    """A time with so many users, who would like to send `offered` requests a second together."""

    begun_s: float
    users: int
    offered: float
    watch: context.CpuWatch
    cpu: dict[str, float | None] | None = None


@dataclass
class Log:
    """All that one run notes. Locust has one process here and one thread."""

    records: list[Record] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    seed: int = 0
    timeout_ms: int = 1000
    exit_code: int = 0
    zero: float = 0.0
    described: dict[str, Any] = field(default_factory=dict)
    _environment: Any = None

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Options besides Locust's own."""
        add = parser.add_argument_group("promptdial").add_argument
        add("--own-service", action="store_true", help="the variables PROMPTDIAL_* are those of the service")
        add("--report-dir", default="runs/loadtest/locust", help="folder of report.json and report.html")
        add("--good-ms", type=float, default=1000.0, help="an answer is good up to this time")
        add("--seed", type=int, default=0, help="of the requests")
        add("--slo", action="append", default=[], help="such as p99<=500ms; repeatable")
        add("--peak-users", type=int, default=96, help="of the last stage (stages.py)")
        add("--test-seconds", type=float, default=120.0, help="of all stages together (stages.py)")

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.zero

    def begin(self, environment: Any) -> None:
        """Forget an earlier run; note what is tested."""
        options = environment.parsed_options
        self.records, self.stages, self._environment = [], [], environment
        self.seed, self.timeout_ms = options.seed, round(options.good_ms)
        self.described = context.described(environment.host, started_here=options.own_service)
        self.zero = time.perf_counter()

    def stage(self, users: int) -> None:
        """A new number of users is there."""
        self._end_stage()
        runner = self._environment.runner
        rates = {each.__name__: each.rate for each in self._environment.user_classes}
        offered = sum(count * rates[name] for name, count in runner.user_classes_count.items())
        self.stages.append(Stage(self.now(), users, offered, context.CpuWatch(self._page())))

    def _end_stage(self) -> None:
        if self.stages and self.stages[-1].cpu is None:
            self.stages[-1].cpu = self.stages[-1].watch.cores(self._page())

    def _page(self) -> str:
        """The service's metrics; empty where it doesn't answer: the load goes on."""
        try:
            return httpx.get(f"{self._environment.host}/metrics", timeout=10, trust_env=False).text
        except httpx.TransportError:
            return ""

    def end(self, environment: Any) -> None:
        """Write the report and judge."""
        ended_s = self.now()
        self._end_stage()
        options = environment.parsed_options
        ends = [*(stage.begun_s for stage in self.stages[1:]), ended_s]
        steps = [
            self._step(stage, end_s, options.good_ms) for stage, end_s in zip(self.stages, ends, strict=True)
        ]
        knee = sweep.knee_of(steps)
        for step in steps:
            step["of_knee"] = (
                round(step["offered_per_s"] / knee["rate_per_s"], 2) if knee["rate_per_s"] else None
            )
        result = {
            "kind": "Locust, a closed loop",
            "context": self.described,
            "options": {
                name: getattr(options, name)
                for name in ("good_ms", "seed", "peak_users", "test_seconds", "slo")
            },
            "workload": workload.described()
            | {
                each.__name__: f"weight {each.weight}, {each.rate:g} requests/s a user"
                for each in environment.user_classes
            },
            "interrupted": bool(environment.shape_class and not environment.shape_class.over),
            "knee": knee,
            "steps": steps,
            "slo": slo.judge(
                [slo.Condition.parse(text) for text in options.slo], steps, {"knee": knee["rate_per_s"]}
            ),
        }
        folder = Path(options.report_dir)
        report.write(result, folder)
        self.exit_code = report.tell(result, folder)

    def _step(self, stage: Stage, end_s: float, good_ms: float) -> dict[str, Any]:
        """Of the requests that were sent in a stage."""
        chosen = [each for each in self.records if stage.begun_s <= each.sent_s < end_s]
        for each in chosen:
            each.intended_s -= stage.begun_s
            each.sent_s -= stage.begun_s
            each.ended_s -= stage.begun_s
            if each.first_token_s is not None:
                each.first_token_s -= stage.begun_s
        figures = summarise(chosen, max(0.001, end_s - stage.begun_s), good_ms)
        return {
            "name": f"{stage.users} users",
            "offered_per_s": round(stage.offered, 2),
            "searching": False,
            **figures,
            "unsent": 0,
            "cpu": stage.cpu,
        }
