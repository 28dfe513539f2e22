"""From a plan to ranked candidates: engine → texts → relevance → order.

A `Run` is one request under way. The engine's thread tells it of tokens, the scoring thread of candidates;
both post to the event loop and wait for nobody. The input is embedded after the first token and each
candidate as soon as it is complete, so scoring delays no first token, and only the last candidate's is waited
for. Whatever ends a run early (deadline, a client that left, a shutdown) cancels its decoding at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive

from promptdial.command import Command, word_count
from promptdial.engine import Done, Event, Failed, Finished, GenerationRequest, Stats, Timing, Token
from promptdial.errors import Cancelled, DeadlineExceeded, Overloaded
from promptdial.relevance import cosine
from promptdial.tokenizer import PromptTokenizer
from service.context import Phase
from service.mailbox import Mailbox
from service.metrics import Metrics
from service.pieces import whole_text
from service.planning import Plan
from service.problems import TimeoutTooShort
from service.schemas import Candidate

logger = logging.getLogger(__name__)


class Cancellable(Protocol):
    """The handle of a submitted generation."""

    def cancel(self) -> None:
        """Stop decoding it."""


class Engine(Protocol):
    """What the service needs of `promptdial.engine.Engine`."""

    @property
    def ready(self) -> bool:
        """Whether it takes work."""

    @property
    def heartbeat(self) -> float:
        """When its loop last turned, in seconds of `time.monotonic`."""

    @property
    def stats(self) -> Stats:
        """Counters, and what is there now."""

    def start(self) -> None:
        """Begin to take work."""

    def close(self, *, join_s: float) -> bool:
        """End its thread; False when it hangs for longer than `join_s`."""

    def submit(self, request: GenerationRequest, on_event: Callable[[Event], None]) -> Cancellable:
        """Queue a request. Raises Overloaded or Unavailable."""


class Scorer(Protocol):
    """What the service needs of `promptdial.relevance.RelevanceScorer`."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows, (texts, dimensions)."""


@dataclass(frozen=True, slots=True)
class Complete:
    """A candidate with everything that is reported of it."""

    index: int
    candidate: Candidate


News = Token | Finished | Complete


