"""One request's fate, and the figures of many. Formulas are in `FORMULAS`, which every report carries.

Times are in seconds since the step began; figures in milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
CURVE = (*(1 - 10 ** (-nines) for nines in np.linspace(0.05, 3.0, 40)),)
ENOUGH = 1000  # values, for the 99.9th percentile to be one of them
REFUSALS = {429, 503}
TOO_SHORT = "timeout_too_short"  # a 422: a refusal that no waiting helps

FORMULAS = {
    "offered": "requests per second that the schedule intends",
    "sent": "requests that left the generator; sent = ok + refused + errors + left",
    "ok": "answered with 200 and, where streamed, with `done` as the last event",
    "refused": "429, 503 and 422 timeout_too_short: the service said no before it began",
    "errors": "everything else: a missed deadline (504, or `error` in a stream), other statuses, a connection that "
    "failed, no answer within the generator's patience",
    "left": "requests whose client left on purpose (Locust's leavers)",
    "achieved": "ok answers that ended within the step ÷ its seconds",
    "latency_ms": "ok answers: end − intended send time. A generator or server that stalls delays no intended time, "
    "so the stall shows (no coordinated omission)",
    "service_ms": "the same answers: end − actual send time",
    "good": "ok, and latency ≤ the goodput limit (service time where there is no intended time, in Locust)",
    "goodput": "good ÷ sent (Locust: without leavers and slow readers). goodput_per_s: good answers that ended within "
    "the step ÷ its seconds",
    "percentiles": "linear interpolation between order statistics; p99.9 only from 1,000 answers on",
    "first_token_ms": "streams: first token − intended send time (Locust: − send time)",
    "inter_token_ms": "streams: between two tokens as they were read; 0 where both came in one read",
    "cpu": "CPU seconds of the process ÷ the step's seconds, so 1.0 is one core. The generator's share is taken from "
    "the service wherever both share a machine",
    "lateness_ms": "actual − intended send time: how late the generator itself was",
}

Outcome = Literal["ok", "refused", "error", "left"]


@dataclass(slots=True)
class Record:
    """One request. `kind` says more of the outcome: a status with its code, or what failed."""

    intended_s: float
    sent_s: float
    streamed: bool
    ended_s: float = 0.0
    outcome: Outcome = "error"
    kind: str = ""
    first_token_s: float | None = None
    gaps_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    retry_after_ms: float | None = None
    timed: bool = True  # False: the client took its time, so its latency says nothing

    @property
    def latency_ms(self) -> float:
        """From the intended send time to the end."""
        return (self.ended_s - self.intended_s) * 1000

    @property
    def service_ms(self) -> float:
        """From the actual send time to the end."""
        return (self.ended_s - self.sent_s) * 1000

    def answered(self, status: int, problem: dict[str, Any]) -> None:
        """Take in a whole answer's status, and its problem where it is one."""
        code = str(problem.get("code", ""))
        self.kind = f"{status} {code}".strip()
        if status == 200:
            self.outcome = "ok"
        elif status in REFUSALS or code == TOO_SHORT:
            self.outcome = "refused"
            self.retry_after_ms = problem.get("retry_after_ms")
        else:
            self.outcome = "error"


def percentiles(values: Sequence[float]) -> dict[str, float | int | None]:
    """Percentiles, mean, extremes and how many there were; None where there are too few to tell."""
    if not values:
        return {**dict.fromkeys(PERCENTILES), "mean": None, "min": None, "max": None, "count": 0}
    array = np.asarray(values)
    found: dict[str, float | int | None] = {
        name: round(float(np.quantile(array, share)), 2) for name, share in PERCENTILES.items()
    }
    if len(array) < ENOUGH:
        found["p99.9"] = None
    extremes = {"mean": array.mean(), "min": array.min(), "max": array.max()}
    return found | {name: round(float(value), 2) for name, value in extremes.items()} | {"count": len(array)}


def summarise(records: Sequence[Record], seconds: float, good_ms: float) -> dict[str, Any]:
    """The figures of a step that intended to send for so many seconds."""
    ok = [each for each in records if each.outcome == "ok"]
    timed = [each for each in ok if each.timed]
    judged = sum(each.timed and each.outcome != "left" for each in records)
    good = [each for each in timed if each.latency_ms <= good_ms]
    within = sum(each.ended_s <= seconds for each in ok)
    streams = [each for each in timed if each.streamed and each.first_token_s is not None]
    return {
        "seconds": round(seconds, 2),
        "sent": len(records),
        "ok": len(ok),
        "refused": sum(each.outcome == "refused" for each in records),
        "errors": sum(each.outcome == "error" for each in records),
        "left": sum(each.outcome == "left" for each in records),
        "kinds": dict(Counter(each.kind for each in records).most_common()),
        "sent_per_s": round(len(records) / seconds, 2),
        "achieved_per_s": round(within / seconds, 2),
        "good": len(good),
        "goodput": round(len(good) / judged, 4) if judged else None,
        "goodput_per_s": round(sum(each.ended_s <= seconds for each in good) / seconds, 2),
        "tokens_per_s": round(sum(each.tokens for each in ok) / seconds, 1),
        "latency_ms": percentiles([each.latency_ms for each in timed]),
        "service_ms": percentiles([each.service_ms for each in timed]),
        "refusal_ms": percentiles([each.service_ms for each in records if each.outcome == "refused"]),
        "first_token_ms": percentiles(
            [(each.first_token_s - each.intended_s) * 1000 for each in streams if each.first_token_s]
        ),
        "inter_token_ms": percentiles([gap for each in streams for gap in each.gaps_ms]),
        "lateness_ms": percentiles([(each.sent_s - each.intended_s) * 1000 for each in records]),
        "curve": curve(timed),
    }


def curve(records: Sequence[Record]) -> list[tuple[float, float, float]]:
    """(share, latency, service time) along the percentiles, as far as the answers reach."""
    shares = [share for share in CURVE if len(records) * (1 - share) >= 1]
    if not shares:
        return []
    latency = np.quantile([each.latency_ms for each in records], shares)
    service = np.quantile([each.service_ms for each in records], shares)
    return [
        (round(float(share), 5), round(float(of_latency), 2), round(float(of_service), 2))
        for share, of_latency, of_service in zip(shares, latency, service, strict=True)
    ]
