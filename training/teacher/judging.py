"""The filter in a process of its own, so that judging holds up no asking: both would wait for one interpreter.

It has a lower priority than asking, and ends with the process that began it, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from promptdial.relevance import load_scorer
from training.errors import TrainingError
from training.teacher.answers import Filter, Verdict
from training.teacher.templates import Template

STEP_BACK = 10  # niceness above that of asking

Asked = tuple[str, Template, str]  # answer, template, input


class Judging:
    """A `Filter` behind a pipe: one batch at a time, in the order in which they come."""

    def __init__(self, scorer: Path | None, threads: int) -> None:
        """Begin the process. Raises what loading the scorer raises."""
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(theirs, scorer, threads), daemon=True)
        self._process.start()
        theirs.close()  # theirs alone is open now: a process that dies is seen
        self._received()

    def accept(self, answers: Sequence[Asked]) -> list[tuple[Verdict, float]]:
        """What `Filter.accept` says."""
        self._pipe.send(answers)
        return self._received()

    def _received(self) -> list[tuple[Verdict, float]]:
        try:
            came: list[tuple[Verdict, float]] | Exception = self._pipe.recv()
        except EOFError as error:
            raise TrainingError("the process that judges answers ended; the same command goes on") from error
        if isinstance(came, Exception):
            raise came
        return came

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, scorer: Path | None, threads: int) -> None:
    """Judge batches until the other end is closed. Ctrl-C is for the other process, which has its last rows judged."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(STEP_BACK)
    try:
        judged = Filter(load_scorer(scorer, threads))
        pipe.send([])
        while True:
            pipe.send(judged.accept(pipe.recv()))
    except (EOFError, ConnectionError):
        pass
    except Exception as error:  # told where it is understood
        pipe.send(error)
