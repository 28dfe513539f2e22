"""Who runs next, and who is let in: policy only, no arrays and no ONNX.

Order: earliest deadline first, where a request counts as due ``AGEING_S`` after it came at the latest, also one
without a deadline. So nothing that comes more than ``AGEING_S`` later can overtake it, and neither short nor long
ones wait for ever. The first in order waits until it fits, with all of its candidates, and the others wait behind
it, so that single ones can't keep a request for many candidates out.

Admission: a place in the queue is taken under one lock, so that two callers can't both have the last one. A request
that is predicted to miss its deadline, given what runs and what comes before it, is refused at once, with the time
after which it would be taken. Predictions err, and what misses its deadline was work for nothing, so a prediction may
take only a share of the time that there is, which follows how many were missed. Who comes again when it was told is
exempt: the time that it was told was a careful one (promises.py). Requests that were cancelled or whose deadline passed
are dropped at the next step, in the queue as well as in flight.
"""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

from promptdial.engine.estimate import Forecast, Speed, Work
from promptdial.engine.promises import Promise, Promises
from promptdial.engine.request import Generation, Status
from promptdial.errors import Cancelled, DeadlineExceeded, Overloaded, PromptdialError, Unavailable

RETRY_S = 1.0  # when to come back to an engine that takes no requests
AGEING_S = 5.0
DOUBT = 1.5  # an idle engine refuses only what is predicted to take this many times the time it has
TRIAL = 5.0  # the same where nothing has ended for STALE_S: only work shows whether its speed is still known
STALE_S = 1.0
OVERDUE = 0.1  # what is left, as a share of the expected length, of a candidate that has passed it
FIRST = 0.8  # the first of several uncertain ends comes about that much sooner than the soonest expected one
ATTEMPTS = 6  # at finding out when to come back
PROMISED = 0.92  # the share of its time that a request is predicted to take when it comes again, at most
SOON_S = 0.05  # when to come back at the earliest, where it is another's turn
MISSES = 0.01  # the share of requests admitted while others were there that may miss their deadline
CAUTION = 0.02  # by which one miss lowers the share of its time that a prediction may take
LEAST_SHARE = 0.5  # that caution leaves

# When it is due, a number that tells equals apart, the request, and what predictions took it for when it came; None
# where that follows what others use.
Entry = tuple[float, int, Generation, Work | None]


