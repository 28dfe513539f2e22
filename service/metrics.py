"""Prometheus metrics, one registry per application. Labels take their values from closed sets only.

Buckets of seconds start at a tenth of a millisecond: this service queues for that long, writes a token in less
than one and answers in tens of them, and a p99 has to show.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from promptdial.engine import Stats
from service.series import Counter, Counters, Family, Histogram

SECONDS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015),
    *(0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0),
)
ERRORS_ABOVE = {
    "relevance": (0.05, 0.1, 0.15, 0.2, 0.3, 0.5),  # cosine
    "length": (2.0, 5.0, 10.0, 20.0, 50.0, 100.0),  # words
}
ERRORS = {
    field: (*(-bound for bound in reversed(above)), 0.0, *above) for field, above in ERRORS_ABOVE.items()
}
HIT_RELEVANCE = 0.1  # cosine
HIT_LENGTH = 0.2  # of the target's words

BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)

UNKNOWN_TASK = "unknown"
OUTCOMES = {200: "ok", 429: "overloaded", 499: "cancelled", 503: "unavailable", 504: "timeout"}
INVALID, ERROR = "invalid", "error"  # of other statuses
ALL_OUTCOMES = (*OUTCOMES.values(), INVALID, ERROR)
REASONS = ("overloaded", "unavailable", "invalid_request", "timeout_too_short")  # the usual codes of refusals
CPU_PROVIDER = "CPUExecutionProvider"
TASKS_DIRECTORY = Path("/proc/self/task")  # of Linux; a folder per thread


def outcome_of(status: int) -> str:
    """The `outcome` label of a response status; 0 where the server gave up before there was one."""
    return OUTCOMES.get(status) or (INVALID if 400 <= status < 500 else ERROR)


def is_hit(field: str, target: float, achieved: float) -> bool:
    """Whether a target counts as met."""
    tolerance = HIT_RELEVANCE if field == "relevance" else HIT_LENGTH * target
    return abs(achieved - target) <= tolerance


class StepSizes(Histogram):
    """How many decode steps had how many sequences; told by the engine, on its thread."""

    def __init__(self) -> None:
        super().__init__(BATCH_SIZES)

    def __call__(self, sequences: int, seconds: float) -> None:
        """Count a step."""
        self.observe(sequences)


class EngineCollector(Collector):
    """What the engine counts itself, read when it is asked for, without a lock that it might wait for."""

    GAUGES = (
        ("running_sequences", "Sequences that are decoded now.", "running_sequences"),
        ("running_requests", "Requests that are read or decoded now.", "running_requests"),
        ("waiting_requests", "Requests in the engine's queue.", "waiting_requests"),
        ("queue_limit", "Requests that may wait; one more is refused.", "queue_limit"),
        ("kv_slots_used", "Rows of the KV cache that hold a sequence.", "running_sequences"),
        ("kv_slots", "Rows of the KV cache: sequences that can be decoded at once.", "slots"),
        ("engine_threads", "Threads that the decoder may use.", "threads"),
    )
    COUNTERS = (
        ("engine_steps", "Steps of the engine.", "steps"),
        ("engine_failed_steps", "Steps that failed; the requests in them were lost.", "failed_steps"),
        (
            "redrawn_sentences",
            "Sentences that didn't hold together, or couldn't go on well, and began anew.",
            "redrawn_sentences",
        ),
    )

    def __init__(self) -> None:
        self.stats: Callable[[], Stats] | None = None  # None until there is an engine
        self.heartbeat: Callable[[], float] = time.monotonic
        self.ready: Callable[[], bool] = lambda: False

    def collect(self) -> Iterator[Metric]:
        """Gauges of now, and the steps since the start."""
        stats = None if self.stats is None else self.stats()
        for name, description, field in self.GAUGES:
            value = None if stats is None else getattr(stats, field)
            yield GaugeMetricFamily(f"promptdial_{name}", description, value)
        for name, description, field in self.COUNTERS:
            value = None if stats is None else getattr(stats, field)
            yield CounterMetricFamily(f"promptdial_{name}", description, value)
        silent_s = None if stats is None else max(0.0, time.monotonic() - self.heartbeat())
        yield GaugeMetricFamily(
            "promptdial_engine_heartbeat_age_seconds", "Since the engine's loop last turned.", silent_s
        )
        yield GaugeMetricFamily("promptdial_ready", "Whether work is taken: 1 or 0.", float(self.ready()))
        yield from self._device(stats)

    def _device(self, stats: Stats | None) -> Iterator[Metric]:
        provider = GaugeMetricFamily(
            "promptdial_engine_provider",
            "Always 1; the labels tell the device asked for and the provider that runs the decoder.",
            labels=["device", "provider"],
        )
        fallback = GaugeMetricFamily(
            "promptdial_cpu_fallback", "1 where another device was asked for and the CPU does the work."
        )
        if stats is not None:
            provider.add_metric([stats.device, stats.provider], 1)
            fallback.add_metric([], float(stats.device != "cpu" and stats.provider == CPU_PROVIDER))
        yield from (provider, fallback)


class ThreadCollector(Collector):
    """Threads of the process, those of ONNX Runtime too."""

    def collect(self) -> Iterator[Metric]:
        """Now; nothing where the system doesn't tell."""
        if TASKS_DIRECTORY.is_dir():
            threads = len(os.listdir(TASKS_DIRECTORY))
            yield GaugeMetricFamily("process_threads", "Threads of the process.", threads)


