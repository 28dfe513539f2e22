"""How long requests will take: the measured speed of steps, and a forecast of the queue by it. No arrays, no locks.

``Speed`` learns from every step. ``Forecast`` plays the loop forward over counts of tokens: one piece of a prompt
and one decode step of all rows in each turn, first in order first served.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

STEP_WEIGHT = 0.05  # of the newest measurement in a running mean; there are hundreds a second
TURN_WEIGHT = 0.02  # the same of turns
REQUEST_WEIGHT = 0.1
BUCKET = 16  # tokens: pieces that fill as many of these take about as long
OUTLIER = 3.0  # times the mean is the most that a measurement counts: one stall says little about the next


class Speed:
    """Seconds of decode steps by number of rows and of prefills by number of tokens, as running means."""

    def __init__(self, slots: int, pieces: Sequence[int], pause: float) -> None:
        """``pieces``: the sizes that a prompt may be cut into, in rising order.

        ``pause``: the longest that prompts are read between two steps, in steps of the batch to come.
        """
        self._sizes, self._pause = pieces, pause
        self._steps = [0.0] * (slots + 1)
        self._pieces = [0.0] * (_bucket(pieces[-1] + 1) + 1)
        self.turn_s = 0.0  # of a whole turn with rows, with whatever prompts were read in it
        self.share = 1.0  # of their max_tokens that requests without an expectation used

    def step_s(self, rows: int) -> float:
        """Seconds of a decode step."""
        return self._steps[rows]

    def piece_s(self, tokens: int) -> float:
        """Seconds of the prefill of one piece, of at most a chunk of tokens."""
        return self._pieces[_bucket(tokens)]

    def room_s(self, rows: int, heading_for: int) -> float:
        """Seconds that prompts may be read for before a step of ``rows``, on the way to a batch of more."""
        return self._pause * self.step_s(heading_for) - self.step_s(rows)

    def piece(self, room_s: float) -> int:
        """The largest piece that is read in so many seconds, or the smallest there is."""
        return next((size for size in reversed(self._sizes) if self.piece_s(size) <= room_s), self._sizes[0])

    def prompt_s(self, tokens: int, rows: int, slots: int) -> tuple[int, float]:
        """Pieces and seconds of the prefill of a prompt, or of what is left of it, while ``rows`` decode."""
        chunk = self.piece(self.room_s(rows, min(rows + 1, slots))) if rows else self._sizes[-1]
        whole, rest = divmod(tokens, chunk)
        seconds = whole * self.piece_s(chunk) + (self.piece_s(rest) if rest else 0.0)
        return whole + (rest > 0), seconds

    def decoded(self, rows: int, seconds: float) -> None:
        """Learn from a decode step."""
        self._steps[rows] = _mean(self._steps[rows], seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """Learn from the prefill of one piece."""
        bucket = _bucket(tokens)
        self._pieces[bucket] = _mean(self._pieces[bucket], seconds)

    def turned(self, rows: int, seconds: float) -> None:
        """Learn from a turn of the loop, slowly: those at the beginning of a burst read many prompts, and are few."""
        self.turn_s = _mean(self.turn_s or self.step_s(rows), seconds, TURN_WEIGHT)

    def ended(self, tokens: int, max_tokens: int) -> None:
        """Learn from a candidate of a request that said only its bound."""
        self.share += REQUEST_WEIGHT * (tokens / max_tokens - self.share)


def _bucket(tokens: int) -> int:
    """Pieces of 1 to 16 tokens, 17 to 32, ..."""
    return -(-tokens // BUCKET)


def _mean(mean: float, seconds: float, weight: float = STEP_WEIGHT) -> float:
    if mean == 0.0:
        return seconds
    return mean + weight * (min(seconds, OUTLIER * mean) - mean)


class Work(NamedTuple):
    """What is left of a request: ``prompt`` tokens to read, then ``tokens`` for each of ``rows`` candidates.

    It comes only in ``delay_s`` seconds. A tuple, since an admission makes eighty.
    """

    prompt: int
    rows: int
    tokens: int
    delay_s: float = 0.0


class Forecast:
    """The loop played forward from now, at 0 s, with the speeds of that moment.

    It is made for one admission and plays several queues: a refusal takes up to nine, of eighty requests each.
    """

    def __init__(self, speed: Speed, slots: int, max_running: int) -> None:
        self._speed, self._slots, self._max_running = speed, slots, max_running
        self._steps = [speed.step_s(rows) for rows in range(slots + 1)]
        # By tokens and rows: pieces, and seconds of each.
        self._readings: dict[tuple[int, int], tuple[int, float]] = {}

    def finish_s(self, works: Sequence[Work], *, busy: bool) -> list[float]:
        """Seconds until each is done; they are served in their order, those with nothing to read run already.

        ``busy``: requests are expected to keep coming, so the last ones won't have the engine to themselves.
        """
        steps = self._steps
        finish = [0.0] * len(works)
        ends: list[tuple[int, int, int]] = []  # heap of (turn, index, rows)
        now, turn, rows = 0.0, 0, 0

        def to_next_end(turn_s: float) -> None:
            nonlocal now, turn, rows
            end, index, freed = heapq.heappop(ends)
            now += (end - turn) * turn_s
            turn, rows = end, rows - freed
            finish[index] = now

        for index, work in enumerate(works):
            if work.prompt > 0:
                while ends and (rows + work.rows > self._slots or len(ends) >= self._max_running):
                    to_next_end(steps[rows])
                while ends and now < work.delay_s:  # until it comes
                    turns = math.ceil((work.delay_s - now) / steps[rows]) if steps[rows] > 0 else 0
                    if 0 < turns < ends[0][0] - turn:
                        now, turn = now + turns * steps[rows], turn + turns
                    else:
                        to_next_end(steps[rows])
                now = max(now, work.delay_s)
                pieces, piece_s = self._reading(work.prompt, rows)  # one a turn; what runs goes on beside it
                last = turn + pieces
                while ends and ends[0][0] <= last:
                    to_next_end(steps[rows] + piece_s)
                now, turn = now + (last - turn) * (steps[rows] + piece_s), last
            rows += work.rows
            heapq.heappush(ends, (turn + work.tokens, index, work.rows))
        least_turn_s = self._speed.turn_s if busy else 0.0
        while ends:
            to_next_end(max(steps[rows], least_turn_s))
        return finish

    def _reading(self, tokens: int, rows: int) -> tuple[int, float]:
        """Pieces of a prompt, and seconds of each."""
        known = self._readings.get((tokens, rows))
        if known is None:
            pieces, seconds = self._speed.prompt_s(tokens, rows, self._slots)
            known = self._readings[tokens, rows] = pieces, seconds / pieces
        return known
