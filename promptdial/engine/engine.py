"""The engine: one thread that owns the decoder and, step by step, schedules, runs and delivers.

    engine = Engine.from_bundle(load_bundle("models/small"))
    engine.start()
    result = engine.submit(GenerationRequest(prompt, n=4, seed=7)).result()

A step reads a piece of a prompt, if one waits and has room, and then decodes one token for every running candidate. So
a running candidate never waits for more than one small piece of anybody's prompt, or for a larger one, or several, that
keep the pause within ``pause`` times the step that the batch is growing to. The ``n`` candidates of a request share the
prefill: its row is copied. Rows 0..n-1 of the cache are the running candidates; the last one moves into the place of
one that ends. A prompt of several pieces is read in the decoder's staging row and copied when it is complete.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from promptdial.bundle import Bundle
from promptdial.engine.cached import Top
from promptdial.engine.characters import Characters, Utf8
from promptdial.engine.decoder import Decoder
from promptdial.engine.estimate import Speed
from promptdial.engine.length import Pace, Words
from promptdial.engine.phrases import Draft, Sentences
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
)
from promptdial.engine.sampling import SECOND_DRAWS, Chooser, Runs, draw, is_unlikely, surprisals
from promptdial.engine.scheduler import RETRY_S, Scheduler
from promptdial.engine.spelling import Speller, Spelling
from promptdial.engine.threads import available_cpus
from promptdial.errors import DeviceError, EngineError, InputTooLong, InvalidRequest, Unavailable

log = logging.getLogger(__name__)

IDLE_S = 0.1  # the idle loop turns this often, for the heartbeat
PAUSE = 2.0  # steps of the batch to come: so the longest gap between two tokens is about twice the usual one


class Steps(Protocol):
    """What the engine needs of a decoder."""

    slots: int
    capacity: int
    vocabulary: int
    staging: int
    threads: int
    device: str

    @property
    def provider(self) -> str: ...

    @property
    def pieces(self) -> tuple[int, ...]: ...

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top: ...
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top: ...
    def copy_row(self, source: int, target: int, length: int) -> None: ...
    def make_room(self, room: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start, what is there now, and its limits.

    ``device`` is the one that was asked for, ``provider`` ONNX Runtime's name of what runs the decoder.
    """

    waiting_requests: int
    queue_limit: int
    running_requests: int
    running_sequences: int
    slots: int
    prompt_tokens: int
    generated_tokens: int
    steps: int
    failed_steps: int
    redrawn_sentences: int
    threads: int
    device: str
    provider: str


