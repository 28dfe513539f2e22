"""From a request to ranked candidates: command → prompt → engine → texts → relevance → order.

`plan` refuses what can't be obeyed, before any work is done. `run` submits the plan to the engine, embeds the
input while decoding runs, scores the outputs in one batch on a worker thread, and puts the best first. The
deadline covers all of it; whatever ends a run early (deadline, a client that left) cancels the decoding.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from promptdial.bundle import Bundle
from promptdial.command import FRAMING_TOKENS, Command, word_count
from promptdial.engine import Done, Event, Failed, Finished, GenerationRequest, Sampling, Timing, Token
from promptdial.errors import DeadlineExceeded, InputTooLong, InvalidRequest
from promptdial.relevance import cosine
from promptdial.tasks import Task
from service.metrics import Metrics
from service.problems import NotAvailableYet, TargetsOutOfSupport
from service.schemas import Candidate, GenerateRequest
from service.settings import Settings

SEEDS = 2**32  # drawn seeds stay exact in every JSON reader
TOKENS_PER_WORD = 2  # generous: the model ends an output by itself, the limit only stops one that doesn't
SPARE_TOKENS = 32


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

    def start(self) -> None:
        """Begin to take work."""

    def close(self) -> bool:
        """End its thread; False when it hangs."""

    def submit(self, request: GenerationRequest, on_event: Callable[[Event], None]) -> Cancellable:
        """Queue a request. Raises Overloaded or Unavailable."""


class Scorer(Protocol):
    """What the service needs of `promptdial.relevance.RelevanceScorer`."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows, (texts, dimensions)."""


@dataclass(frozen=True)
class Plan:
    """A request that can be obeyed: what the engine gets, and what to do with its output."""

    request: GenerateRequest
    command: Command
    clamped: frozenset[str]
    work: GenerationRequest
    deadline: float  # seconds of time.monotonic


@dataclass(frozen=True)
class Answer:
    """Candidates, best first, and what they cost."""

    candidates: list[Candidate]
    completion_tokens: int
    timing: Timing
    score_s: float


