"""`python -m training distill`: a teacher writes pairs, from plan to checked rows.

The folder of a run holds `plan.jsonl` (what is asked), `answers.jsonl` (the journal of what came), `pairs.jsonl` (rows
that passed, appended as they come, ready for `prepare --pairs`), `shards/*.parquet` (the same rows) and `REPORT.md`.
The same command goes on with a run that was stopped, in whatever way: rows follow from the journal alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp

from promptdial.command import word_count
from training import sources
from training.errors import TrainingError
from training.teacher import inputs, options, report, templates
from training.teacher.endpoint import FAILURES_IN_A_ROW, Endpoint, Unanswered, gone
from training.teacher.inputs import Request
from training.teacher.journal import Answer, Journal, request_key
from training.teacher.judging import Judging
from training.teacher.report import Tally
from training.teacher.templates import Template

log = logging.getLogger(__name__)

JUDGED_TOGETHER = 32
PROGRESS_EVERY_S = 10.0
TOKENS_PER_WORD = 1.5
SPARE_TOKENS = 24
APART_S = 0.005  # between the first requests: answers that come all at once would hold each other up, again and again


@dataclass(frozen=True)
class Teacher:
    """Who is asked, how, and what its answers may be used for; part of every row."""

    model: str
    sampling: dict[str, float]
    source: str
    licence: str

    def body(self, template: Template, request: Request) -> dict[str, Any]:
        """What is sent for a request."""
        return {
            "model": self.model,
            "messages": template.messages(request.input, request.length),
            "max_tokens": round(request.length * TOKENS_PER_WORD) + SPARE_TOKENS,
            **self.sampling,
        }


@dataclass(frozen=True)
class Limits:
    """When to stop asking; None is no limit. Prices are per million tokens."""

    minutes: float | None = None
    tokens: int | None = None
    cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass
class Run:
    """One run under way. `todo` are the requests without an answer, by key."""

    teacher: Teacher
    endpoint: Endpoint
    limits: Limits
    journal: Journal
    judging: Judging
    pairs: Path
    templates: dict[str, Template]
    requests: dict[str, Request]
    tally: Tally
    todo: Iterator[str] = field(default_factory=lambda: iter(()))
    stopped: str = ""
    _fresh: list[Answer] = field(default_factory=list)
    _in_a_row: int = 0
    # Tokens and cost of requests in flight, at their largest, and their sum.
    _reserved: dict[str, tuple[float, float]] = field(default_factory=dict)
    _held: tuple[float, float] = (0.0, 0.0)

    async def work(self, client: aiohttp.ClientSession) -> None:
        """Ask one request after another until none is left or a limit is reached."""
        for key in self.todo:
            body = self.body(key)
            if not self._affordable(key, body):
                return
            try:
                answer = await self.endpoint.ask(client, body)
            except Unanswered as error:
                self.given_up(str(error))
            else:
                self._store(answer)
            finally:
                self.release([key])
            if self.stopped:
                return

    def body(self, key: str) -> dict[str, Any]:
        """What is sent for the request of a key."""
        request = self.requests[key]
        return self.teacher.body(self.templates[request.template], request)

    def _store(self, answer: Answer) -> None:
        self._in_a_row = 0
        self.journal.append(answer)
        self.tally.answered(answer)
        self._fresh.append(answer)

    def given_up(self, how: str) -> None:
        """Count a request that failed for good. Raises TrainingError when it is one too many in a row."""
        self.tally.given_up[how] += 1
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_IN_A_ROW:
            raise gone(self._in_a_row, how, self.endpoint.url)

    def _affordable(self, key: str, body: dict[str, Any]) -> bool:
        """Whether the budget holds this request too, at its largest, besides those in flight; reserves it."""
        largest_in = sum(len(message["content"]) for message in body["messages"]) / 3
        largest_out = float(body["max_tokens"])
        cost = (largest_in * self.limits.price_in + largest_out * self.limits.price_out) / 1e6
        tokens = largest_in + largest_out
        held_tokens, held_cost = self._held
        if self.limits.tokens is not None and self.tally.tokens + held_tokens + tokens > self.limits.tokens:
            self.stopped = "the token budget is spent"
        elif self.limits.cost is not None and self.tally.cost + held_cost + cost > self.limits.cost:
            self.stopped = "the budget is spent"
        elif not self.out_of_time():
            self._reserved[key] = (tokens, cost)
            self._held = (held_tokens + tokens, held_cost + cost)
        return not self.stopped

    def out_of_time(self) -> bool:
        """Whether the minutes are over; then that is why the run stopped."""
        if self.limits.minutes is not None and self.tally.elapsed_s > 60 * self.limits.minutes:
            self.stopped = f"{self.limits.minutes:g} minutes are over"
            return True
        return False

    def release(self, keys: Sequence[str]) -> None:
        """What was reserved for these requests is free again; the tally holds what they really took."""
        for key in keys:
            tokens, cost = self._reserved.pop(key, (0.0, 0.0))
            self._held = (self._held[0] - tokens, self._held[1] - cost)

    def affordable(self, most: int) -> list[str]:
        """The next requests, at most so many, that the budget holds at their largest; reserves them."""
        self.stopped = ""
        keys: list[str] = []
        while len(keys) < most and (key := next(self.todo, None)) is not None:
            if not self._affordable(key, self.body(key)):
                self.todo = chain([key], self.todo)
                break
            keys.append(key)
        return keys

    def keep(self, answer: Answer) -> None:
        """Store an answer, and judge those that wait for it once they are enough."""
        if answer.key in self.journal.answers:  # asked twice, since a worker died
            return
        self._store(answer)
        if len(self._fresh) >= JUDGED_TOGETHER:
            self.judge_rest()

    def judge_rest(self) -> None:
        """Judge what came and was not judged yet."""
        batch, self._fresh = self._fresh, []
        if batch:
            self.judged(batch)

    async def judge(self, done: asyncio.Event) -> None:
        """Turn answers into rows while others are being asked for."""
        shown = time.monotonic()
        while True:
            last = done.is_set()
            if len(self._fresh) >= JUDGED_TOGETHER or (last and self._fresh):
                batch, self._fresh = self._fresh[:JUDGED_TOGETHER], self._fresh[JUDGED_TOGETHER:]
                await asyncio.to_thread(self.judged, batch)
            elif last:
                return
            else:
                await asyncio.sleep(0.2)
            if time.monotonic() - shown > PROGRESS_EVERY_S:
                shown = time.monotonic()
                log.info("%s", self.tally.line(self.endpoint.outcomes))

    def judged(self, batch: Sequence[Answer]) -> None:
        """Append the rows of a batch that pass to the file of pairs, and count the rest by reason."""
        requests = [self.requests[answer.key] for answer in batch]
        asked = [
            (answer.text, self.templates[request.template], request.input)
            for answer, request in zip(batch, requests, strict=True)
        ]
        lines = []
        for answer, request, (verdict, relevance) in zip(
            batch, requests, self.judging.accept(asked), strict=True
        ):
            words = word_count(verdict.text)
            self.tally.judged(request, answer, verdict, words, relevance)
            if not verdict.reason:
                row = self._row(answer, request, verdict.text, words, relevance)
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        with self.pairs.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def _row(
        self, answer: Answer, request: Request, text: str, words: int, relevance: float
    ) -> dict[str, Any]:
        template = self.templates[request.template]
        return {
            "input": request.input,
            "output": text,
            "modality": template.modality,
            "kind": template.task,
            "split": request.split,
            "source": self.teacher.source,
            "licence": self.teacher.licence,
            "teacher": self.teacher.model,
            "relevance": round(relevance, 3),
            "words": words,
            "asked_words": request.length,
            "template": template.name,
            "template_hash": template.digest,
            "finish_reason": answer.finish_reason,
            "served_model": answer.served_model,
            "time": answer.time,
            "id": answer.key,
        }


def run(args: argparse.Namespace) -> None:
    """What the command does."""
    teacher = _teacher(args)
    loaded = templates.load_all(args.templates or templates.FOLDER)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out / "answers.jsonl")
    judging: Judging | None = None
    try:
        requests = _plan(args, teacher, loaded)
        judging = Judging(args.scorer, args.threads)
        state = Run(
            teacher,
            options.endpoint(args.teacher, args),
            Limits(args.minutes, args.max_tokens, args.max_cost, args.price_in, args.price_out),
            journal,
            judging,
            out / "pairs.jsonl",
            {template.name: template for template in loaded},
            requests,
            Tally(len(requests), args.price_in, args.price_out),
        )
        _replay(state)
        try:
            if args.ray:
                from training.teacher import cluster  # noqa: PLC0415 (needs the extra `ray`)

                cluster.ask_all(state, args.ray, args.ray_workers, args.concurrency)
            else:
                asyncio.run(_ask_all(state, args.concurrency))
        finally:
            report.write(out, state.tally, state.endpoint.outcomes, asdict(teacher), state.stopped)
    finally:
        if judging is not None:
            judging.close()
        journal.close()


def _teacher(args: argparse.Namespace) -> Teacher:
    sampling = {"temperature": args.temperature, "top_p": args.top_p}
    if args.frequency_penalty:
        sampling["frequency_penalty"] = args.frequency_penalty
    return Teacher(args.model, sampling, args.source or f"{args.model}-distilled", args.licence)


def _plan(args: argparse.Namespace, teacher: Teacher, loaded: Sequence[Template]) -> dict[str, Request]:
    """The requests of the run by key: as first planned, also when the run is resumed."""
    settings = {
        "count": args.count,
        "seed": args.seed,
        "inputs": str(args.inputs) if args.inputs else None,
        "teacher": asdict(teacher),
        "templates": {template.name: template.digest for template in loaded},
    }
    path, told = args.out / "plan.jsonl", args.out / "settings.json"
    if path.is_file():
        if told.is_file() and (before := json.loads(told.read_text(encoding="utf-8"))) != settings:
            changed = sorted(name for name in settings if settings[name] != before.get(name))
            raise TrainingError(
                f"{args.out} holds a run with other {' and '.join(changed)}: give another --out"
            )
        planned = [Request(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        if args.inputs:
            planned = inputs.from_file(args.inputs, loaded, args.seed)[: args.count]
        else:
            data = sources.load(sources.data_dir(args.data_dir))
            planned = inputs.plan(loaded, data, args.count, args.seed)
        told.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(asdict(r)) + "\n" for r in planned), encoding="utf-8")
        partial.replace(path)
    by_name = {template.name: template for template in loaded}
    return {request_key(teacher.body(by_name[r.template], r)): r for r in planned}


def _replay(state: Run) -> None:
    """Make the rows of the answers that are there already anew: the journal is the truth, the rows follow from it."""
    known = [answer for key, answer in state.journal.answers.items() if key in state.requests]
    partial = state.pairs.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    final, state.pairs = state.pairs, partial
    partial.touch()
    for first in range(0, len(known), JUDGED_TOGETHER):
        state.judged(known[first : first + JUDGED_TOGETHER])
    partial.replace(final)
    state.pairs = final
    state.tally.resumed(known)
    if known:
        log.info("%d answers were there already", len(known))
    state.todo = iter([key for key in state.requests if key not in state.journal.answers])


async def _ask_all(state: Run, concurrency: int) -> None:
    done = asyncio.Event()
    judging = asyncio.create_task(state.judge(done))
    try:
        async with state.endpoint.client() as client, asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(state.work(client))
                await asyncio.sleep(APART_S)
    except* TrainingError as errors:
        raise errors.exceptions[0] from None
    finally:
        done.set()
        await judging
    log.info("%s", state.tally.line(state.endpoint.outcomes))
