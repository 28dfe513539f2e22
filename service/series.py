"""Counters and histograms whose exposition is quick: all text but the numbers is made once.

prometheus_client makes, checks and escapes each line anew in every scrape, ten microseconds a line; the service
has hundreds of lines, and a scrape takes the interpreter from the requests.

A series is written by one thread. Any thread may read it, without a lock that somebody might wait for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray


class Series(Protocol):
    """What a family exposes of each of its label sets."""

    def names(self, labels: Sequence[str]) -> list[str]:
        """Of its lines, what follows the family's name; `labels` as they are written, `name="value"`."""

    def values(self) -> Sequence[float]:
        """The lines' numbers."""


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Count."""
        self.value += amount

    def names(self, labels: Sequence[str]) -> list[str]:
        """One line."""
        return [braces(labels)]

    def values(self) -> list[float]:
        """Its number."""
        return [self.value]


class Histogram:
    """Counts by bucket; `bounds` are the upper ones, rising, themselves inside.

    `signed` values have no sum: that is a counter to Prometheus, which takes one that falls for a restart.
    """

    def __init__(self, bounds: Sequence[float], *, signed: bool = False) -> None:
        self._bounds, self._array, self._signed = tuple(bounds), np.array(bounds), signed
        self._counts = [0] * (len(bounds) + 1)  # the last one: above every bound
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Count many values at once, for what happens too often to be counted one by one."""
        for place, number in enumerate(np.bincount(np.searchsorted(self._array, values))):
            self._counts[place] += int(number)
        self._sum += float(values.sum())

    def names(self, labels: Sequence[str]) -> list[str]:
        """A line for each bucket, then the count, then the sum."""
        upper = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        inside = [[*labels, f'le="{bound}"'] for bound in upper]
        ends = ["count"] if self._signed else ["count", "sum"]
        return [*(f"_bucket{braces(each)}" for each in inside), *(f"_{end}{braces(labels)}" for end in ends)]

    def values(self) -> list[float]:
        """Values at or below each bound, all of them, and their sum; from one copy of the counts."""
        totals = list(accumulate(self._counts[:]))
        return [*totals, totals[-1]] if self._signed else [*totals, totals[-1], self._sum]


S = TypeVar("S", bound=Series)


class Family(Generic[S]):
    """The series of one name, told apart by labels, whose values come from closed sets."""

    def __init__(self, name: str, kind: str, description: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._labels = tuple(labels)
        self._head = f"# HELP {name} {description}\n# TYPE {name} {kind}\n"
        self._series: dict[tuple[str, ...], S] = {}
        self._texts: list[tuple[S, list[str]]] = []  # each with what comes before its numbers

    def add(self, series: S, *labels: str) -> S:
        """Expose a series under the labels' values, and return it."""
        pairs = sorted(f'{name}="{escape(value)}"' for name, value in zip(self._labels, labels, strict=True))
        self._series[labels] = series
        self._texts.append((series, [f"{self.name}{rest} " for rest in series.names(pairs)]))
        return series

    def labels(self, *labels: str) -> S:
        """The series of these values, which was added."""
        return self._series[labels]

    def render(self) -> str:
        """The text exposition."""
        lines = [
            f"{text}{float(value)}\n"
            for series, texts in self._texts
            for text, value in zip(texts, series.values(), strict=True)
        ]
        return self._head + "".join(lines)


class Counters(Family[Counter]):
    """Counters that are added when they are first asked for."""

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()) -> None:
        super().__init__(f"{name}_total", "counter", description, labels)

    def labels(self, *labels: str) -> Counter:
        """The counter of these values."""
        return self._series.get(labels) or self.add(Counter(), *labels)


def escape(value: str) -> str:
    """A label's value inside its quotes; a bundle names its tasks as it likes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def braces(labels: Sequence[str]) -> str:
    """Labels as they follow a name."""
    return f"{{{','.join(labels)}}}" if labels else ""