class Output:
    """Gathers one generation's tokens on the engine's thread; the event loop is woken once, at the end."""

    def __init__(self, n: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.tokens: list[list[int]] = [[] for _ in range(n)]
        self.reasons: list[Literal["stop", "length"]] = ["length"] * n
        self.prompt_read = False
        self.timing: Timing | None = None
        self.done: asyncio.Future[Timing] = self._loop.create_future()

    @property
    def generated(self) -> int:
        """Tokens written so far, over all candidates."""
        return sum(len(ids) for ids in self.tokens)

    def receive(self, event: Event) -> None:
        """Called by the engine for every event of the generation, in order."""
        match event:
            case Token():
                self.prompt_read = True
                self.tokens[event.candidate].append(event.token_id)
            case Finished():
                self.prompt_read = True
                self.reasons[event.candidate] = event.reason
            case Done():
                self.timing = event.timing
                self._loop.call_soon_threadsafe(self._finish, event.timing)
            case Failed():
                self._loop.call_soon_threadsafe(self._fail, event.error)

    def _finish(self, timing: Timing) -> None:
        if not self.done.done():
            self.done.set_result(timing)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Generator:
    """Answers requests with one bundle's engine and scorer."""

    def __init__(
        self, bundle: Bundle, engine: Engine, scorer: Scorer, settings: Settings, metrics: Metrics
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.scorer = scorer
        self.settings = settings
        self.metrics = metrics
        self.tokenizer = bundle.tokenizer()
        self.defaults = Sampling(
            temperature=float(bundle.sampling["temperature"]),
            top_p=float(bundle.sampling["top_p"]),
            top_k=int(bundle.sampling["top_k"]),
        )
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="scoring")

    def close(self) -> None:
        """End the scoring thread."""
        self._scoring.shutdown(cancel_futures=True)

    def plan(self, request: GenerateRequest, received: float) -> Plan:
        """Make a request ready, or raise the PromptdialError that says why it can't be obeyed."""
        refuse_unavailable(request)
        timeout_ms = request.timeout_ms or self.settings.request_timeout_ms
        at_most("timeout_ms", timeout_ms, self.settings.max_request_timeout_ms)
        at_most("n", request.n, self.settings.max_n)
        command, clamped = self._command(request)
        prompt = self.tokenizer.prompt(command, request.input)
        deadline = received + timeout_ms / 1000
        work = GenerationRequest(
            prompt=tuple(prompt),
            n=request.n,
            max_tokens=self._max_tokens(request, command, len(prompt)),
            sampling=self._sampling(request),
            seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed,
            deadline=deadline,
        )
        return Plan(request, command, clamped, work, deadline)

    def modalities(self, task: Task) -> list[str]:
        """What a task can be asked for: its own modalities, as far as the bundle has commands for them."""
        return [each for each in task.modalities if each in self.bundle.format.modalities]

    def _command(self, request: GenerateRequest) -> tuple[Command, frozenset[str]]:
        """The command inside the trained support, and the request's fields that were moved to get there."""
        task = self.bundle.tasks.get(request.task)
        if task is None:
            known = ", ".join(self.bundle.tasks)
            raise InvalidRequest(f"unknown task {request.task[:64]!r}; the tasks are {known}", "task")
        modality = task.modality if request.modality is None else request.modality
        modalities = self.modalities(task)
        if modality not in modalities:
            known = ", ".join(modalities)
            raise InvalidRequest(
                f"unknown modality {modality[:64]!r}; task {task.name} has {known}", "modality"
            )
        asked = Command(task.name, modality, request.target_relevance, request.target_length)
        command, clamped = self.bundle.support.clamp(asked)
        if clamped and request.out_of_support == "reject":
            raise out_of_support(asked, command, clamped)
        return command, clamped

    def _max_tokens(self, request: GenerateRequest, command: Command, prompt_tokens: int) -> int:
        """Tokens a candidate may have: as asked, or enough for its length."""
        limits = self.bundle.limits
        input_tokens = prompt_tokens - FRAMING_TOKENS
        if input_tokens > limits.max_input_tokens:
            raise InputTooLong(
                f"the input is {input_tokens} tokens long, this model reads {limits.max_input_tokens} at most"
            )
        if request.max_tokens is not None:
            at_most("max_tokens", request.max_tokens, limits.max_tokens)
            wanted = request.max_tokens
        elif command.length is not None:
            wanted = TOKENS_PER_WORD * command.length + SPARE_TOKENS
        else:
            wanted = limits.max_tokens
        return min(wanted, limits.max_tokens)

    def _sampling(self, request: GenerateRequest) -> Sampling:
        """As asked, else as the bundle was tuned."""
        sampling = self.defaults
        if request.temperature is not None:
            sampling = replace(sampling, temperature=request.temperature)
        if request.top_p is not None:
            sampling = replace(sampling, top_p=request.top_p)
        return sampling

    async def run(self, plan: Plan, *, counted: bool = True) -> Answer:
        """Decode and measure. Raises DeadlineExceeded, Overloaded, Unavailable or EngineError.

        Unless `counted` is false, what was decoded goes into the metrics, however it ends.
        """
        loop = asyncio.get_running_loop()
        output = Output(plan.work.n)
        generation = self.engine.submit(plan.work, output.receive)
        embedding: asyncio.Future[NDArray[np.float32]] | None = None
        try:
            async with asyncio.timeout(plan.deadline - time.monotonic()):
                if plan.request.score:
                    embedding = loop.run_in_executor(self._scoring, self.scorer.embed, [plan.request.input])
                timing = await output.done
                decoded = time.perf_counter()
                texts = [self._text(ids) for ids in output.tokens]
                relevances: list[float | None] = [None] * len(texts)
                if embedding is not None:
                    rows = await loop.run_in_executor(self._scoring, self.scorer.embed, texts)
                    pairs = np.broadcast_to(await embedding, rows.shape)
                    relevances = [round(value, 4) for value in cosine(pairs, rows)]
                score_s = time.perf_counter() - decoded if plan.request.score else 0.0
        except TimeoutError:
            raise DeadlineExceeded("the request took longer than its timeout_ms") from None
        finally:
            generation.cancel()  # nothing to a generation that is done
            if embedding is not None:
                embedding.cancel()
            if counted:
                self._count_decoded(plan, output)
        candidates = [
            Candidate(
                text=text,
                achieved_relevance=relevance,
                achieved_length=word_count(text),
                finish_reason=reason,
            )
            for text, relevance, reason in zip(texts, relevances, output.reasons, strict=True)
        ]
        candidates.sort(key=order(plan.request.rank, plan.command))
        return Answer(candidates, output.generated, timing, score_s)

    def _text(self, ids: Sequence[int]) -> str:
        """Text of one candidate, without half a character where it was cut off."""
        return self.tokenizer.decode(ids).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()

    def _count_decoded(self, plan: Plan, output: Output) -> None:
        """Put the engine's work for a client into the metrics, as far as the engine has told of it."""
        metrics = self.metrics
        if output.prompt_read:
            metrics.prompt_tokens.inc(len(plan.work.prompt))
        metrics.generated_tokens.inc(output.generated)
        if output.timing is not None:
            metrics.queue_seconds.observe(output.timing.queue_s)
            metrics.prefill_seconds.observe(output.timing.prefill_s)

    def count(self, plan: Plan, answer: Answer) -> None:
        """Put a client's answer into the metrics."""
        metrics, best = self.metrics, answer.candidates[0]
        for field in plan.clamped:
            metrics.clamped_targets.labels(field).inc()
        if plan.request.score:
            metrics.score_seconds.observe(answer.score_s)
        if best.achieved_relevance is not None and plan.command.relevance is not None:
            metrics.target_error.labels("relevance").observe(best.achieved_relevance - plan.command.relevance)
        if plan.command.length is not None:
            metrics.target_error.labels("length").observe(best.achieved_length - plan.command.length)


def refuse_unavailable(request: GenerateRequest) -> None:
    """Raise NotAvailableYet for a field that this version would have to ignore."""
    asked = {
        "stream": request.stream,
        "keep": bool(request.keep),
        "min_relevance": request.min_relevance is not None,
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise NotAvailableYet(f"{field} is not available yet; leave it out", field)
    if request.rank == "highest" and not request.score:
        raise InvalidRequest(
            "ranking by the highest relevance needs it measured: leave out 'score': false", "rank"
        )


def out_of_support(asked: Command, inside: Command, clamped: frozenset[str]) -> TargetsOutOfSupport:
    """The error that names every target outside, with the nearest that is inside."""
    return TargetsOutOfSupport(
        {
            f"target_{field}": f"target_{field} {getattr(asked, field)} is outside what task {asked.task} "
            f"was trained on; the nearest that is inside is {getattr(inside, field)}"
            for field in ("length", "relevance")
            if field in clamped
        }
    )


def at_most(field: str, value: int, limit: int) -> None:
    """Raise InvalidRequest for a value past this server's limit."""
    if value > limit:
        raise InvalidRequest(f"{field} is {value}, the most that is taken here is {limit}", field)


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