class Run:
    """One request under way. `receive` and `_measure` are called on other threads, the rest on the loop's.

    `news` holds what a stream has yet to send: at most `n * max_tokens` tokens, so a reader that is slow costs
    bounded memory and delays nobody.
    """

    def __init__(self, generator: Generator, plan: Plan, streamed: bool, counted: bool) -> None:
        n = plan.work.n
        self.plan = plan
        self.counted = counted  # in the metrics
        self.news: deque[News] = deque()
        self.tokens: list[list[int]] = [[] for _ in range(n)]
        self.candidates: dict[int, Candidate] = {}  # complete ones, by their index
        self.timing: Timing | None = None
        self.token_times: list[float] = []  # of the first candidate, in seconds of time.monotonic
        self.score_s = 0.0
        self.error: Exception | None = None
        self._generator = generator
        self._streamed = streamed
        self._decoded = 0.0
        self._input: NDArray[np.float32] | None = None
        self._closed = False
        self._awaited: asyncio.Future[None] | None = None
        self._generation: Cancellable | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def prompt_read(self) -> bool:
        """Whether the engine got as far as a token."""
        return bool(self.generated or self.candidates or self.timing)

    @property
    def generated(self) -> int:
        """Tokens written so far, over all candidates."""
        return sum(len(ids) for ids in self.tokens)

    @property
    def over(self) -> bool:
        """Whether everything is there, or the run failed."""
        complete = self.timing is not None and len(self.candidates) == self.plan.work.n
        return complete or self.error is not None

    @property
    def ranking(self) -> list[int]:
        """Indices of the candidates, best first."""
        key = order(self.plan.request.rank, self.plan.command)
        return sorted(self.candidates, key=lambda index: key(self.candidates[index]))

    def phases(self) -> list[Phase]:
        """Where the time went; of a run that failed, only its decoding, if it got as far."""
        if self.timing is None:
            return [Phase("decode", self.token_times[0], time.monotonic())] if self.token_times else []
        prefilled = self._decoded - self.timing.decode_s
        started = prefilled - self.timing.prefill_s
        phases = [
            Phase("queue", started - self.timing.queue_s, started),
            Phase("prefill", started, prefilled),
            Phase("decode", prefilled, self._decoded),
        ]
        if self.plan.request.score:
            phases.append(Phase("score", self._decoded, self._decoded + self.score_s))
        return phases

    def start(self, engine: Engine, receive: Receive | None) -> None:
        """Submit it, and listen for the client's leaving on `receive`. Raises Overloaded or Unavailable."""
        self._generation = engine.submit(self.plan.work, self.receive)
        late = DeadlineExceeded("the request took longer than its timeout_ms")
        left = max(0.0, self.plan.deadline - time.monotonic())
        self._deadline = asyncio.get_running_loop().call_later(left, self.fail, late)
        if receive is not None:
            self._listening = asyncio.create_task(self._listen(receive))

    async def _listen(self, receive: Receive) -> None:
        """The request's only listener on `receive`; nothing polls: a disconnect is acted on when it comes."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.fail(Cancelled("the client went away"))

    # --- on the engine's thread -------------------------------------------------------------------------------

    def receive(self, event: Event) -> None:
        """Called by the engine for every event of the generation, in order."""
        post, scoring = self._generator.mailbox.post, self.plan.request.score
        match event:
            case Token(candidate, token_id):
                if candidate == 0:
                    self.token_times.append(time.monotonic())
                    if scoring and len(self.token_times) == 1:
                        self._generator.scoring.post(self._measure, None)
                self.tokens[candidate].append(token_id)
                if self._streamed:
                    post(self._tell, event)
            case Finished():
                if self._streamed or not scoring:
                    post(self._tell, event)
                if scoring:
                    self._generator.scoring.post(self._measure, event)
            case Done():
                self._decoded = time.monotonic()
                post(self._tell, event)
            case Failed():
                post(self._tell, event)

    # --- on the scoring thread --------------------------------------------------------------------------------

    def _measure(self, finished: Finished | None) -> None:
        """Embed the input, once, and post the candidate that is complete, if one is."""
        generator = self._generator
        if self._closed:
            return
        begun = time.thread_time()
        try:
            if self._input is None:
                self._input = generator.scorer.embed([self.plan.request.input])
            if finished is not None:
                text = whole_text(generator.tokenizer, self.tokens[finished.candidate])
                (relevance,) = cosine(self._input, generator.scorer.embed([text]))
                candidate = describe(text, round(relevance, 4), finished.reason)
                generator.mailbox.post(self._tell, Complete(finished.candidate, candidate))
        except Exception as error:
            generator.mailbox.post(self.fail, error)
        finally:
            generator.metrics.score_cpu_seconds.inc(time.thread_time() - begun)

    # --- on the event loop ------------------------------------------------------------------------------------

    def _tell(self, event: News | Done | Failed) -> None:
        """Take in what another thread posted."""
        match event:
            case Finished(index, reason) if not self.plan.request.score:
                text = whole_text(self._generator.tokenizer, self.tokens[index])
                self.news.append(event)
                self._complete(Complete(index, describe(text, None, reason)))
            case Complete():
                self._complete(event)
            case Done(timing):
                self.timing = timing
            case Failed(error):
                self.fail(error)
            case _:
                self.news.append(event)
        if self._streamed or self.over:
            self.wake()

    def _complete(self, complete: Complete) -> None:
        self.candidates[complete.index] = complete.candidate
        self.news.append(complete)
        if self.timing is not None and self.plan.request.score:
            self.score_s = time.monotonic() - self._decoded

    def fail(self, error: Exception) -> None:
        """Give the run up; without effect on one that is over."""
        if not self.over:
            self.error = error
            if self._generation is not None:
                self._generation.cancel()
            self.wake()

    def wake(self) -> None:
        """Let whoever waits for this run look at it."""
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def changed(self) -> None:
        """Wait until `wake`."""
        self._awaited = asyncio.get_running_loop().create_future()
        await self._awaited

    async def begun(self) -> None:
        """Wait for the first of the news. Raises what the run failed with before."""
        while not (self.news or self.over):
            await self.changed()
        if not self.news and self.error is not None:
            raise self.error

    async def finished(self) -> None:
        """Wait for the end. Raises DeadlineExceeded, Cancelled, Unavailable, EngineError or a defect."""
        while not self.over:
            await self.changed()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End what still works for this run; once, whatever became of it."""
        self._closed = True
        for each in (self._generation, self._deadline, self._listening):
            if each is not None:
                each.cancel()  # nothing to what is done
        self._generator.closed(self)


