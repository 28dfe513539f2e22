"""Plays a schedule: every request leaves at its intended time, whatever became of the ones before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator

from loadtest.records import Record
from loadtest.retries import RetryChecker
from loadtest.sending import Sender
from loadtest.workload import Request

MOST_IN_FLIGHT = 800  # connections; what would come on top is counted as unsent


def poisson(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """Moments of arrivals that know nothing of each other, `rate` a second on average."""
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        yield at_s
        at_s += chance.expovariate(rate)


class Player:
    """Sends schedules, one after another; `records` and `unsent` are of the last one."""

    def __init__(self, sender: Sender, retry_checks: int) -> None:
        self.sender = sender
        self.checker = RetryChecker(self.send, sender.now, retry_checks)
        self.records: list[Record] = []
        self.unsent = 0
        self._in_flight: set[asyncio.Task[None]] = set()

    async def play(self, schedule: Iterable[tuple[float, Request]]) -> None:
        """Send each request at its time (seconds from now, rising), and wait for all answers.

        When cancelled, requests in flight are given up; `records` then lacks them.
        """
        self.records, self.unsent = [], 0
        self.sender.restart()
        try:
            for intended_s, request in schedule:
                delay_s = intended_s - self.sender.now()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                if len(self._in_flight) >= MOST_IN_FLIGHT:
                    self.unsent += 1
                    continue
                task = asyncio.create_task(self._one(request, intended_s))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)
            while self._in_flight:
                await asyncio.wait(self._in_flight)
            await self.checker.settle()
        except asyncio.CancelledError:
            for each in (*self._in_flight, *self.checker.running):
                each.cancel()
            raise

    async def _one(self, request: Request, intended_s: float) -> None:
        record = Record(intended_s, intended_s, request.streamed)
        await self.sender.send(request, record)
        self.records.append(record)
        if record.outcome == "refused":
            self.checker.offer(request, record)

    async def send(self, request: Request) -> Record:
        """Send one at once; it is not among `records`."""
        record = Record(self.sender.now(), 0.0, request.streamed)
        await self.sender.send(request, record)
        return record
