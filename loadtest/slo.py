"""Conditions that a run must meet, as `--slo 'p99<=500ms' --slo 'goodput>=0.9@2'`.

`NAME OP VALUE`, without spaces or with; after `@`, the part of the knee (0.5, 0.8, 2) whose step is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LATENCIES = ("p50", "p90", "p95", "p99", "p99.9")
STREAMED = tuple(f"{kind}_{name}" for kind in ("first_token", "inter_token") for name in LATENCIES)
SHARES = ("goodput", "goodput_of_max", "errors", "refused", "retry_right")
RATES = ("knee",)
NAMES = (*LATENCIES, *STREAMED, *SHARES, *RATES)
WHOLE_RUN = ("knee", "retry_right")
FORM = re.compile(r"\s*([\w.]+)\s*(<=|>=)\s*([\d.]+)\s*(ms|s|%|/s)?\s*(?:@\s*([\d.]+))?\s*")


@dataclass(frozen=True)
class Condition:
    """`value` in milliseconds, as a share, or in requests per second."""

    text: str
    name: str
    at_most: bool
    value: float
    at: float | None

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read one. Raises ValueError with what is possible."""
        found = FORM.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no condition; write one like p99<=500ms, goodput>=0.9 or p99<=1s@0.8"
            )
        name, operator, number, unit, at = found.groups()
        if name not in NAMES:
            raise ValueError(f"{name!r} can't be asked for; there are {', '.join(NAMES)}")
        timed = name in LATENCIES or name in STREAMED
        if (unit in ("ms", "s")) != timed and unit is not None:
            raise ValueError(f"{text!r}: {name} has another unit than {unit}")
        if at is not None and name in WHOLE_RUN:
            raise ValueError(f"{text!r}: {name} belongs to the whole run; leave out @{at}")
        scale = {"s": 1000.0, "%": 0.01}.get(unit or "", 1.0)
        return cls(
            text.strip(), name, operator == "<=", float(number) * scale, None if at is None else float(at)
        )

    def judge(self, value: float | None, step: str) -> dict[str, Any]:
        """Whether a measured value meets it; one that could not be measured doesn't."""
        met = value is not None and (value <= self.value if self.at_most else value >= self.value)
        return {"condition": self.text, "step": step, "value": value, "met": met}


def value_of(name: str, step: dict[str, Any], best_per_s: float) -> float | None:
    """What a condition is about, from a step's figures. `best_per_s`: the most goodput that any step had."""
    if name in LATENCIES:
        found: float | None = step["latency_ms"][name]
        return found
    if name in STREAMED:
        kind, _, percentile = name.rpartition("_")
        found = step[f"{kind}_ms"][percentile]
        return found
    if name == "goodput_of_max":
        return round(step["goodput_per_s"] / best_per_s, 4) if best_per_s else None
    if name == "goodput":
        found = step["goodput"]
        return found
    return round(step[name] / step["sent"], 4) if step["sent"] else None


def judge(
    conditions: Sequence[Condition], steps: Sequence[dict[str, Any]], whole: dict[str, float | None]
) -> list[dict[str, Any]]:
    """Verdicts on every condition, each on the steps that it is about; without any, it is missed."""
    best = max((step["goodput_per_s"] for step in steps), default=0.0)
    verdicts = []
    for condition in conditions:
        if condition.name in WHOLE_RUN:
            verdicts.append(condition.judge(whole.get(condition.name), "whole run"))
            continue
        meant = [step for step in steps if _is_meant(step, condition.at)]
        verdicts += [condition.judge(value_of(condition.name, step, best), step["name"]) for step in meant]
        if not meant:
            verdicts.append(condition.judge(None, "no such step was measured"))
    return verdicts


def _is_meant(step: dict[str, Any], at: float | None) -> bool:
    """Without `@`: the steps that are held at or under the knee, or all that have nothing to do with one."""
    of_knee = step.get("of_knee")
    if at is not None:
        return of_knee is not None and abs(of_knee - at) < 1e-9
    return not step.get("searching") and (of_knee is None or of_knee <= 1)