class Metrics:
    """The service's metrics; their names are part of what a version promises.

    Counters and histograms are written on the event loop, but for `score_cpu_seconds` (the scoring thread) and
    the steps' sizes (the engine's). `render` may be called on any thread.
    """

    def __init__(self) -> None:
        self.families: list[Family[Any]] = []
        self._make_counters()
        self._make_histograms()
        self.engine = EngineCollector()
        self.registry = CollectorRegistry()
        for collector in (self.engine, ThreadCollector(), ProcessCollector(registry=None)):
            self.registry.register(collector)
        self.build_info = Gauge(
            "promptdial_build_info",
            "Always 1; the labels tell what runs.",
            ["version", "bundle", "bundle_version", "precision", "device", "onnxruntime", "python"],
            registry=self.registry,
        )

    def _make_counters(self) -> None:
        count, steering = self._counters, ("field", "task")
        self.requests = count("requests", "Answered requests to /generate.", "task", "outcome")
        self.rejected = count("rejected", "Requests refused before decoding.", "reason")
        self.clamped_targets = count("clamped_targets", "Targets moved into the trained support.", *steering)
        self.target_sum = count(
            "target_sum", "Sum of the targets that target_error counts: cosine, words.", *steering
        )
        self.achieved_sum = count(
            "achieved_sum", "Sum of what was achieved for them; a negative cosine adds 0.", *steering
        )
        self.target_hits = count(
            "target_hits", "Of them, those achieved within 0.1 cosine, or 20 % of the words.", *steering
        )
        self.cancelled = self._counter("cancelled", "Requests whose client went away.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read, whatever the end.")
        self.generated_tokens = self._counter("generated_tokens", "Tokens written, whatever the end.")
        self.score_cpu_seconds = self._counter("score_cpu_seconds", "CPU time of measuring relevance.")

    def _make_histograms(self) -> None:
        seconds = self._seconds
        self.request_seconds = seconds(
            "request", "To the answer; refused and cancelled requests aren't timed."
        )
        self.queue_seconds = seconds("queue", "Waiting for the engine, of requests decoded to the end.")
        self.prefill_seconds = seconds("prefill", "Reading the prompt, of requests decoded to the end.")
        self.score_seconds = seconds("score", "Measuring relevance after decoding.")
        self.first_token_seconds = seconds(
            "time_to_first_token", "From the request's arrival to its first token, as the engine tells of it."
        )
        self.inter_token_seconds = seconds(
            "inter_token", "Between two tokens of a request's first candidate, as the engine tells of them."
        )
        self.batch_size = self._histograms("batch_size", "Sequences in a decode step.")
        self.target_error = self._histograms(
            "target_error",
            "Achieved minus target, of the best candidate: cosine for relevance, words for length.",
            *("field", "task"),
        )

    def _counters(self, name: str, description: str, *labels: str) -> Counters:
        family = Counters(f"promptdial_{name}", description, labels)
        self.families.append(family)
        return family

    def _counter(self, name: str, description: str) -> Counter:
        return self._counters(name, description).labels()

    def _histograms(self, name: str, description: str, *labels: str) -> Family[Histogram]:
        family: Family[Histogram] = Family(f"promptdial_{name}", "histogram", description, labels)
        self.families.append(family)
        return family

    def _seconds(self, name: str, description: str) -> Histogram:
        return self._histograms(f"{name}_seconds", description).add(Histogram(SECONDS))

    def expect(self, tasks: Collection[str]) -> None:
        """Begin every series of the bundle's tasks at 0; once, before the first request.

        Prometheus sees no increase in a counter that starts at 1.
        """
        for task in (*tasks, UNKNOWN_TASK):
            for outcome in ALL_OUTCOMES:
                self.requests.labels(task, outcome)
        for task in tasks:
            for field, bounds in ERRORS.items():
                for family in (self.clamped_targets, self.target_sum, self.achieved_sum, self.target_hits):
                    family.labels(field, task)
                self.target_error.add(Histogram(bounds, signed=True), field, task)
        for reason in REASONS:
            self.rejected.labels(reason)

    def steered(self, field: str, task: str, target: float, achieved: float) -> None:
        """Count what became of a target, `field` being `relevance` or `length`."""
        self.target_error.labels(field, task).observe(achieved - target)
        self.target_sum.labels(field, task).inc(target)
        self.achieved_sum.labels(field, task).inc(max(0.0, achieved))
        if is_hit(field, target, achieved):
            self.target_hits.labels(field, task).inc()

    def set_build_info(
        self, *, version: str, bundle: str, bundle_version: str, precision: str, device: str, onnxruntime: str
    ) -> None:
        """Say which code and which bundle answer."""
        self.build_info.labels(
            version, bundle, bundle_version, precision, device, onnxruntime, platform.python_version()
        ).set(1)

    def render(self) -> bytes:
        """The text exposition of `GET /metrics`."""
        return generate_latest(self.registry) + "".join(each.render() for each in self.families).encode()
