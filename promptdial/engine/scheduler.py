"""Who runs next: policy only, no arrays and no ONNX.

First come, first served, ``max_running`` requests at a time, a bounded queue. A place in the queue is taken
under one lock, so that two callers can't both have the last one. Requests that were cancelled or whose
deadline passed are dropped at the next step, in the queue as well as in flight.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from promptdial.engine.request import Generation, Status
from promptdial.errors import Cancelled, DeadlineExceeded, Overloaded, PromptdialError, Unavailable

RETRY_S = 1.0  # when to come back to an engine that takes no requests
SMOOTHING = 0.2  # weight of the newest request in the running mean of service times


class Scheduler:
    """The queue and the list of running requests. ``submit`` may be called from any thread.

    ``queue_limit`` requests may wait besides the ``max_running`` that run, so 0 takes what can run at once.
    """

    def __init__(self, queue_limit: int, max_running: int = 1) -> None:
        self.queue_limit, self.max_running = queue_limit, max_running
        self.running: list[Generation] = []
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._refusal: str | None = "the engine is not started"
        self._closed = False
        self._service_s = 0.2  # running mean of a request's time in the engine

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def open(self) -> None:
        """Take requests from now on; without effect after ``close``."""
        with self._changed:
            if not self._closed:
                self._refusal = None

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
        """Queue a request. Raises Unavailable or Overloaded, which says when to come back."""
        with self._changed:
            if self._refusal is not None:
                raise Unavailable(self._refusal, retry_after_s=RETRY_S)
            # Running ones count too: a request waits for an instant even where it can run at once.
            admitted = len(self._waiting) + len(self.running)
            if admitted >= self.queue_limit + self.max_running:
                retry_after_s = self._service_s * (len(self._waiting) + 1) / self.max_running
                raise Overloaded(f"{admitted} requests are running or waiting already", retry_after_s)
            self._waiting.append(generation)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Sleep until there is something to do; False when the timeout passed without."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._waiting or self.running), timeout)

    def drop(self) -> list[tuple[Generation, PromptdialError]]:
        """Take out the requests that nobody waits for any more, with the reason for each."""
        now = time.monotonic()
        with self._changed:
            everything = (*self.running, *self._waiting)
            dropped = [(each, why) for each in everything if (why := _why_dropped(each, now)) is not None]
            gone = {id(generation) for generation, _ in dropped}
            self.running = [generation for generation in self.running if id(generation) not in gone]
            self._waiting = deque(generation for generation in self._waiting if id(generation) not in gone)
            return dropped

    def admit(self, free_rows: int) -> Generation | None:
        """The request to prefill in this step, if there is one that may run and that fits."""
        with self._changed:
            if not self._waiting or len(self.running) >= self.max_running:
                return None
            if self._waiting[0].request.n > free_rows:
                return None
            generation = self._waiting.popleft()
            generation.status = Status.RUNNING
            self.running.append(generation)
            return generation

    def finished(self, generation: Generation) -> None:
        """A running request is over."""
        with self._changed:
            self.running.remove(generation)
            spent = time.monotonic() - generation.started
            self._service_s += SMOOTHING * (spent - self._service_s)

    def take_all(self) -> list[Generation]:
        """Empty the queue and the running list, for a shutdown or after a failed step."""
        with self._changed:
            everything = [*self.running, *self._waiting]
            self.running = []
            self._waiting.clear()
            return everything

    def take_running(self) -> list[Generation]:
        """Empty the running list only."""
        with self._changed:
            running, self.running = self.running, []
            return running


def _why_dropped(generation: Generation, now: float) -> PromptdialError | None:
    if generation.cancelled:
        return Cancelled("the request was cancelled")
    deadline = generation.request.deadline
    if deadline is not None and now >= deadline:
        where = "in the queue" if generation.status is Status.WAITING else "while it was generated"
        return DeadlineExceeded(f"the request's deadline passed {where}")
    return None
