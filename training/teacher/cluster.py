"""`distill --ray`: the questions spread over the workers of a Ray, the answers kept here.

The journal, the filter and the report stay in the process that was started; workers only ask. Each answer travels by
itself and is stored as it comes, so that a worker that dies has what it was asking asked again, and nothing else.
Limits are shared out: each worker gets its part of concurrency, requests and tokens a minute. What is asked is laid out
in rounds, none of which can exceed what is left of a budget.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import aiohttp
import pyarrow as pa

from training import cluster
from training.errors import TrainingError
from training.teacher.endpoint import Endpoint, Unanswered
from training.teacher.journal import Answer
from training.teacher.pace import Pace

if TYPE_CHECKING:
    from training.teacher.run import Run

log = logging.getLogger(__name__)

ROUND = 10_000  # requests that are laid out at a time
SHOW_EVERY_S = 10.0


class AskingWorker:
    """Asks one request `body` a call, several calls at a time, and returns one row of JSON: what `came` of it.

    That is an `answer`, how it was `failed`, or what is `fatal` to the run; and the `outcomes` of attempts since the
    last row. After a fatal one it asks no more, nor after `ends` (seconds since the epoch).
    """

    def __init__(
        self,
        endpoint: dict[str, Any],
        pace: tuple[float | None, float | None],
        ends: float | None,
    ) -> None:
        self._endpoint = Endpoint(pace=Pace(*pace), **endpoint)
        self._client: aiohttp.ClientSession | None = None  # belongs to the event loop; ends with the process
        self._ends = ends
        self._fatal = ""

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Tables have one row."""
        (body,) = batch["body"].to_pylist()
        came: dict[str, Any] = {}
        if not self._fatal and (self._ends is None or time.time() < self._ends):
            try:
                self._client = self._client or self._endpoint.client()
                came["answer"] = asdict(await self._endpoint.ask(self._client, json.loads(body)))
            except Unanswered as error:
                came["failed"] = str(error)
            except TrainingError as error:
                self._fatal = str(error)
        if self._fatal:
            came["fatal"] = self._fatal
        came["outcomes"], self._endpoint.outcomes = dict(self._endpoint.outcomes), Counter()
        return pa.table({"came": [json.dumps(came)]})


def ask_all(state: Run, address: str, workers: int | None, concurrency: int) -> None:
    """Ask what is left to ask, and judge what comes. Raises TrainingError as asking without a cluster does."""
    with cluster.connected(address, workers) as available:
        count = min(available, concurrency)
        each = -(-concurrency // count)
        endpoint = {name: getattr(state.endpoint, name)
                    for name in ("url", "api_key", "timeout_s", "attempts", "backoff_s")}  # fmt: skip
        pace = tuple(rate / count if rate else None for rate in state.endpoint.pace.per_minute)
        minutes = state.limits.minutes
        ends = None if minutes is None else time.time() + 60 * minutes - state.tally.elapsed_s
        arguments = {"endpoint": endpoint, "pace": pace, "ends": ends}
        try:
            while keys := state.affordable(ROUND):
                tables = [pa.table({"body": [json.dumps(state.body(key))]}) for key in keys]
                log.info("%d requests for %d workers, %d at a time each", len(keys), count, each)
                with cluster.mapped(tables, AskingWorker, arguments, count, each) as came:
                    _take(state, came)
                state.release(keys)
                if state.out_of_time():
                    break
        finally:
            state.judge_rest()
    log.info("%s", state.tally.line(state.endpoint.outcomes))


def _take(state: Run, tables: Iterator[pa.Table]) -> None:
    """Keep what comes."""
    shown = time.monotonic()
    for table in tables:
        for row in map(json.loads, table["came"].to_pylist()):
            state.endpoint.outcomes.update(row["outcomes"])
            if "answer" in row:
                state.keep(Answer(**row["answer"]))
            elif "failed" in row:
                state.given_up(row["failed"])
            elif "fatal" in row:
                raise TrainingError(row["fatal"])
        if time.monotonic() - shown > SHOW_EVERY_S:
            shown = time.monotonic()
            log.info("%s", state.tally.line(state.endpoint.outcomes))
