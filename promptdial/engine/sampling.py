"""Choosing the next token from the top logits of each row, with draws that belong to the row alone.

A draw is a pure function of (seed, candidate, step): a hash, no generator with a state. So a candidate's
text is the same alone and in any batch, as long as its logits are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from promptdial.engine.length import Words
from promptdial.errors import InvalidRequest

MASK = (1 << 64) - 1
STRIDE = 0x9E3779B97F4A7C15
MAX_TOP_K = 64  # what the decoder's graph gives
SECOND_DRAWS = 1 << 32  # steps from here on are the second draws of the step without it
REDRAWN = 1 << 16  # steps that the draws after a sentence was given up are away from those before
COLDEST = 1e-6  # temperatures below are as good as greedy, and would overflow


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose: temperature 0 is greedy; the ``top_k`` likeliest, then of these the ``top_p`` share.

    Of these go such as are less likely than ``min_p`` times the likeliest ("Turning Up the Heat: Min-p Sampling",
    Nguyen et al., arXiv 2407.01082): where the model is sure little is left, where it is not nearly all.
    No run of ``no_repeat`` words comes twice in a text; 0 lets them. ``length_tolerance`` is by which share of a
    wanted length an answer may be too short (see ``promptdial/engine/length.py``); 0 leaves the length to the model.
    A sentence that doesn't hold together (``promptdial/engine/phrases.py``), whose two least likely tokens have more
    than ``max_surprisal`` nats together (0 lets them), or that could go on only with what ``min_p`` rules out, since
    all else is barred, is drawn anew, ``redraws`` times at most; then the best one is said. A bundle without phrases
    draws nothing anew.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    top_k: int = 40
    min_p: float = 0.0
    no_repeat: int = 0
    length_tolerance: float = 0.0
    redraws: int = 0
    max_surprisal: float = 0.0

    def check(self) -> None:
        """Raises InvalidRequest that names a field whose value makes no sense."""
        for name, makes_sense, wanted in (
            ("temperature", 0 <= self.temperature < math.inf, "be 0 or more"),
            ("top_p", 0 < self.top_p <= 1, "lie in 0-1 and over 0"),
            ("top_k", 1 <= self.top_k <= MAX_TOP_K, f"lie in 1-{MAX_TOP_K}"),
            ("min_p", 0 <= self.min_p <= 1, "lie in 0-1"),
            ("no_repeat", self.no_repeat >= 0, "be 0 or more"),
            ("length_tolerance", 0 <= self.length_tolerance < 1, "lie in 0-1 and below 1"),
            ("redraws", self.redraws >= 0, "be 0 or more"),
            ("max_surprisal", 0 <= self.max_surprisal < math.inf, "be 0 or more"),
        ):
            if not makes_sense:
                raise InvalidRequest(f"{name} must {wanted}, got {getattr(self, name)}", name)


def stream(seed: int, candidate: int) -> int:
    """The part of a draw's hash that stays the same for all steps of a candidate."""
    return _mix((_mix(((seed & MASK) + STRIDE) & MASK) + (candidate & MASK) + STRIDE) & MASK)


def draw(stream: int, step: int) -> float:
    """A number in [0, 1) with 53 random bits (SplitMix64, chained over seed, candidate and step)."""
    return (_mix((stream + step + STRIDE) & MASK) >> 11) / (1 << 53)


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


class Runs:
    """What a text may not go on with, if none of its runs of ``length`` words is to come twice.

    Only tokens that begin a word are barred: a rare word of many tokens may be said again, and none is broken off. What
    begins alike is barred too, since it can't be known what the word will be. Capitals and the signs behind a word make
    no difference: a model that must not say "the people" would say "the People", and "on a bench," after "on a bench.".
    """

    __slots__ = ("_followers", "_newest", "_words")

    def __init__(self, length: int, words: Words | None = None) -> None:
        """``words`` tells of every token id whether it begins a word; without it, each one is a word."""
        self._words = words
        self._newest: deque[tuple[int, ...]] = deque(maxlen=length - 1)  # words
        self._followers: dict[tuple[tuple[int, ...], ...], set[int]] = {}

    def add(self, token: int) -> None:
        """Note the text's next token."""
        if self._words is not None and not self._words.begins[token]:
            if self._newest and not self._words.signs[token]:
                self._newest[-1] += (token,)
            return
        alike = (token,) if self._words is None else self._words.alike[token]
        if len(self._newest) == self._newest.maxlen:
            self._followers.setdefault(tuple(self._newest), set()).update(alike)
        self._newest.append((alike[0],))

    @property
    def barred(self) -> Collection[int]:
        """Token ids that would begin the last word of a run that the text has had."""
        return self._followers.get(tuple(self._newest), ())


