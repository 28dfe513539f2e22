"""A decoder with the cache of the real one and a model that is a hash, on a clock of its own.

The next token is a hash of all that a row of the cache holds, so that a row that was moved wrongly, or written into
by another, changes the text. A prompt's first token says how many tokens follow it. Steps cost virtual time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptdial.engine import Engine, GenerationRequest, Sampling
from promptdial.engine.cached import Top

END = 2
SPARE = 3  # 4 and up are for texts
GREEDY = Sampling(temperature=0.0)


class ToyDecoder:
    """Seconds: a piece of a prompt ``piece_s`` a token, a step ``step_s`` and ``row_s`` a row."""

    def __init__(
        self, slots: int = 16, capacity: int = 512, pieces: tuple[int, ...] = (8,), row_s: float = 0.0004
    ) -> None:
        self.slots, self.capacity, self.vocabulary = slots, capacity, 600
        self.pieces = pieces
        self.threads, self.device, self.provider = 1, "cpu", "CPUExecutionProvider"
        self.staging = slots + slots % 2
        self.now, self.piece_s, self.step_s, self.row_s = 0.0, 0.0002, 0.003, row_s
        self.log: list[tuple[str, int]] = []  # ("piece", tokens) and ("step", rows), in order
        self._cells = np.zeros((self.staging + 1, capacity), np.int64)

    def clock(self) -> float:
        return self.now

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top:
        assert 0 < len(tokens) <= self.pieces[-1] + 1
        self._cells[row, past : past + len(tokens)] = tokens
        self._spend("piece", len(tokens), self.piece_s * len(tokens))
        return self._top([row], [past + len(tokens)])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top:
        rows = len(tokens)
        for row in range(rows):
            self._cells[row, lengths[row]] = tokens[row]
        if rows % 2:
            self._cells[rows, 0] = SPARE  # the idle row of the last pair
        self._spend("step", rows, self.step_s + self.row_s * rows)
        return self._top(range(rows), [length + 1 for length in lengths])

    def make_room(self, room: bool) -> None:
        """Nothing: it has no threads."""

    def copy_row(self, source: int, target: int, length: int) -> None:
        self._cells[target, :length] = self._cells[source, :length]

    def _spend(self, what: str, count: int, seconds: float) -> None:
        self.log.append((what, count))
        self.now += seconds

    def _top(self, rows: Sequence[int], lengths: Sequence[int]) -> Top:
        ids = np.array(
            [
                [toy_token(self._cells[row, :length].tolist())]
                for row, length in zip(rows, lengths, strict=True)
            ]
        )
        return Top(np.zeros(ids.shape, np.float32), ids)


def toy_token(held: list[int]) -> int:
    """What follows all of these tokens. The prompt's length is its second token."""
    wanted, prompt = [*held, 0][:2]
    return END if len(held) - prompt >= wanted else 4 + hash(tuple(held)) % 500


def toy_prompt(tokens: int, length: int, filler: int = 5) -> tuple[int, ...]:
    """A prompt of ``length`` tokens whose text has ``tokens``."""
    return (tokens, length, *[filler] * (length - 2))


def toy_text(prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """What the toy model says after a prompt, without an engine."""
    held = list(prompt)
    while len(held) - len(prompt) < max_tokens and (token := toy_token(held)) != END:
        held.append(token)
    return held[len(prompt) :]


def toy_engine(
    decoder: ToyDecoder, queue_limit: int = 64, max_running: int | None = None, pause: float = 2.0
) -> Engine:
    """An engine whose steps the test makes, in virtual time."""
    engine = Engine(
        decoder, END, queue_limit=queue_limit, max_running=max_running, pause=pause, clock=decoder.clock
    )
    engine.start(background=False)
    decoder.log.clear()
    return engine


def toy_request(tokens: int, length: int = 6, **more: object) -> GenerationRequest:
    """A greedy request for ``tokens`` tokens, whose length is known in advance."""
    return GenerationRequest(
        toy_prompt(tokens, length),
        **{"max_tokens": 200, "sampling": GREEDY, "expected_tokens": tokens, **more},  # type: ignore[arg-type]
    )
