"""The engine: one thread that owns the decoder and, step by step, schedules, runs and delivers.

    engine = Engine.from_bundle(load_bundle("models/small"))
    engine.start()
    result = engine.submit(GenerationRequest(prompt, n=4, seed=7)).result()

A step prefills one admitted request, whose ``n`` candidates share the prefill (the row is copied), or
decodes one token for every running candidate. Rows 0..n-1 of the cache are the running candidates; the last
one moves into the place of one that ends.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from promptdial.bundle import Bundle
from promptdial.engine.decoder import Decoder, Top
from promptdial.engine.request import (
    Candidate,
    Done,
    Event,
    Failed,
    Finished,
    FinishReason,
    Generation,
    GenerationRequest,
    Status,
    Timing,
    Token,
)
from promptdial.engine.sampling import MAX_TOP_K, choose, uniform
from promptdial.engine.scheduler import RETRY_S, Scheduler
from promptdial.engine.threads import available_cpus
from promptdial.errors import EngineError, InputTooLong, InvalidRequest, Unavailable

log = logging.getLogger(__name__)

IDLE_S = 0.1  # the idle loop turns this often, for the heartbeat


class Steps(Protocol):
    """What the engine needs of a decoder."""

    slots: int
    capacity: int
    vocabulary: int

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top: ...
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top: ...
    def copy_row(self, source: int, target: int, length: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start, and what is there now."""

    waiting_requests: int
    running_requests: int
    running_sequences: int
    prompt_tokens: int
    generated_tokens: int
    steps: int
    failed_steps: int


