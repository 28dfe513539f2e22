"""How long requests will take: the measured speed of steps, and a forecast of the queue by it. No arrays, no locks.

``Speed`` learns from every step. ``Forecast`` plays the loop forward over counts of tokens: one piece of a prompt
and one decode step of all rows in each turn, first in order first served.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from copy import copy
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
        self.draws = 1.0  # of tokens for each that stays: sentences that don't hold together are drawn anew

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

    def chunk(self, rows: int, slots: int) -> int:
        """Tokens of a prompt that are read at once while ``rows`` decode."""
        return self.piece(self.room_s(rows, min(rows + 1, slots))) if rows else self._sizes[-1]

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

    def drew(self, tokens: int, withdrawn: int) -> None:
        """Learn from a candidate of so many tokens how many others were drawn for them."""
        if tokens:
            self.draws = _mean(self.draws, (tokens + withdrawn) / tokens, REQUEST_WEIGHT)


def _bucket(tokens: int) -> int:
    """Pieces of 1 to 16 tokens, 17 to 32, ..."""
    return -(-tokens // BUCKET)


def _mean(mean: float, newest: float, weight: float = STEP_WEIGHT) -> float:
    if mean == 0.0:
        return newest
    return mean + weight * (min(newest, OUTLIER * mean) - mean)


class Work(NamedTuple):
    """What is left of a request: ``prompt`` tokens to read, then ``tokens`` for each of ``rows`` candidates.

    It comes only in ``delay_s`` seconds. A tuple, since an admission makes eighty.
    """

    prompt: int
    rows: int
    tokens: int
    delay_s: float = 0.0


class Forecast:
    """The loop played forward from now, at 0 s, with the speeds of that moment, until all prompts are read.

    From there ``after`` goes on with others behind, and ``finish_s`` to the end: one admission asks several times what
    would be if, and has up to eighty requests in front of each question.
    """

    def __init__(self, speed: Speed, slots: int, max_running: int, works: Sequence[Work]) -> None:
        """``works`` are served in their order, those with nothing to read run already."""
        self.works: list[Work] = []
        self._speed, self._slots, self._max_running = speed, slots, max_running
        self._steps = [speed.step_s(rows) for rows in range(slots + 1)]
        self._chunks: dict[int, tuple[int, float]] = {}  # by rows: tokens read at once, and their seconds
        self._now, self._turn, self._rows = 0.0, 0, 0
        self._ends: list[tuple[int, int, int]] = []  # heap of (turn, index, rows)
        self._finish: list[float] = []  # seconds until each is done, as far as that has been played
        self._play(works)

    def after(self, *works: Work) -> Forecast:
        """What follows with these behind the others."""
        more = copy(self)
        more.works, more._ends, more._finish = self.works[:], self._ends[:], self._finish[:]
        more._play(works)
        return more

    def finish_s(self, *, busy: bool) -> list[float]:
        """Seconds until each is done.

        ``busy``: requests are expected to keep coming, so the last ones won't have the engine to themselves.
        """
        finish, now, turn, rows = self._finish[:], self._now, self._turn, self._rows
        least_turn_s = self._speed.turn_s if busy else 0.0
        for end, index, freed in sorted(self._ends):
            now += (end - turn) * max(self._steps[rows], least_turn_s)
            turn, rows = end, rows - freed
            finish[index] = now
        return finish

    def _play(self, works: Sequence[Work]) -> None:
        """Until the last of them has been read."""
        self.works += works
        steps, slots, ends, finish = self._steps, self._slots, self._ends, self._finish
        now, turn, rows = self._now, self._turn, self._rows

        def to_next_end(turn_s: float) -> None:
            nonlocal now, turn, rows
            end, index, freed = heapq.heappop(ends)
            now += (end - turn) * turn_s
            turn, rows = end, rows - freed
            finish[index] = now

        for work in works:
            if work.prompt > 0:
                while ends and (rows + work.rows > slots or len(ends) >= self._max_running):
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
            heapq.heappush(ends, (turn + work.tokens, len(finish), work.rows))
            finish.append(0.0)
        self._now, self._turn, self._rows = now, turn, rows

    def _reading(self, tokens: int, rows: int) -> tuple[int, float]:
        """Pieces of a prompt, or of what is left of it, and seconds of each, while ``rows`` decode."""
        known = self._chunks.get(rows)
        if known is None:
            chunk = self._speed.chunk(rows, self._slots)
            known = self._chunks[rows] = chunk, self._speed.piece_s(chunk)
        chunk, chunk_s = known
        whole, rest = divmod(tokens, chunk)
        if not rest:
            return whole, chunk_s
        return whole + 1, (whole * chunk_s + self._speed.piece_s(rest)) / (whole + 1)