class Scoring:
    """The scoring thread: measures what is posted, in order.

    A bare queue: an executor makes a future with a condition for each call, and here nobody waits for one.
    """

    def __init__(self) -> None:
        self._posts: SimpleQueue[tuple[Callable[[Finished | None], None], Finished | None] | None] = (
            SimpleQueue()
        )
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def post(self, measure: Callable[[Finished | None], None], finished: Finished | None) -> None:
        """Have `measure(finished)` called on the thread. From any thread; never waits."""
        self._posts.put((measure, finished))

    def _run(self) -> None:
        while (post := self._posts.get()) is not None and not self._closing:
            measure, finished = post
            try:
                measure(finished)
            except Exception:  # of one request; the thread is there for all of them
                logger.exception("scoring failed")

    def close(self) -> None:
        """End after the call under way; what is left isn't measured."""
        self._closing = True
        self._posts.put(None)
        self._thread.join()


class Generator:
    """Runs plans with one bundle's engine and scorer."""

    def __init__(self, tokenizer: PromptTokenizer, engine: Engine, scorer: Scorer, metrics: Metrics) -> None:
        self.tokenizer = tokenizer
        self.token_bytes = tokenizer.token_bytes()
        self.engine = engine
        self.scorer = scorer
        self.metrics = metrics
        self.mailbox = Mailbox()
        self.scoring = Scoring()
        self.in_flight = 0  # runs that were admitted and not yet closed

    def close(self) -> None:
        """End the scoring thread."""
        self.scoring.close()

    def start(
        self, plan: Plan, receive: Receive | None = None, *, streamed: bool = False, counted: bool = True
    ) -> Run:
        """Submit a plan; the caller closes the run. Raises Overloaded, TimeoutTooShort or Unavailable."""
        run = Run(self, plan, streamed, counted)
        try:
            run.start(self.engine, receive)
        except Overloaded as error:
            if error.retry_after_s is None:
                raise TimeoutTooShort(str(error), "timeout_ms") from None
            raise
        self.in_flight += 1
        return run

    def closed(self, run: Run) -> None:
        """Put the engine's work for a client into the metrics, as far as the engine has told of it."""
        self.in_flight -= 1
        if not run.counted:
            return
        metrics, plan = self.metrics, run.plan
        if run.prompt_read:
            metrics.prompt_tokens.inc(len(plan.work.prompt))
        metrics.generated_tokens.inc(run.generated)
        if run.token_times:
            metrics.first_token_seconds.observe(run.token_times[0] - plan.received)
            metrics.inter_token_seconds.observe_all(np.diff(run.token_times))
        if run.timing is not None:
            metrics.queue_seconds.observe(run.timing.queue_s)
            metrics.prefill_seconds.observe(run.timing.prefill_s)

    def count(self, run: Run) -> None:
        """Put a client's answer into the metrics."""
        metrics, command, best = self.metrics, run.plan.command, run.candidates[run.ranking[0]]
        for field in run.plan.clamped:
            metrics.clamped_targets.labels(field, command.task).inc()
        if run.plan.request.score:
            metrics.score_seconds.observe(run.score_s)
        if best.achieved_relevance is not None and command.relevance is not None:
            metrics.steered("relevance", command.task, command.relevance, best.achieved_relevance)
        if command.length is not None:
            metrics.steered("length", command.task, command.length, best.achieved_length)


def describe(text: str, relevance: float | None, reason: Literal["stop", "length"]) -> Candidate:
    """A candidate as it is reported."""
    return Candidate(
        text=text, achieved_relevance=relevance, achieved_length=word_count(text), finish_reason=reason
    )


def order(
    rank: Literal["closest", "highest"], command: Command
) -> Callable[[Candidate], tuple[float, float]]:
    """Sort key, best first: by relevance as `rank` says, then by distance to the target length."""

    def key(candidate: Candidate) -> tuple[float, float]:
        off_length = abs(candidate.achieved_length - (command.length or candidate.achieved_length))
        if candidate.achieved_relevance is None:
            return 0.0, off_length
        if rank == "highest" or command.relevance is None:
            return -candidate.achieved_relevance, off_length
        return abs(candidate.achieved_relevance - command.relevance), off_length

    return key