class Scheduler:
    """The queue and the list of running requests. ``submit`` may be called from any thread.

    ``queue_limit`` requests may wait besides the ``max_running`` that run, so 0 takes what can run at once.
    """

    def __init__(
        self,
        queue_limit: int,
        max_running: int,
        slots: int,
        speed: Speed,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue_limit, self.max_running, self.slots = queue_limit, max_running, slots
        self.speed, self.clock = speed, clock
        self.running: list[Generation] = []
        self._waiting: list[Entry] = []  # in order
        self._numbers = count()
        self._changed = threading.Condition()
        self._refusal: str | None = "the engine is not started"
        self._closed = False
        self._cancelled = False  # whether some request was, since the last drop
        self._next_deadline = math.inf
        self._last_end = -math.inf  # of a request that ran, or of the warm-up
        self._promises = Promises()
        # Of the time it has that a request may be predicted to take, where there are others.
        self._share = 1.0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def crowded(self) -> bool:
        """Whether there is more than one request."""
        return len(self.running) + len(self._waiting) > 1

    @property
    def _busy(self) -> bool:
        """Whether forecasts reckon with others to come: requests wait already."""
        return bool(self._waiting)

    @property
    def waiting_rows(self) -> int:
        """Candidates of the requests in the queue."""
        with self._changed:
            return sum(entry[2].request.n for entry in self._waiting)

    def open(self) -> None:
        """Take requests from now on; without effect after ``close``."""
        with self._changed:
            if not self._closed:
                self._refusal = None
                self._last_end = self.clock()

    def refuse(self, reason: str) -> None:
        """Take no more requests; what is queued or running stays."""
        with self._changed:
            if not self._closed:
                self._refusal = reason
                self._changed.notify_all()

    def close(self, reason: str) -> None:
        """``refuse`` for good: nothing opens the scheduler again."""
        with self._changed:
            self._closed, self._refusal = True, reason
            self._changed.notify_all()

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self._refusal is None

    def submit(self, generation: Generation) -> None:
        """Queue a request. Raises Unavailable, DeadlineExceeded, or Overloaded, which says when to come back."""
        with self._changed:
            if self._refusal is not None:
                raise Unavailable(self._refusal, retry_after_s=RETRY_S)
            now = generation.submitted = self.clock()
            deadline = generation.request.deadline
            if deadline is not None and now >= deadline:
                raise DeadlineExceeded("the request's deadline had passed when it came")
            self._check_room(generation, now)
            generation.on_cancel = self._note_cancelled
            work = self._work(generation) if generation.request.expected_tokens else None
            bisect.insort(self._waiting, (self._due(generation, now), next(self._numbers), generation, work))
            if deadline is not None:
                self._next_deadline = min(self._next_deadline, deadline)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Sleep until there is something to do; False when the timeout passed without."""
        if self.running or self._waiting:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._waiting or self.running), timeout)

    def drop(self) -> list[tuple[Generation, PromptdialError]]:
        """Take out the requests that nobody waits for any more, with the reason for each."""
        now = self.clock()
        if not self._cancelled and now < self._next_deadline:
            return []
        with self._changed:
            self._cancelled = False
            if self.running:
                self._last_end = now
            everything = (*self.running, *(entry[2] for entry in self._waiting))
            dropped = [(each, why) for each in everything if (why := _why_dropped(each, now)) is not None]
            for generation, _ in dropped:
                if now >= _deadline(generation):  # also if the caller was the first to see that
                    self._learn(generation, missed=True)
            gone = {id(generation) for generation, _ in dropped}
            kept = [generation for generation in everything if id(generation) not in gone]
            self.running = [generation for generation in kept if generation.status is Status.RUNNING]
            self._waiting = [entry for entry in self._waiting if id(entry[2]) not in gone]
            self._next_deadline = min((_deadline(generation) for generation in kept), default=math.inf)
            return dropped

    def admit(self, free_rows: int) -> Generation | None:
        """The request to prefill next: the first in order, if it may run and fits."""
        if not self._waiting:
            return None
        with self._changed:
            if not self._waiting or len(self.running) >= self.max_running:
                return None
            if self._waiting[0][2].request.n > free_rows:
                return None
            generation = self._waiting.pop(0)[2]
            generation.status = Status.RUNNING
            self.running.append(generation)
            return generation

    def finished(self, generation: Generation) -> None:
        """A running request is over."""
        with self._changed:
            self.running.remove(generation)
            self._last_end = self.clock()
            self._learn(generation, missed=self._last_end >= _deadline(generation))
            for candidate in generation.candidates:
                if candidate.draft is not None:
                    self.speed.drew(len(candidate.tokens), candidate.withdrawn)
                if generation.request.expected_tokens is None:
                    self.speed.ended(len(candidate.tokens), generation.request.max_tokens)

    def take_all(self) -> list[Generation]:
        """Empty the queue and the running list, for a shutdown or after a failed step."""
        with self._changed:
            everything = [*self.running, *(entry[2] for entry in self._waiting)]
            self.running = []
            self._waiting.clear()
            return everything

    def take_running(self) -> list[Generation]:
        """Empty the running list only."""
        with self._changed:
            running, self.running = self.running, []
            return running

    def _learn(self, generation: Generation, *, missed: bool) -> None:
        """Let later predictions take less of a deadline after a miss, and a little more after an answer in time."""
        if generation.in_company:
            change = CAUTION * (MISSES - 1 if missed else MISSES)
            self._share = min(1.0, max(LEAST_SHARE, self._share + change))

    def _note_cancelled(self) -> None:
        self._cancelled = True

    @staticmethod
    def _due(generation: Generation, now: float) -> float:
        return min(_deadline(generation), now + AGEING_S)

    def _check_room(self, generation: Generation, now: float) -> None:
        """Raise Overloaded if there is no place, or if the deadline would be missed."""
        # Running ones count too: a request waits for an instant even where it can run at once.
        admitted = len(self._waiting) + len(self.running)
        excess = admitted + 1 - self.queue_limit - self.max_running
        available_s = _deadline(generation) - now
        doubt = DOUBT if admitted or now - self._last_end < STALE_S else TRIAL
        told = self._promises.find(generation, now)
        # Who comes when it was told is taken if its deadline can be met at all: caution has been paid for by waiting.
        due = told is not None and now >= told.start
        first = None  # whose turn it is, if not this one's
        if excess <= 0 and available_s == math.inf:
            return
        forecast = self._forecast(self._works())  # of the others; played once, for there may be eighty
        if excess <= 0:
            needed_s = self._needed_s(forecast, generation, now, busy=self._busy and not due)
            share = doubt if not admitted else 1.0 if due else self._share
            if needed_s <= available_s * share:
                if admitted:
                    first = self._broken_by(forecast, generation, now)
                if first is None:
                    self._promises.keep(generation)
                    generation.in_company = bool(admitted) and not due
                    return
        (alone_s,) = self._forecast([self._work(generation)]).finish_s(busy=False)
        if alone_s > available_s * doubt:
            raise Overloaded(
                f"the request is predicted to take {alone_s:.2f} s on an idle engine, and its deadline leaves "
                f"{available_s:.2f} s: ask for fewer tokens or give it more time"
            )
        if told is not None and now < told.start:
            retry_after_s = told.at - now  # it is early: what it was told still holds
        else:
            retry_after_s = self._place_s(forecast, excess, now) if excess > 0 else 0.0
            if first is not None:
                retry_after_s = max(SOON_S, first.at - now)
            elif available_s < math.inf:
                promised_s = available_s * min(self._share, PROMISED)
                retry_after_s = self._in_time_s(forecast, generation, now, retry_after_s, promised_s)
            self._promises.make(generation, available_s, now, retry_after_s)
        if excess > 0:
            raise Overloaded(f"{admitted} requests are running or waiting already", retry_after_s)
        if first is not None:
            raise Overloaded("a request that was refused before comes first", retry_after_s)
        raise Overloaded(
            f"the request would take {needed_s:.2f} s, behind {admitted} others, and its deadline leaves "
            f"{available_s:.2f} s",
            retry_after_s,
        )

    def _broken_by(self, forecast: Forecast, generation: Generation, now: float) -> Promise | None:
        """A promise that goes before this request, and that would be broken if it were taken."""
        ahead = self._promises.ahead_of(generation, now)
        if not ahead:
            return None
        own = self._work(generation)
        for promise in ahead:
            delay_s = max(0.0, promise.at - now)
            behind = forecast.after(own, self._work(promise.generation, delay_s))
            needed_s = behind.finish_s(busy=self._busy)[-1] - delay_s
            if needed_s > promise.available_s * self._share:
                return promise
        return None

    def _place_s(self, forecast: Forecast, excess: int, now: float) -> float:
        """Seconds until so many requests are over."""
        finish = forecast.finish_s(busy=self._busy)
        # What misses its deadline is dropped then, which frees a place too.
        over = [min(end, _deadline(each) - now) for each, end in zip(self._order(), finish, strict=True)]
        return FIRST * sorted(over)[excess - 1]

    def _needed_s(
        self,
        forecast: Forecast,
        generation: Generation,
        now: float,
        delay_s: float = 0.0,
        *,
        busy: bool,
    ) -> float:
        """Seconds from a submission in ``delay_s`` to the request's end, if nothing else came until then.

        ``busy``: as in ``Forecast.finish_s``, from then on.
        """
        due, work = self._due(generation, now) + delay_s, self._work(generation, delay_s)
        if not self._waiting or self._waiting[-1][0] <= due:  # behind all others, as mostly
            return forecast.after(work).finish_s(busy=busy)[-1] - delay_s
        place = len(self.running) + bisect.bisect(self._waiting, due, key=lambda entry: entry[0])
        works = [*forecast.works[:place], work, *forecast.works[place:]]
        return self._forecast(works).finish_s(busy=busy)[place] - delay_s

    def _forecast(self, works: Sequence[Work]) -> Forecast:
        return Forecast(self.speed, self.slots, self.max_running, works)

    def _in_time_s(
        self,
        forecast: Forecast,
        generation: Generation,
        now: float,
        start_s: float,
        available_s: float,
    ) -> float:
        """Seconds until the request would meet its deadline, if it came again then with as much time.

        What it is late by at a moment is what it has to wait from there at the least; when all the others are done,
        it is tried in any case.
        """
        idle_s = max(forecast.finish_s(busy=False), default=0.0)
        retry_after_s = start_s
        for _ in range(ATTEMPTS):
            needed_s = self._needed_s(forecast, generation, now, retry_after_s, busy=self._busy)
            late_s = needed_s - available_s
            if late_s <= 0.001 or retry_after_s >= idle_s:
                break
            retry_after_s = min(retry_after_s + late_s, idle_s)
        return retry_after_s

    def _order(self) -> list[Generation]:
        """Running ones, the one being read last, then those that wait."""
        return [*self._running_in_order(), *(entry[2] for entry in self._waiting)]

    def _running_in_order(self) -> list[Generation]:
        return sorted(self.running, key=lambda generation: generation.read < len(generation.request.prompt))

    def _works(self) -> list[Work]:
        """What is left of all of them, in that order."""
        waiting = (work or self._work(generation) for _, _, generation, work in self._waiting)
        return [*map(self._work, self._running_in_order()), *waiting]

    def _work(self, generation: Generation, delay_s: float = 0.0) -> Work:
        request = generation.request
        rows, done = request.n, 0
        if generation.read:
            left = [len(candidate.tokens) for candidate in generation.candidates if candidate.reason is None]
            rows, done = len(left), max(left, default=0)
        expected = request.expected_tokens or self.speed.share * request.max_tokens
        tokens = min(max(expected - done, OVERDUE * expected), request.max_tokens - done)
        draws = 1.0 if generation.candidates[0].draft is None else self.speed.draws
        return Work(
            prompt=len(request.prompt) - generation.read,
            rows=rows,
            tokens=max(1, round(draws * tokens)),
            delay_s=delay_s,
        )


def _deadline(generation: Generation) -> float:
    deadline = generation.request.deadline
    return math.inf if deadline is None else deadline


def _why_dropped(generation: Generation, now: float) -> PromptdialError | None:
    if generation.cancelled:
        return Cancelled("the request was cancelled")
    if now >= _deadline(generation):
        where = "in the queue" if generation.status is Status.WAITING else "while it was generated"
        return DeadlineExceeded(f"the request's deadline passed {where}")
    return None
