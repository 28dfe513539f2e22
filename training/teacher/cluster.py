"""`distill --ray`: the questions spread over the machines of a Ray cluster, the answers kept here.

The journal, the filter and the report stay in the process that was started; workers only ask. A worker that dies loses
the answers of the batch that it was at, which is asked again. Limits are shared out: each worker gets its part of
concurrency, requests and tokens a minute. A budget is cut into rounds, none of which can exceed what is left of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from training import cluster
from training.errors import TrainingError
from training.teacher.endpoint import Endpoint, Unanswered
from training.teacher.journal import Answer
from training.teacher.pace import Pace

if TYPE_CHECKING:
    from training.teacher.run import Run

log = logging.getLogger(__name__)

ROUND = 100_000  # requests that are laid out at a time
DEPTH = 4  # requests in a batch for each one that is in flight
SHOW_EVERY_S = 10.0


@dataclass
class _Came:
    """What came of a batch."""

    answers: list[Answer] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    fatal: str = ""


class AskingWorker:
    """Asks tables of request `body` and returns one row: answers, requests given up, and attempts by outcome."""

    def __init__(
        self, endpoint: dict[str, Any], concurrency: int, pace: tuple[float | None, float | None]
    ) -> None:
        self._endpoint = Endpoint(pace=Pace(*pace), **endpoint)
        self._concurrency = concurrency

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Columns hold JSON."""
        came = _Came()
        self._endpoint.outcomes = Counter()
        try:
            asyncio.run(self._ask_all(iter(batch["body"].to_pylist()), came))
        except* TrainingError as errors:
            came.fatal = str(errors.exceptions[0])
        row = asdict(came) | {"outcomes": dict(self._endpoint.outcomes)}
        return pa.table({"came": [json.dumps(row)]})

    async def _ask_all(self, bodies: Iterator[str], came: _Came) -> None:
        async with self._endpoint.client(self._concurrency) as client, asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._work(client, bodies, came))

    async def _work(self, client: Any, bodies: Iterator[str], came: _Came) -> None:
        for body in bodies:
            try:
                came.answers.append(await self._endpoint.ask(client, json.loads(body)))
            except Unanswered as error:
                came.failed.append(str(error))


def ask_all(state: Run, address: str, workers: int | None, concurrency: int) -> None:
    """Ask what is left to ask, and judge what comes. Raises TrainingError as asking without a cluster does."""
    with cluster.connected(address):
        count = min(workers or cluster.processors(), concurrency)
        each = -(-concurrency // count)
        endpoint = {name: getattr(state.endpoint, name)
                    for name in ("url", "api_key", "timeout_s", "attempts", "backoff_s")}  # fmt: skip
        pace = tuple(rate / count if rate else None for rate in state.endpoint.pace.per_minute)
        arguments = {"endpoint": endpoint, "concurrency": each, "pace": pace}
        try:
            while keys := state.affordable(ROUND):
                bodies = [json.dumps(state.body(key)) for key in keys]
                tables = [
                    pa.table({"body": bodies[first : first + DEPTH * each]})
                    for first in range(0, len(bodies), DEPTH * each)
                ]
                log.info("%d requests for %d workers", len(keys), count)
                if not _take(state, cluster.mapped(tables, AskingWorker, arguments, count)):
                    break
                state.release(keys)
        finally:
            state.judge_rest()
    log.info("%s", state.tally.line(state.endpoint.outcomes))


def _take(state: Run, tables: Iterator[pa.Table]) -> bool:
    """Keep what comes; False when time is over."""
    shown = time.monotonic()
    for table in tables:
        for row in map(json.loads, table["came"].to_pylist()):
            state.endpoint.outcomes.update(row["outcomes"])
            state.keep([Answer(**answer) for answer in row["answers"]], row["failed"])
            if row["fatal"]:
                raise TrainingError(row["fatal"])
        if time.monotonic() - shown > SHOW_EVERY_S:
            shown = time.monotonic()
            log.info("%s", state.tally.line(state.endpoint.outcomes))
        if state.out_of_time():
            return False
    return True