class Engine:
    """Takes requests of token ids from any thread and gives their events to the callers' listeners."""

    def __init__(
        self,
        decoder: Steps,
        end_id: int,
        *,
        words: Words | None = None,
        characters: Utf8 | None = None,
        spelling: Spelling | None = None,
        sentences: Sentences | None = None,
        queue_limit: int = 64,
        max_running: int | None = None,
        pause: float = PAUSE,
        on_step: Callable[[int, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pause`` is how long running candidates may wait for prompts of others, in steps of the batch to come.

        ``words`` tells what tokens do to the number of words; requests that want one need it. ``characters`` tells
        which tokens are parts of a character; without it, texts may break one off. ``spelling`` tells which words may
        be written; without it, any. ``sentences`` tells which of them to draw anew; without it, none.
        ``on_step`` is told of every decode step: its number of sequences and its seconds. It has to be quick.
        """
        self._decoder = decoder
        self._end_id = end_id
        self._words, self._characters, self._spelling, self._sentences = (
            words,
            characters,
            spelling,
            sentences,
        )
        self._on_step = on_step
        self._clock = clock
        self._speed = Speed(decoder.slots, decoder.pieces, pause)
        most = decoder.slots if max_running is None else max_running
        self._scheduler = Scheduler(queue_limit, most, decoder.slots, self._speed, clock)
        self._rows: list[Candidate] = []  # index = row of the cache
        self._chooser: Chooser | None = None  # of the rows as they are; None after a change
        self._freed = False  # whether a row's candidate is over
        self._reading: Generation | None = None  # its prompt is partly in the cache
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._heartbeat = clock()
        self._prompt_tokens = self._generated_tokens = self._steps = self._failed_steps = 0
        self._redrawn_sentences = 0

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        threads: int | None = None,
        device: str = "cpu",
        slots: int = 16,
        queue_limit: int = 64,
        max_running: int | None = None,
        capacity: int | None = None,
        pause: float = PAUSE,
        on_step: Callable[[int, float], None] | None = None,
    ) -> Engine:
        """An engine over a bundle's decoder. Raises BundleError or DeviceError.

        ``threads`` defaults to what the process may use; ``slots`` is the most candidates that run at once, and
        ``max_running`` the most requests (as many as slots, if not given); ``capacity`` is the most tokens of a
        candidate, prompt included (by default what the model can take); ``pause`` as in ``Engine``.
        """
        if device == "cuda" and bundle.precision not in ("fp16", "fp32"):
            raise DeviceError(
                f"device 'cuda' was asked for, and the bundle at {bundle.path} is {bundle.precision}, whose kernels "
                f"are the CPU's: export it with `python -m export CHECKPOINT BUNDLE --precision fp16`"
            )
        threads = threads or available_cpus()
        decoder = Decoder.from_bundle(bundle, threads=threads, slots=slots, device=device, capacity=capacity)
        tokenizer = bundle.tokenizer()
        tokens, known, phrases = tokenizer.token_bytes(), bundle.words(), bundle.phrases()
        words = Words.of(tokens)
        return cls(
            decoder,
            tokenizer.end_id,
            words=words,
            characters=Utf8.of(tokens),
            spelling=Spelling.of(tokens, known) if known else None,
            sentences=Sentences.of(phrases, tokens, words) if phrases else None,
            queue_limit=queue_limit,
            max_running=max_running,
            pause=pause,
            on_step=on_step,
        )

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
            queue_limit=self._scheduler.queue_limit,
            running_requests=len(self._scheduler.running),
            running_sequences=len(self._rows),
            slots=self.slots,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            steps=self._steps,
            failed_steps=self._failed_steps,
            redrawn_sentences=self._redrawn_sentences,
            threads=self._decoder.threads,
            device=self._decoder.device,
            provider=self._decoder.provider,
        )

    def start(self, *, background: bool = True) -> None:
        """Warm every shape up, then take requests. Not in the background: the caller runs each ``step``."""
        self._warm(room=False)
        self._warm(room=True)
        self._warm(room=True, measure=True)  # predictions matter where there are several requests
        if background:
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
        """Queue a request. Raises InvalidRequest, InputTooLong, DeadlineExceeded, Overloaded or Unavailable."""
        self._check(request)
        generation = Generation(request, on_event)
        sampling = request.sampling
        if self._spelling is not None:
            generation.words = self._spelling.words_in(request.prompt)
        for candidate in generation.candidates:
            self._follow(candidate)
        if self._sentences is not None and sampling.redraws and sampling.temperature:
            given = self._sentences.given(request.prompt)
            for candidate in generation.candidates:
                candidate.draft = Draft(self._sentences, given, sampling.redraws, sampling.max_surprisal)
        self._scheduler.submit(generation)
        return generation

    def _follow(self, candidate: Candidate) -> None:
        """Set up what follows a candidate's text from its first token on."""
        request, words = candidate.generation.request, self._words
        sampling = request.sampling
        if sampling.no_repeat:
            candidate.runs = Runs(sampling.no_repeat, words)
        if request.words is not None and sampling.length_tolerance and words is not None:
            candidate.pace = Pace(request.words, sampling.length_tolerance, words)
        if self._characters is not None:
            candidate.characters = Characters(self._characters)
        if self._spelling is not None:
            candidate.speller = Speller(self._spelling, candidate.generation.words)

    def _check(self, request: GenerationRequest) -> None:
        if not 1 <= request.n <= self.slots:
            raise InvalidRequest(f"n must lie in 1-{self.slots}, got {request.n}", "n")
        if request.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, got {request.max_tokens}", "max_tokens")
        request.sampling.check()
        if request.words is not None and request.words < 1:
            raise InvalidRequest(f"the wanted length must be at least 1 word, got {request.words}", "words")
        if not request.prompt or not all(0 <= token < self._decoder.vocabulary for token in request.prompt):
            raise InvalidRequest("the prompt must be a list of the model's token ids", "input")
        if len(request.prompt) > self._decoder.capacity:
            limit = self._decoder.capacity
            raise InputTooLong(f"the prompt has {len(request.prompt)} tokens, the model takes {limit}")

    def _run(self) -> None:
        while not self._closing.is_set():
            self._heartbeat = self._clock()
            if not self._scheduler.wait(IDLE_S):
                continue
            try:
                self.step()
            except Exception as error:
                self._failed_steps += 1
                log.exception("an engine step failed")
                self._recover(error)
        self._rows.clear()
        self._reading = None
        for generation in self._scheduler.take_all():
            generation.deliver(
                Failed(Unavailable("the engine was closed before the request was done", RETRY_S))
            )

    def step(self) -> None:
        """One turn of the loop: drop what is over, read a piece of a prompt, decode a token for each row."""
        begun = self._clock()
        self._drop()
        self._decoder.make_room(self._scheduler.crowded)
        self._prefill(begun)
        if self._rows:
            rows = len(self._rows)
            self._decode()
            self._speed.turned(rows, self._clock() - begun)
        if self._freed:
            self._release_rows()
        self._steps += 1

    def _drop(self) -> None:
        for generation, error in self._scheduler.drop():
            generation.deliver(Failed(error))
            self._freed = True
            if generation is self._reading:
                self._reading = None
        if self._freed:
            self._release_rows()

    def _prefill(self, begun: float) -> None:
        """Read a piece, and more as long as the rows' pause since ``begun`` stays short."""
        speed = self._speed
        while self._reading is not None or self._admit():
            room_s = self._room_s(begun)
            self._read(speed.piece(room_s) if self._rows else self._decoder.pieces[-1])
            if self._freed:
                self._release_rows()
            if not self._rows or not self._scheduler.waiting:
                return
            if speed.piece_s(self._decoder.pieces[0]) > self._room_s(begun):
                return

    def _room_s(self, begun: float) -> float:
        """Seconds that prompts may still be read for before the rows have paused too long."""
        coming = self._scheduler.waiting_rows + (self._reading.request.n if self._reading else 0)
        heading_for = min(self.slots, len(self._rows) + coming)
        return self._speed.room_s(len(self._rows), heading_for) - (self._clock() - begun)

    def _admit(self) -> bool:
        self._reading = self._scheduler.admit(self.slots - len(self._rows))
        if self._reading is None:
            return False
        self._reading.started = self._clock()
        return True

    def _read(self, most: int) -> None:
        """Prefill the next piece of the prompt in progress; after the last one its candidates run."""
        generation, decoder = self._reading, self._decoder
        assert generation is not None
        prompt = generation.request.prompt
        if len(prompt) - generation.read == most + 1:
            most += 1  # a single token would take kernels that round otherwise
        piece = prompt[generation.read : generation.read + most]
        row = len(self._rows) if len(piece) == len(prompt) else decoder.staging
        begun = self._clock()
        top = decoder.prefill(row, piece, generation.read)
        self._speed.read(len(piece), self._clock() - begun)
        generation.read += len(piece)
        self._prompt_tokens += len(piece)
        if generation.read == len(prompt):
            self._reading = None
            self._join(generation, row, top)

    def _join(self, generation: Generation, row: int, top: Top) -> None:
        """Choose the first tokens and let the candidates run that go on."""
        n = generation.request.n
        shared = Top(np.repeat(top.logits, n, axis=0), np.repeat(top.ids, n, axis=0))
        generation.prefilled = self._clock()
        chooser = Chooser([generation.request.sampling] * n)
        self._deliver(generation.candidates, chooser, shared)
        for candidate in generation.candidates:
            if candidate.reason is None:
                target = len(self._rows)
                if target != row:
                    self._decoder.copy_row(row, target, generation.read)
                self._rows.append(candidate)
        self._chooser = None

    def _decode(self) -> None:
        rows = self._rows
        begun = self._clock()
        if self._chooser is None:
            self._chooser = Chooser([candidate.generation.request.sampling for candidate in rows])
        tokens = [candidate.newest for candidate in rows]
        lengths = [candidate.cached for candidate in rows]
        self._deliver(rows, self._chooser, self._decoder.decode(tokens, lengths))
        seconds = self._clock() - begun
        self._speed.decoded(len(rows), seconds)
        if self._on_step is not None:
            self._on_step(len(rows), seconds)

    def _deliver(self, candidates: list[Candidate], chooser: Chooser, top: Top) -> None:
        """Choose and hand out one token for each candidate; ``top`` has their rows in the same order."""
        draws: list[float] = []
        if not chooser.greedy:
            draws = [draw(candidate.stream, candidate.step) for candidate in candidates]
        end_id, capacity = self._end_id, self._decoder.capacity
        barred = [candidate.barred(end_id) for candidate in candidates]
        chosen = chooser.choose(top.logits, top.ids, draws, barred)
        # That a text may not end yet is no restriction: it goes on with another sentence.
        restricted = [len(gone) > 1 or (len(gone) == 1 and end_id not in gone) for gone in barred]
        for row, candidate in enumerate(candidates):
            if (said := candidate.said_again) is not None:
                chosen[row], restricted[row] = said, False
            elif candidate.speller is not None and not candidate.speller.allows(chosen[row]):
                chosen[row] = _respelt(candidate, candidate.speller, top, row, barred[row], chosen[row])
                restricted[row] = True
        watched = any(each.draft is not None and each.draft.max_surprisal for each in candidates)
        nats = surprisals(top.logits, top.ids, chosen, end_id) if watched else [0.0] * len(chosen)
        for row, (candidate, token) in enumerate(zip(candidates, chosen, strict=True)):
            if restricted[row] and self._is_dead_end(candidate, token, top, row):
                self._begin_anew(candidate)
                continue
            ends = token == end_id or (candidate.pace is not None and candidate.pace.must_end)
            if not ends:
                candidate.add(token, nats[row])
                self._generated_tokens += 1
            draft = candidate.draft
            if draft is not None:
                whole = ends or draft.ends_with(token)
                if whole and draft.refuses(
                    [*candidate.tokens[candidate.handed_out :], *([end_id] if token == end_id else ())]
                ):
                    self._begin_anew(candidate)
                    continue
            if draft is None or whole:
                candidate.hand_out()
            if ends:
                self._finish(candidate, "stop")
            elif (
                candidate.cached >= capacity
                or len(candidate.tokens) >= candidate.generation.request.max_tokens
            ):
                self._meet_limit(candidate)

    def _is_dead_end(self, candidate: Candidate, token: int, top: Top, row: int) -> bool:
        """Whether a sentence begins anew rather than going on with a token; the draft takes note of it."""
        draft = candidate.draft
        if draft is None or len(candidate.tokens) == candidate.handed_out:
            return False
        sampling = candidate.generation.request.sampling
        return is_unlikely(top.logits[row], top.ids[row], token, sampling, self._end_id) and draft.gives_up()

    def _begin_anew(self, candidate: Candidate) -> None:
        """Go back to the end of the sentence before; what comes behind it in the cache is written anew."""
        self._follow(candidate)
        candidate.withdraw()
        self._redrawn_sentences += 1

    def _meet_limit(self, candidate: Candidate) -> None:
        """End where no more fits: with the sentence before, if the text is long enough for what was asked for."""
        begun = candidate.tokens[candidate.handed_out :]
        if begun and candidate.draft is not None and candidate.pace is not None:
            self._follow(candidate)
            candidate.withdraw()
            if not candidate.pace.may_end:
                candidate.withdrawn -= len(begun)
                for token in begun:
                    candidate.add(token)
        candidate.hand_out()
        self._finish(candidate, "length")

    def _finish(self, candidate: Candidate, reason: FinishReason) -> None:
        generation = candidate.generation
        candidate.reason = reason
        self._freed = True
        generation.deliver(Finished(candidate.index, reason))
        if all(other.reason is not None for other in generation.candidates):
            self._scheduler.finished(generation)
            now = self._clock()
            waited, read = (
                generation.started - generation.submitted,
                generation.prefilled - generation.started,
            )
            generation.deliver(Done(Timing(waited, read, now - generation.prefilled)))

    def _release_rows(self) -> None:
        """Give back rows of candidates that are over; the last row takes the free place."""
        self._freed = False
        self._chooser = None
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
        self._reading = self._chooser = None
        self._scheduler.refuse("the engine failed and is recovering")
        for generation in self._scheduler.take_running():
            # An error each: callers raise them in their own threads.
            failure = EngineError("a step failed under this request")
            failure.__cause__ = cause
            generation.deliver(Failed(failure))
        while not self._closing.is_set():
            self._heartbeat = self._clock()
            try:
                for room in (False, True):
                    self._warm(room=room)
            except Exception:
                log.exception("the engine can't recover yet; next attempt in %s s", RETRY_S)
                for generation in self._scheduler.take_all():
                    generation.deliver(Failed(Unavailable("the engine failed and is recovering", RETRY_S)))
                self._closing.wait(RETRY_S)
            else:
                self._scheduler.open()
                return

    def _warm(self, *, room: bool, measure: bool = False) -> None:
        """Run each shape once, and tell the predictions how long it took; also the probe after a failure."""
        decoder = self._decoder
        decoder.make_room(room)
        longest = min(decoder.pieces[-1], decoder.capacity - 1)
        sizes = sorted({min(size, longest) for size in (1, 4, 8, *decoder.pieces)})
        for size in sizes:
            begun = self._clock()
            decoder.prefill(decoder.staging if size == longest else 0, [self._end_id] * size)
            if measure:
                self._speed.read(size, self._clock() - begun)
        for rows in range(1, decoder.slots + 1):
            begun = self._clock()
            decoder.decode([self._end_id] * rows, [1] * rows)
            if measure:
                self._speed.decoded(rows, self._clock() - begun)


def _respelt(
    candidate: Candidate, speller: Speller, top: Top, row: int, barred: Collection[int], first: int
) -> int:
    """The token of a row whose first choice led to a word that may not be written.

    Drawn anew from the others. Where none of them may be chosen, the word goes on as one that may be written; if none
    does, the first stays.
    """
    logits, ids = top.logits[row : row + 1], top.ids[row : row + 1]
    gone = {token for token in ids[0].tolist() if token in barred or not speller.allows(token)}
    if len(gone) == ids.shape[1]:
        found = speller.going_on()
        return first if found is None or found in barred else found
    again = draw(candidate.stream, candidate.step + SECOND_DRAWS)
    return Chooser([candidate.generation.request.sampling]).choose(logits, ids, [again], [gone])[0]
