"""The search for the knee: rising rates until the service can't follow, then the place between. Policy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

HOLDS = 0.95  # of what was sent came back good: the rate holds
RISE = 1.5
BISECTIONS = 3
LEAST_RATE = 0.2

DEFINITION = (
    f"the highest offered rate at which at least {HOLDS:.0%} of the requests sent were good, found by rates that rise "
    f"by {RISE} until one fails twice in a row, and {BISECTIONS} steps between the last that held and that one"
)


@dataclass
class Search:
    """Which rate to try next, from what the ones before gave. `next_rate` is None when it is over."""

    start: float
    most_steps: int
    rate: float | None = field(init=False)
    held: float | None = None
    failed: float | None = None
    steps: int = 0
    _again: bool = False  # the rate failed once: a busy moment of the machine may have been the reason
    _between: int = 0

    def __post_init__(self) -> None:
        self.rate = self.start

    def note(self, goodput: float | None) -> None:
        """Take in the share of good answers at `rate`, and choose the next one."""
        assert self.rate is not None
        self.steps += 1
        holds = goodput is not None and goodput >= HOLDS
        if not holds and not self._again:
            self._again = True
        else:
            self._again = False
            if holds:
                self.held = self.rate
            else:
                self.failed = self.rate
            self.rate = self._next()
        if self.steps >= self.most_steps:
            self.rate = None

    def _next(self) -> float | None:
        if self.failed is None:
            assert self.held is not None
            return self.held * RISE
        if self.held is None:
            return self.failed / 2 if self.failed / 2 >= LEAST_RATE else None
        if self._between == BISECTIONS:
            return None
        self._between += 1
        return float((self.held * self.failed) ** 0.5)

    def found(self) -> dict[str, Any]:
        """The knee, and what is known about how sharp it is."""
        return {
            "rate_per_s": None if self.held is None else round(self.held, 2),
            "failed_at_per_s": None if self.failed is None else round(self.failed, 2),
            "definition": DEFINITION,
        }


def knee_of(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same from stages that were fixed beforehand: the highest rate under which every one held."""
    held = failed = None
    for step in sorted(steps, key=lambda step: step["offered_per_s"]):
        if step["goodput"] is not None and step["goodput"] < HOLDS:
            failed = step["offered_per_s"]
            break
        held = step["offered_per_s"]
    return {
        "rate_per_s": held,
        "failed_at_per_s": failed,
        "definition": f"the highest offered rate up to which at least {HOLDS:.0%} of the requests sent were good; "
        "the next stage's failed",
    }
