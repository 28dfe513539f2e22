"""What refused requests were told, and whether it will be so.

"Come back in 300 ms" is an empty word while others keep coming: who is there when room becomes free takes it, and those
who need most are refused for ever. So a request that comes again when it was told goes before those that come for the
first time, or were told a later time: these are refused as long as they would take the room that it was promised.
Requests are known again by what they ask for, not by who asks. It is room among those with a deadline that is promised,
to those with a deadline; places in a full queue are not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from promptdial.engine.request import Generation

EARLY = 0.1  # share of the time that was said by which a request may come sooner
LATE = 0.45  # by which it may come later,
LATE_S = 0.12  # or that many seconds
MOST = 256  # promises that are remembered


@dataclass(frozen=True, slots=True)
class Promise:
    """That a request like ``generation`` is taken from ``start`` to ``end``; it was told ``at``."""

    generation: Generation
    available_s: float  # from its submission to its deadline
    start: float
    at: float
    end: float


class Promises:
    """Those that still hold. Times are of the scheduler's clock."""

    def __init__(self) -> None:
        self._held: OrderedDict[Hashable, Promise] = OrderedDict()  # by what is asked for, the oldest first

    def make(self, generation: Generation, available_s: float, now: float, said_s: float) -> None:
        """Note what a request was told, in place of what it was told before; without a deadline it needs no promise."""
        if available_s == math.inf:
            return
        key = _key(generation)
        self._held.pop(key, None)
        end = now + said_s + max(LATE * said_s, LATE_S)
        self._held[key] = Promise(generation, available_s, now + (1 - EARLY) * said_s, now + said_s, end)
        if len(self._held) > MOST:
            self._held.popitem(last=False)

    def find(self, generation: Generation, now: float) -> Promise | None:
        """The promise that a request has come for, early or not, but not late."""
        promise = self._held.get(_key(generation))
        return promise if promise is not None and now <= promise.end else None

    def keep(self, generation: Generation) -> None:
        """The request was taken."""
        self._held.pop(_key(generation), None)

    def ahead_of(self, generation: Generation, now: float) -> list[Promise]:
        """The one that needs most room and the one that comes first, of those that go before a request: all but its
        own; where it comes when it was told, those that were told a time between now and its own.
        """
        for key in [key for key, promise in self._held.items() if now > promise.end]:
            del self._held[key]
        own = self._held.get(_key(generation))
        others = [promise for promise in self._held.values() if promise is not own]
        if own is not None and now >= own.start:
            others = [promise for promise in others if now < promise.at < own.at]
        if not others:
            return []
        largest = max(others, key=lambda promise: _size(promise.generation))
        first = min(others, key=lambda promise: promise.at)
        return [largest] if first is largest else [largest, first]


def _key(generation: Generation) -> Hashable:
    request = generation.request
    return request.prompt, request.n, request.max_tokens, request.words


def _size(generation: Generation) -> float:
    request = generation.request
    return request.n * (request.expected_tokens or request.max_tokens)
