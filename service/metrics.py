"""Prometheus metrics, one registry per application. Labels take their values from closed sets only.

Buckets start at half a millisecond: this service answers in tens of milliseconds, and a p99 has to show.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from promptdial.engine import Stats

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0),
)
# Relevance errors lie in -1 to 1, errors of length in tens of words; both fit one symmetric scale.
ERRORS_ABOVE = (0.025, 0.05, 0.1, 0.2, 0.4, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
ERRORS = (*(-bound for bound in reversed(ERRORS_ABOVE)), 0.0, *ERRORS_ABOVE)

BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)

UNKNOWN_TASK = "unknown"
OUTCOMES = {200: "ok", 429: "overloaded", 499: "cancelled", 503: "unavailable", 504: "timeout"}


def outcome_of(status: int) -> str:
    """The `outcome` label of a response status; 0 where the server gave up before there was one."""
    return OUTCOMES.get(status) or ("invalid" if 400 <= status < 500 else "error")


class BatchHistogram(Collector):
    """A histogram that takes many values at once, for what happens too often to be counted one by one."""

    def __init__(self, name: str, description: str, buckets: Sequence[float]) -> None:
        self._name, self._description = name, description
        self._bounds = np.array(buckets)
        self._counts = np.zeros(len(buckets) + 1, np.int64)  # the last one: above every bound
        self._sum = 0.0

    def observe(self, values: NDArray[np.float64]) -> None:
        """Count values; called on the event loop, as `collect` is."""
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterator[Metric]:
        """The histogram as it is exposed: buckets hold what lies at or below their bound."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        totals = [float(total) for total in np.cumsum(self._counts)]
        yield HistogramMetricFamily(
            self._name,
            self._description,
            buckets=list(zip(bounds, totals, strict=True)),
            sum_value=self._sum,
        )


class StepSizes:
    """How many decode steps had how many sequences; told by the engine, on its thread."""

    def __init__(self, slots: int) -> None:
        self.counts = [0] * (slots + 1)  # by the number of sequences

    def __call__(self, sequences: int, seconds: float) -> None:
        """Count a step."""
        self.counts[sequences] += 1


class EngineCollector(Collector):
    """What the engine counts itself, read when it is asked for. `stats` is None until there is an engine."""

    def __init__(self) -> None:
        self.stats: Callable[[], Stats] | None = None
        self.sizes = StepSizes(0)

    def collect(self) -> Iterator[Metric]:
        """Gauges of now, and the steps since the start."""
        stats: Any = None if self.stats is None else self.stats()
        gauges = {
            "running_sequences": ("Sequences that are decoded now.", "running_sequences"),
            "kv_slots_used": ("Rows of the KV cache that hold a sequence.", "running_sequences"),
            "waiting_requests": ("Requests in the engine's queue.", "waiting_requests"),
        }
        for name, (description, field) in gauges.items():
            yield GaugeMetricFamily(
                f"promptdial_{name}", description, None if stats is None else getattr(stats, field)
            )
        yield CounterMetricFamily(
            "promptdial_engine_steps", "Steps of the engine.", None if stats is None else stats.steps
        )
        counts = list(self.sizes.counts)
        yield HistogramMetricFamily(
            "promptdial_batch_size",
            "Sequences in a decode step.",
            buckets=[
                *((str(bound), float(sum(counts[: bound + 1]))) for bound in BATCH_SIZES),
                ("+Inf", float(sum(counts))),
            ],
            sum_value=float(sum(size * count for size, count in enumerate(counts))),
        )


class Metrics:
    """The service's counters and histograms; the names are those of DESIGN.md."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.registry = registry
        self.requests = Counter(
            "promptdial_requests", "Answered requests to /generate.", ["task", "outcome"], registry=registry
        )
        self.rejected = Counter(
            "promptdial_rejected", "Requests refused before decoding.", ["reason"], registry=registry
        )
        self.cancelled = Counter(
            "promptdial_cancelled", "Requests whose client went away.", registry=registry
        )
        self.clamped_targets = Counter(
            "promptdial_clamped_targets",
            "Targets moved into the trained support.",
            ["field"],
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "promptdial_prompt_tokens", "Tokens read, whatever the end.", registry=registry
        )
        self.generated_tokens = Counter(
            "promptdial_generated_tokens", "Tokens written, whatever the end.", registry=registry
        )
        self.request_seconds = self._seconds(
            "request", "To the answer; refused and cancelled requests aren't timed."
        )
        self.queue_seconds = self._seconds("queue", "Waiting for the engine, of requests decoded to the end.")
        self.prefill_seconds = self._seconds("prefill", "Reading the prompt, of requests decoded to the end.")
        self.score_seconds = self._seconds("score", "Measuring relevance after decoding.")
        self.score_cpu_seconds = Counter(
            "promptdial_score_cpu_seconds", "CPU time of measuring relevance.", registry=registry
        )
        self.first_token_seconds = self._seconds(
            "time_to_first_token", "From the request's arrival to its first token, as the engine tells of it."
        )
        self.inter_token_seconds = BatchHistogram(
            "promptdial_inter_token_seconds",
            "Between two tokens of a request's first candidate, as the engine tells of them.",
            SECONDS,
        )
        registry.register(self.inter_token_seconds)
        self.engine = EngineCollector()
        registry.register(self.engine)
        self.target_error = Histogram(
            "promptdial_target_error",
            "Achieved minus target, of the best candidate: cosine for relevance, words for length.",
            ["field"],
            buckets=ERRORS,
            registry=registry,
        )
        self.build_info = Gauge(
            "promptdial_build_info",
            "Always 1; the labels tell what runs.",
            ["version", "bundle", "bundle_version", "precision", "device", "onnxruntime", "python"],
            registry=registry,
        )

    def _seconds(self, name: str, description: str) -> Histogram:
        return Histogram(f"promptdial_{name}_seconds", description, buckets=SECONDS, registry=self.registry)

    def set_build_info(
        self, *, version: str, bundle: str, bundle_version: str, precision: str, device: str, onnxruntime: str
    ) -> None:
        """Say which code and which bundle answer."""
        self.build_info.labels(
            version, bundle, bundle_version, precision, device, onnxruntime, platform.python_version()
        ).set(1)

    def render(self) -> bytes:
        """The text exposition of `GET /metrics`."""
        return generate_latest(self.registry)
