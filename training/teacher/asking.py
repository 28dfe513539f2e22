"""Many requests to one endpoint, each asked once: what the journal holds is not asked again.

`distill` has a loop of its own, since it judges and budgets while it asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from training.errors import TrainingError
from training.teacher.endpoint import FAILURES_IN_A_ROW, Endpoint, Unanswered, gone
from training.teacher.journal import Answer, Journal, request_key

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 10.0


@dataclass
class Asking:
    """Requests to one endpoint: `new` were answered in this run, `given_up` counts others by what went wrong."""

    endpoint: Endpoint
    journal: Journal
    what: str  # for the log
    given_up: Counter[str] = field(default_factory=Counter)
    new: int = 0
    _in_a_row: int = 0
    _began: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    async def ask(self, bodies: Mapping[str, dict[str, Any]], concurrency: int) -> dict[str, Answer]:
        """The answers to requests by their keys; a request that was given up has none.

        Raises TrainingError when asking on makes no sense; what was answered is in the journal.
        """
        todo = [key for key in bodies if key not in self.journal.answers]
        log.info(
            "%s: %d requests, %d of them answered before", self.what, len(bodies), len(bodies) - len(todo)
        )
        queue = iter(todo)
        try:
            async with self.endpoint.client() as client, asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(todo))):
                    group.create_task(self._work(client, bodies, queue, len(todo)))
        except* TrainingError as errors:
            raise errors.exceptions[0] from None
        return {key: self.journal.answers[key] for key in bodies if key in self.journal.answers}

    async def _work(
        self,
        client: aiohttp.ClientSession,
        bodies: Mapping[str, dict[str, Any]],
        queue: Iterator[str],
        count: int,
    ) -> None:
        for key in queue:
            try:
                self.journal.append(await self.endpoint.ask(client, bodies[key]))
            except Unanswered as error:
                self.given_up[str(error)] += 1
                self._in_a_row += 1
                if self._in_a_row >= FAILURES_IN_A_ROW:
                    raise gone(self._in_a_row, str(error), self.endpoint.url) from error
            else:
                self._in_a_row = 0
                self.new += 1
            self._progress(count)

    def _progress(self, count: int) -> None:
        done, now = self.new + self.given_up.total(), time.monotonic()
        if now - self._said > PROGRESS_EVERY_S or done == count:
            self._said = now
            left = (now - self._began) / done * (count - done)
            log.info("%s: %d of %d answered, %.0f s left", self.what, self.new, count, left)


def keyed(bodies: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Requests by their content: two that are alike are one."""
    return {request_key(body): body for body in bodies}
