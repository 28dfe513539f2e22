"""What the rows of a training run support, per task: lengths, and relevances per length (`promptdial/support.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdial.command import DEFAULT_FORMAT
from training.episodes import Episode

MIN_CELL = 30  # rows of a task and length bucket, below which it says nothing


def of(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Per task: percentiles of length, the range that can be asked for, and percentiles of relevance per length.

    The range spans the outermost length buckets with at least 30 rows: from the 5th percentile of the lengths in the
    first to the 95th of those in the last. A task without such a bucket has no range of its own.
    """
    tasks: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        tasks[episode.task].append(episode)
    return {task: _of_task(rows) for task, rows in sorted(tasks.items())}


def _of_task(episodes: Sequence[Episode]) -> dict[str, Any]:
    buckets: dict[int, list[Episode]] = defaultdict(list)
    for episode in episodes:
        centre = DEFAULT_FORMAT.length_buckets[DEFAULT_FORMAT.length_bucket(episode.words)]
        buckets[centre].append(episode)
    filled = [(centre, rows) for centre, rows in sorted(buckets.items()) if len(rows) >= MIN_CELL]
    length = {name: round(value) for name, value in _percentiles(_words(episodes), 5, 50, 95).items()}
    if filled:
        length["low"] = round(float(np.percentile(_words(filled[0][1]), 5)))
        length["high"] = round(float(np.percentile(_words(filled[-1][1]), 95)))
    cells = [
        {
            "length": centre,
            **_percentiles(np.array([row.relevance for row in rows]), 5, 10, 50, 90, 95),
            "count": len(rows),
        }
        for centre, rows in filled
    ]
    return {"length": {**length, "count": len(episodes)}, "cells": cells}


def _words(episodes: Sequence[Episode]) -> NDArray[Any]:
    return np.array([episode.words for episode in episodes])


def _percentiles(values: NDArray[Any], *wanted: int) -> dict[str, float]:
    return {f"p{q:02d}": round(float(np.percentile(values, q)), 3) for q in wanted}
