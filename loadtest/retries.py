"""Whether refusals say rightly when to come back.

Of the refusals with a `retry_after_ms`, some are followed up, a few at a time, in turns of two kinds:

- *polled*: the equal request (the same body with the same `timeout_ms`) is sent again and again until it is admitted.
  `waited` is the time from the refusal's arrival to the sending of the first one that is. The estimate is right if
  |said − waited| ≤ max(30 % of waited, 100 ms), so nothing has to be sent outside of the times for which that holds:
  first at the earliest of them (admitted there: it was told to wait too long), then in small steps to the latest
  (admitted by none: told too short a time).
- *obeyed*: the equal request is sent once, when the service said, as a client would.

Admitted is what isn't refused, whatever becomes of it later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loadtest.records import Record
from loadtest.workload import Request

SHARE, FLOOR_S = 0.3, 0.1
LEAST_GAP_S = 0.02  # between two attempts
GAPS = 10  # in the times at which the estimate would be right
DEFINITION = (
    "waited: from a refusal's arrival until an equal request (same body, same timeout_ms) was sent that was "
    "admitted, by sending it again every 20 ms or tenth of the interval in question, whatever other load there was. "
    "Right: |said − waited| ≤ max(30 % of waited, 100 ms). too long: admitted already at the earliest time for which "
    "that holds; too short: not even at the latest. obeyed: sent once, at the time that was said."
)
Verdict = Literal["right", "too short", "too long", "void", "admitted", "refused"]


@dataclass(frozen=True)
class Check:
    """One refusal that was followed up. `waited_ms` is None where no attempt was admitted."""

    when: str
    polled: bool
    said_ms: float
    waited_ms: float | None
    verdict: Verdict
    attempts: int


def bounds(said_s: float) -> tuple[float, float]:
    """The earliest and the latest `waited` for which the estimate is right."""
    return min(said_s - FLOOR_S, said_s / (1 + SHARE)), max(said_s + FLOOR_S, said_s / (1 - SHARE))


class RetryChecker:
    """Follows refusals up. `send` sends a request anew and tells what became of it; `now` is its clock."""

    def __init__(
        self, send: Callable[[Request], Awaitable[Record]], now: Callable[[], float], at_once: int
    ) -> None:
        self._send, self._now, self.at_once = send, now, at_once
        self.running: set[asyncio.Task[None]] = set()
        self._followed = 0
        self.checks: list[Check] = []
        self.when = ""  # what is going on besides, noted with every check

    def offer(self, request: Request, refusal: Record) -> None:
        """Follow this refusal up, if few enough are being followed."""
        if refusal.retry_after_ms is None or len(self.running) >= self.at_once:
            return
        follow = self._obey if self._followed % 2 else self._poll
        self._followed += 1
        task = asyncio.create_task(follow(request, refusal.ended_s, refusal.retry_after_ms / 1000))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def settle(self) -> None:
        """Wait for those that are being followed."""
        while self.running:
            await asyncio.wait(self.running)

    async def _obey(self, request: Request, refused_s: float, said_s: float) -> None:
        when = self.when
        await asyncio.sleep(refused_s + said_s - self._now())
        again = await self._send(request)
        verdict: Verdict = "refused" if again.outcome == "refused" else "admitted"
        if _failed(again):
            verdict = "void"
        self._note(when, False, said_s, None, verdict, 1)

    async def _poll(self, request: Request, refused_s: float, said_s: float) -> None:
        when = self.when
        earliest, latest = bounds(said_s)
        gap_s = max(LEAST_GAP_S, (latest - max(0.0, earliest)) / GAPS)
        at_s, attempts = max(earliest, gap_s), 0
        while at_s <= latest:
            await asyncio.sleep(refused_s + at_s - self._now())
            again = await self._send(request)
            attempts += 1
            if _failed(again):
                self._note(when, True, said_s, None, "void", attempts)
                return
            if again.outcome != "refused":
                waited_s = again.sent_s - refused_s
                verdict: Verdict = "too long" if earliest > 0 and attempts == 1 else "right"
                self._note(when, True, said_s, waited_s, verdict, attempts)
                return
            at_s = max(at_s + gap_s, self._now() - refused_s)
        self._note(when, True, said_s, None, "too short", attempts)

    def _note(
        self, when: str, polled: bool, said_s: float, waited_s: float | None, verdict: Verdict, attempts: int
    ) -> None:
        waited_ms = None if waited_s is None else round(waited_s * 1000, 1)
        self.checks.append(Check(when, polled, round(said_s * 1000, 1), waited_ms, verdict, attempts))


def _failed(record: Record) -> bool:
    """Whether it says nothing about admission: a fault, or a server that is going away."""
    return record.kind.startswith(("not connected", "cut off", "no answer", "503"))


def summarise(checks: Sequence[Check]) -> dict[str, Any]:
    """Counts and shares, by what went on besides and over all."""
    kinds = dict.fromkeys(each.when for each in checks)
    return {
        "definition": DEFINITION,
        "by_load": {when: _counted([each for each in checks if each.when == when]) for when in kinds},
        "all": _counted(checks),
        "points": [(each.said_ms, each.waited_ms, each.verdict, each.when) for each in checks if each.polled],
    }


def _counted(checks: Sequence[Check]) -> dict[str, Any]:
    counts = Counter(each.verdict for each in checks)
    polled = counts["right"] + counts["too short"] + counts["too long"]
    obeyed = counts["admitted"] + counts["refused"]
    return {
        "polled": polled,
        "right": counts["right"],
        "too_short": counts["too short"],
        "too_long": counts["too long"],
        "right_share": round(counts["right"] / polled, 4) if polled else None,
        "obeyed": obeyed,
        "admitted": counts["admitted"],
        "admitted_share": round(counts["admitted"] / obeyed, 4) if obeyed else None,
        "void": counts["void"],
    }