class Chooser:
    """Chooses for rows with the given settings; made once for a batch and used until its rows change."""

    def __init__(self, sampling: Sequence[Sampling]) -> None:
        self.greedy = all(row.temperature == 0.0 for row in sampling)
        self._sharpness = np.array([[1 / max(row.temperature, COLDEST)] for row in sampling])  # (rows, 1)
        self._top_p = np.array([[row.top_p] for row in sampling])
        self._top_k = np.array([[1 if row.temperature == 0.0 else row.top_k] for row in sampling])
        self._min_p = np.array([[row.min_p] for row in sampling])
        self._rows = np.arange(len(sampling))
        self._allowed: NDArray[np.float64] | None = None  # (rows, top), 0 past each row's top_k

    def choose(
        self,
        logits: NDArray[np.float32],
        ids: NDArray[np.int64],
        draws: Sequence[float],
        barred: Sequence[Collection[int]] = (),
    ) -> list[int]:
        """One token id for each row; ``logits`` and ``ids`` are (rows, top), in falling order of the logit.

        ``draws`` has a number in [0, 1) for each row, and isn't looked at where all rows are greedy. ``barred``, if
        given, has the ids for each row that must not be chosen; a row of which all are barred is left as it is.
        """
        if any(barred):
            logits, ids = _without(logits, ids, barred)
        if self.greedy:
            return list(ids[:, 0].tolist())
        if self._allowed is None:
            self._allowed = (np.arange(logits.shape[1]) < self._top_k).astype(np.float64)
        weights = np.subtract(logits, logits[:, :1], dtype=np.float64)  # (rows, top)
        weights *= self._sharpness
        np.exp(weights, out=weights)
        weights *= self._allowed
        weights *= weights >= self._min_p  # the likeliest has 1
        reached = weights.cumsum(axis=1)
        # A token is kept while the likelier ones hold less than top_p; so the kept ones come first.
        last = (reached[:, :-1] < self._top_p * reached[:, -1:]).sum(axis=1)
        target = (reached[self._rows, last] * draws)[:, None]
        places = np.minimum((reached <= target).sum(axis=1), last)
        return list(ids[self._rows, places].tolist())


def is_unlikely(
    logits: NDArray[np.float32], ids: NDArray[np.int64], token: int, sampling: Sampling, end_id: int
) -> bool:
    """Whether ``min_p`` would not have left a token, which was chosen because likelier ones are barred.

    ``logits`` and ``ids`` are one row. It isn't held against ``end_id``: a text that may not end goes on.
    """
    if not sampling.min_p:
        return False
    others = logits[ids != end_id]
    chosen = logits[ids == token]  # none, of a token that isn't among the likeliest
    if not len(chosen) or not len(others):
        return True
    return bool(np.exp((chosen[0] - others[0]) / max(sampling.temperature, COLDEST)) < sampling.min_p)


def surprisals(
    logits: NDArray[np.float32], ids: NDArray[np.int64], tokens: Sequence[int], end_id: int
) -> list[float]:
    """How unlikely each row's token was among the given ones at temperature 1, in nats; those are (rows, top).

    ``end_id`` is left out of account: that a text goes on is no surprise. A token that isn't among the likeliest counts
    as the last of them.
    """
    others = np.where(ids == end_id, -1e9, logits).astype(np.float64)
    highest = others.max(axis=1, keepdims=True)
    total = highest[:, 0] + np.log(np.exp(others - highest).sum(axis=1))
    chosen = ids == np.array(tokens)[:, None]
    places = np.where(chosen.any(axis=1), chosen.argmax(axis=1), ids.shape[1] - 1)
    found: list[float] = (total - logits[np.arange(len(tokens)), places]).tolist()
    return found


def _without(
    logits: NDArray[np.float32], ids: NDArray[np.int64], barred: Sequence[Collection[int]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The same rows with barred ids last and impossible; the arrays given stay as they are."""
    given = logits
    for row, gone in enumerate(barred):
        if not gone:
            continue
        hit = [token in gone for token in ids[row].tolist()]  # a quarter of what np.isin takes
        if not any(hit) or all(hit):
            continue
        if logits is given:
            logits, ids = logits.copy(), ids.copy()
        order = np.argsort(hit, kind="stable")
        ids[row], logits[row] = ids[row][order], np.where(hit, -np.inf, logits[row])[order]
    return logits, ids
