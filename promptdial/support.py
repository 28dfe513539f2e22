"""What targets the training data holds, per task and jointly for relevance and length.

A policy trained with upside-down reinforcement learning obeys a command blindly, also one that no training
row could fulfil. The bundle therefore carries, per task, the range of lengths that enough rows have, and per
length cell the percentiles of the relevance that rows of that length had. Requests are clamped to them (or
refused).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from promptdial.command import Command


@dataclass(frozen=True, slots=True)
class Cell:
    """Relevance of the training rows of one task near one length (words)."""

    length: int
    p05: float
    p50: float
    p90: float
    p95: float
    count: int
    p10: float | None = None  # not in every bundle; see `tenth`

    def __post_init__(self) -> None:
        if not _ordered((self.length,), least=1, whole=True):
            raise ValueError(f"the length of a support cell must be 1 word or more, not {self.length!r}")
        tenth = () if self.p10 is None else (self.p10,)
        if not _ordered((0, self.p05, *tenth, self.p50, self.p90, self.p95, 1)):
            raise ValueError(f"the relevances of a support cell must rise within 0-1: {self}")

    @property
    def tenth(self) -> float:
        """The 10th percentile; where the bundle doesn't give it, by a straight line from the 5th to the 50th."""
        return self.p05 + (self.p50 - self.p05) / 9 if self.p10 is None else self.p10


@dataclass(frozen=True, slots=True)
class TaskSupport:
    """Lengths (words) of one task's rows, and its cells in order of length.

    low, high: what can be asked for. Older bundles don't say it; theirs is the 5th to the 95th percentile.
    """

    p05: int
    p50: int
    p95: int
    count: int
    cells: tuple[Cell, ...]
    low: int | None = None
    high: int | None = None

    def __post_init__(self) -> None:
        lengths = (self.p05, self.p50, self.p95)
        if not _ordered(lengths, least=1, whole=True):
            raise ValueError(f"the lengths of a support must be rising whole numbers over 0: {lengths}")
        if (self.low, self.high) != (None, None) and not _ordered((self.low, self.high), least=1, whole=True):
            raise ValueError(f"low and high of a support must be rising whole numbers over 0: {self}")

    @property
    def lengths(self) -> tuple[int, int]:
        """The least and the most words that can be asked for."""
        return (self.p05 if self.low is None else self.low, self.p95 if self.high is None else self.high)

    @property
    def usual(self) -> int:
        """The median length, or the nearest to it that can be asked for."""
        low, high = self.lengths
        return min(max(self.p50, low), high)


def _ordered(values: tuple[object, ...], *, least: float = 0, whole: bool = False) -> bool:
    """Whether these are numbers of at least ``least``, none smaller than the one before."""
    numbers = [each for each in values if isinstance(each, int if whole else int | float)]
    rising = all(low <= high for low, high in pairwise([least, *numbers]))
    return rising and len(numbers) == len(values)


class Support:
    """Answers for all tasks of a bundle; a task without rows has no support and nothing of it is clamped."""

    def __init__(self, tasks: Mapping[str, TaskSupport]) -> None:
        self._tasks = dict(tasks)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Support:
        """Read ``bundle.json``'s ``support``. Raises KeyError, TypeError or ValueError if malformed."""
        tasks = {}
        for name, entry in data.items():
            cells = tuple(Cell(**cell) for cell in sorted(entry["cells"], key=lambda cell: cell["length"]))
            tasks[name] = TaskSupport(**entry["length"], cells=cells)
        return cls(tasks)

    def __contains__(self, task: str) -> bool:
        return task in self._tasks

    def of(self, task: str) -> TaskSupport | None:
        """A task's support; None where it has none."""
        return self._tasks.get(task)

    def cell(self, task: str, length: int) -> Cell | None:
        """The cell whose length is nearest, as a ratio."""
        support = self._tasks.get(task)
        if support is None or not support.cells:
            return None
        place = bisect_left(support.cells, length, key=lambda cell: cell.length)
        near = support.cells[max(0, place - 1) : place + 1]
        return min(near, key=lambda cell: abs(math.log(max(length, 1) / cell.length)))

    def range(self, task: str, length: int) -> tuple[float, float, float] | None:
        """Relevance at the 5th, 95th and 90th percentile of rows of about that length."""
        cell = self.cell(task, length)
        return None if cell is None else (cell.p05, cell.p95, cell.p90)

    def default_relevance(self, task: str, length: int) -> float | None:
        """What a left-out relevance means: the 90th percentile at that length."""
        cell = self.cell(task, length)
        return None if cell is None else cell.p90

    def default_length(self, task: str) -> int | None:
        """What a left-out length means: the task's median."""
        support = self._tasks.get(task)
        return None if support is None else support.usual

    def length_range(self, task: str) -> tuple[int, int] | None:
        """The least and the most words that can be asked of a task."""
        support = self._tasks.get(task)
        return None if support is None else support.lengths

    def clamp(self, command: Command) -> tuple[Command, frozenset[str]]:
        """Fill what was left out and pull the rest into the support; also says which fields were pulled.

        Length comes first: what relevance can be had depends on it.
        """
        clamped: set[str] = set()
        length = command.length
        if length is None:
            length = self.default_length(command.task)
        elif (lengths := self.length_range(command.task)) is not None:
            length = min(max(length, lengths[0]), lengths[1])
            if length != command.length:
                clamped.add("length")
        relevance = command.relevance
        cell = None if length is None else self.cell(command.task, length)
        if cell is not None:
            relevance = cell.p90 if relevance is None else min(max(relevance, cell.p05), cell.p95)
            if command.relevance is not None and relevance != command.relevance:
                clamped.add("relevance")
        return replace(command, relevance=relevance, length=length), frozenset(clamped)
