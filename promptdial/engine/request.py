"""What goes into the engine and what comes out: a request, its events, and the caller's handle."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from promptdial.engine.characters import Characters
from promptdial.engine.length import Pace
from promptdial.engine.phrases import Draft
from promptdial.engine.sampling import REDRAWN, Runs, Sampling, stream
from promptdial.engine.spelling import Speller
from promptdial.errors import PromptdialError

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """``n`` continuations of ``prompt`` (token ids). ``deadline`` is in seconds of ``time.monotonic()``.

    ``words`` is the length that is wanted, if one is; it is kept to as ``sampling.length_tolerance`` says.
    ``expected_tokens`` is how long a candidate will probably be, for predictions only; without it the engine
    goes by ``max_tokens`` and by how much of it other requests used.
    """

    prompt: tuple[int, ...]
    n: int = 1
    max_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    words: int | None = None
    deadline: float | None = None
    expected_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds in the queue, in prefill (until the first token was chosen) and in decoding."""

    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Token:
    """A candidate grew by one token; ``<end>`` is not delivered."""

    candidate: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A candidate is complete: it ended itself, or it met ``max_tokens`` or the last position."""

    candidate: int
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Done:
    """All candidates are complete. Last event of a request."""

    timing: Timing


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was given up: cancelled, past its deadline, or a step failed. Last event of a request."""

    error: PromptdialError


Event = Token | Finished | Done | Failed


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Token ids and finish reason of each candidate, in their order."""

    candidates: list[tuple[list[int], FinishReason]]
    timing: Timing


class Status(enum.Enum):
    """Where a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


class Candidate:
    """One sequence of a request; while it runs it occupies one row of the cache."""

    __slots__ = (
        "cached", "characters", "draft", "generation", "handed_out", "index", "pace", "reason", "runs",
        "speller", "stream", "tokens", "withdrawn",
    )  # fmt: skip

    def __init__(self, generation: Generation, index: int) -> None:
        self.generation, self.index = generation, index
        self.stream = stream(generation.request.seed, index)
        self.tokens: list[int] = []
        self.cached = (
            len(generation.request.prompt) - 1
        )  # all tokens but the newest, which the next step reads
        self.reason: FinishReason | None = None
        # Set by the engine, which knows the vocabulary:
        self.runs: Runs | None = None
        self.pace: Pace | None = None
        self.characters: Characters | None = None
        self.speller: Speller | None = None
        self.draft: Draft | None = None
        self.handed_out = 0  # tokens that the caller has been told of
        self.withdrawn = 0  # tokens of sentences that were drawn anew

    @property
    def newest(self) -> int:
        """The token that the next step reads."""
        return self.tokens[-1] if self.tokens else self.generation.request.prompt[-1]

    @property
    def step(self) -> int:
        """The number of its next draw, another one for what is drawn anew."""
        return len(self.tokens) + (REDRAWN * self.draft.number if self.draft is not None else 0)

    @property
    def said_again(self) -> int | None:
        """Its next token, if that is settled."""
        return None if self.draft is None else self.draft.goes_on(len(self.tokens) - self.handed_out)

    def add(self, token: int, nats: float = 0.0) -> None:
        """Grow by a token; ``nats`` is how unlikely it was."""
        self.tokens.append(token)
        self.cached += 1
        if self.draft is not None:
            self.draft.adds(nats)
        self._note(token)

    def hand_out(self) -> None:
        """Tell the caller of the tokens that it doesn't know of."""
        for token in self.tokens[self.handed_out :]:
            self.generation.deliver_token(self.index, token)
        self.handed_out = len(self.tokens)

    def withdraw(self) -> None:
        """Go back to what was handed out; the engine has set up anew what follows the text."""
        self.withdrawn += len(self.tokens) - self.handed_out
        del self.tokens[self.handed_out :]
        self.cached = len(self.generation.request.prompt) - 1 + len(self.tokens)
        for token in self.tokens:
            self._note(token)

    def _note(self, token: int) -> None:
        if self.runs is not None:
            self.runs.add(token)
        if self.pace is not None:
            self.pace.add(token)
        if self.characters is not None:
            self.characters.add(token)
        if self.speller is not None:
            self.speller.add(token)

    def barred(self, end_id: int) -> Collection[int]:
        """Token ids that must not be chosen next."""
        if self.characters is not None and (outside := self.characters.barred):
            return outside
        barred: Collection[int] = () if self.runs is None else self.runs.barred
        if self.pace is not None and not self.pace.may_end:
            return {end_id, *barred}
        return barred


class Generation:
    """The handle of a submitted request. Events come from the engine's thread, in order, and end with one of
    ``Done`` and ``Failed``; ``on_event`` has to be quick, since every row waits for it.
    """

    def __init__(self, request: GenerationRequest, on_event: Callable[[Event], None] | None = None) -> None:
        self.request = request
        self.status = Status.WAITING
        self.candidates = [Candidate(self, index) for index in range(request.n)]
        self.words: Sequence[str] = ()  # of the input; may be written, besides those of the bundle's list
        self.read = 0  # tokens of the prompt in the cache
        self.in_company = False  # whether others were there when it was predicted to meet its deadline
        self.submitted = time.monotonic()
        self.started = self.prefilled = self.submitted
        self.on_cancel: Callable[[], None] | None = None  # set by the scheduler
        self._on_event = on_event
        self._over = threading.Event()
        self._cancelled = False
        self._timing: Timing | None = None
        self._error: PromptdialError | None = None

    def cancel(self) -> None:
        """Give the request up; from any thread, at any time. Its rows are free at the next step."""
        self._cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up."""
        return self._cancelled

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end. Raises what made the request fail, or TimeoutError."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"no result within {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._timing is not None
        done = [(row.tokens, row.reason) for row in self.candidates if row.reason is not None]
        return GenerationResult(list(done), self._timing)

    def deliver(self, event: Event) -> None:
        """Called by the engine. A listener that raises has gone away: the request is cancelled."""
        if self.status is Status.OVER:
            return
        if isinstance(event, Done | Failed):
            self.status = Status.OVER
            self._timing = event.timing if isinstance(event, Done) else None
            self._error = event.error if isinstance(event, Failed) else None
        self._tell(event)
        if self.status is Status.OVER:
            self._over.set()

    def deliver_token(self, candidate: int, token_id: int) -> None:
        """``deliver`` of a ``Token``, which every row does in every step."""
        if self._on_event is not None and self.status is not Status.OVER:
            self._tell(Token(candidate, token_id))

    def _tell(self, event: Event) -> None:
        try:
            if self._on_event is not None:
                self._on_event(event)
        except Exception:
            log.exception("a listener failed; its request is cancelled")
            self.cancel()