class Engine:
    """Takes requests of token ids from any thread and gives their events to the callers' listeners."""

    def __init__(self, decoder: Steps, end_id: int, *, queue_limit: int = 64, max_running: int = 1) -> None:
        self._decoder = decoder
        self._end_id = end_id
        self._scheduler = Scheduler(queue_limit, max_running)
        self._rows: list[Candidate] = []  # index = row of the cache
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._heartbeat = time.monotonic()
        self._prompt_tokens = self._generated_tokens = self._steps = self._failed_steps = 0

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        threads: int | None = None,
        device: str = "cpu",
        slots: int = 16,
        queue_limit: int = 64,
        max_running: int = 1,
    ) -> Engine:
        """An engine over a bundle's decoder. Raises BundleError or DeviceError.

        ``threads`` defaults to what the process may use; ``slots`` is the most candidates that run at once.
        """
        count = threads or available_cpus()
        decoder = Decoder(bundle.decoder_path, bundle.architecture, threads=count, slots=slots, device=device)
        end_id = bundle.tokenizer().end_id
        return cls(decoder, end_id, queue_limit=queue_limit, max_running=max_running)

    @property
    def heartbeat(self) -> float:
        """When the loop last turned (``time.monotonic()``); it stands still while a step hangs."""
        return self._heartbeat

    @property
    def ready(self) -> bool:
        """Whether requests are taken: started, warm, not closing, and the last step didn't fail."""
        return self._scheduler.is_open

    @property
    def slots(self) -> int:
        """The most candidates that can run at once, so also the largest ``n``."""
        return self._decoder.slots

    @property
    def stats(self) -> Stats:
        """Counters for metrics."""
        return Stats(
            waiting_requests=self._scheduler.waiting,
            running_requests=len(self._scheduler.running),
            running_sequences=len(self._rows),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            steps=self._steps,
            failed_steps=self._failed_steps,
        )

    def start(self) -> None:
        """Warm every shape up, then take requests."""
        self._warm()
        self._thread = threading.Thread(target=self._run, name="promptdial-engine", daemon=True)
        self._thread.start()
        self._scheduler.open()

    def close(self, drain_s: float = 0.0, join_s: float = 5.0) -> bool:
        """Take no more requests for good, give admitted ones ``drain_s`` seconds, fail the rest.

        False when the thread didn't end within ``join_s`` seconds after that: a step hangs.
        """
        self._scheduler.close("the engine is closing")
        give_up = time.monotonic() + drain_s
        while (self._scheduler.waiting or self._scheduler.running) and time.monotonic() < give_up:
            self._closing.wait(0.005)
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=join_s)
            return not self._thread.is_alive()
        return True

    def submit(
        self, request: GenerationRequest, on_event: Callable[[Event], None] | None = None
    ) -> Generation:
        """Queue a request. Raises InvalidRequest, InputTooLong, Overloaded or Unavailable."""
        self._check(request)
        generation = Generation(request, on_event)
        self._scheduler.submit(generation)
        return generation

    def _check(self, request: GenerationRequest) -> None:
        sampling = request.sampling
        if not 1 <= request.n <= self.slots:
            raise InvalidRequest(f"n must lie in 1-{self.slots}, got {request.n}", "n")
        if request.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, got {request.max_tokens}", "max_tokens")
        if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
            raise InvalidRequest(f"temperature must be 0 or more, got {sampling.temperature}", "temperature")
        if not 0 < sampling.top_p <= 1:
            raise InvalidRequest(f"top_p must lie in 0-1 and over 0, got {sampling.top_p}", "top_p")
        if not 1 <= sampling.top_k <= MAX_TOP_K:
            raise InvalidRequest(f"top_k must lie in 1-{MAX_TOP_K}, got {sampling.top_k}", "top_k")
        if not request.prompt or not all(0 <= token < self._decoder.vocabulary for token in request.prompt):
            raise InvalidRequest("the prompt must be a list of the model's token ids", "input")
        if len(request.prompt) > self._decoder.capacity:
            limit = self._decoder.capacity
            raise InputTooLong(f"the prompt has {len(request.prompt)} tokens, the model takes {limit}")

    def _run(self) -> None:
        while not self._closing.is_set():
            self._heartbeat = time.monotonic()
            if not self._scheduler.wait(IDLE_S):
                continue
            try:
                self._step()
            except Exception as error:
                self._failed_steps += 1
                log.exception("an engine step failed")
                self._recover(error)
        self._rows.clear()
        for generation in self._scheduler.take_all():
            generation.deliver(
                Failed(Unavailable("the engine was closed before the request was done", RETRY_S))
            )

    def _step(self) -> None:
        for generation, error in self._scheduler.drop():
            generation.deliver(Failed(error))
        self._release_rows()
        admitted = self._scheduler.admit(self.slots - len(self._rows))
        if admitted is not None:
            self._prefill(admitted)
        elif self._rows:
            self._decode()
        self._release_rows()
        self._steps += 1

    def _prefill(self, generation: Generation) -> None:
        generation.started = time.monotonic()
        prompt, n = list(generation.request.prompt), generation.request.n
        first = len(self._rows)
        top = self._decoder.prefill(first, prompt)
        self._prompt_tokens += len(prompt)
        shared = Top(np.repeat(top.logits, n, axis=0), np.repeat(top.ids, n, axis=0))
        generation.prefilled = time.monotonic()
        self._deliver(generation.candidates, shared)
        alive = [candidate for candidate in generation.candidates if candidate.reason is None]
        for row in range(first + 1, first + len(alive)):
            self._decoder.copy_row(first, row, len(prompt))
        self._rows.extend(alive)

    def _decode(self) -> None:
        tokens = [candidate.tokens[-1] for candidate in self._rows]
        lengths = [candidate.cached for candidate in self._rows]
        self._deliver(self._rows, self._decoder.decode(tokens, lengths))

    def _deliver(self, candidates: list[Candidate], top: Top) -> None:
        """Choose and hand out one token for each candidate; ``top`` has their rows in the same order."""
        requests = [candidate.generation.request for candidate in candidates]
        draws = [
            uniform(request.seed, candidate.index, len(candidate.tokens))
            for request, candidate in zip(requests, candidates, strict=True)
        ]
        chosen = choose(top.logits, top.ids, [request.sampling for request in requests], draws)
        for candidate, token in zip(candidates, chosen, strict=True):
            if token == self._end_id:
                self._finish(candidate, "stop")
                continue
            candidate.tokens.append(token)
            self._generated_tokens += 1
            candidate.generation.deliver(Token(candidate.index, token))
            full = candidate.cached >= self._decoder.capacity
            if full or len(candidate.tokens) >= candidate.generation.request.max_tokens:
                self._finish(candidate, "length")

    def _finish(self, candidate: Candidate, reason: FinishReason) -> None:
        generation = candidate.generation
        candidate.reason = reason
        generation.deliver(Finished(candidate.index, reason))
        if all(other.reason is not None for other in generation.candidates):
            self._scheduler.finished(generation)
            now = time.monotonic()
            waited, read = (
                generation.started - generation.submitted,
                generation.prefilled - generation.started,
            )
            generation.deliver(Done(Timing(waited, read, now - generation.prefilled)))

    def _release_rows(self) -> None:
        """Give back rows of candidates that are over; the last row takes the free place."""
        for row in reversed(range(len(self._rows))):
            candidate = self._rows[row]
            if candidate.reason is None and candidate.generation.status is not Status.OVER:
                continue
            last = self._rows.pop()
            if row < len(self._rows):
                self._decoder.copy_row(len(self._rows), row, last.cached)
                self._rows[row] = last

    def _recover(self, cause: Exception) -> None:
        """After a failed step: fail what was running, and take no requests until a probe succeeds."""
        self._rows.clear()
        self._scheduler.refuse("the engine failed and is recovering")
        for generation in self._scheduler.take_running():
            # An error each: callers raise them in their own threads.
            failure = EngineError("a step failed under this request")
            failure.__cause__ = cause
            generation.deliver(Failed(failure))
        while not self._closing.is_set():
            self._heartbeat = time.monotonic()
            try:
                self._warm()
            except Exception:
                log.exception("the engine can't recover yet; next attempt in %s s", RETRY_S)
                for generation in self._scheduler.take_all():
                    generation.deliver(Failed(Unavailable("the engine failed and is recovering", RETRY_S)))
                self._closing.wait(RETRY_S)
            else:
                self._scheduler.open()
                return

    def _warm(self) -> None:
        """Run each shape once; also the probe after a failure."""
        self._decoder.prefill(0, [self._end_id] * min(32, self._decoder.capacity - 1))
        for rows in range(1, self._decoder.slots + 1):
            self._decoder.decode([self._end_id] * rows, [1] * rows)
