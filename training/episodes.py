"""Episodes: one row each of input, output and the reward that the output achieved, stored as Parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from promptdial.command import Command
from training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Episode:
    """One (input, output) pair under a task and modality, labelled in hindsight with what it achieved.

    origin: `real` (both sides as found), `derived` (one side made from the other by rule) or `generated` (both made
    by rule). method: the rule. key: the text whose near-duplicates must share its split. relevance: cosine of the
    embeddings, 0-1, or nan before scoring. words: length of the output.
    """

    task: str
    modality: str
    input: str
    output: str
    origin: str
    method: str
    source: str
    licence: str
    key: str
    split: str = ""
    relevance: float = float("nan")
    words: int = 0

    @property
    def command(self) -> Command:
        """The command in hindsight: the reward and length that were achieved."""
        return Command(self.task, self.modality, self.relevance, self.words)


def episode_id(episode: Episode) -> str:
    """A stable id: hash of everything the model is shown or taught."""
    text = "\x1f".join((episode.task, episode.modality, episode.input, episode.output))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write one Parquet file, whole or not at all."""
    columns = {
        field.name: [getattr(episode, field.name) for episode in episodes] for field in fields(Episode)
    }
    table = pa.table({"id": [episode_id(episode) for episode in episodes], **columns})
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def read_episodes(folder: Path, split: str) -> list[Episode]:
    """All episodes of a split from a folder that `prepare` made. Raises TrainingError naming a missing file."""
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise TrainingError(f"{path} is missing: run `python -m training prepare --out {folder}` first")
    return read_file(path)


def read_file(path: Path) -> list[Episode]:
    """The episodes of one Parquet file. Raises TrainingError if it can't be read."""
    names = [field.name for field in fields(Episode)]
    try:
        rows = pq.read_table(path, columns=names).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise TrainingError(
            f"{path} can't be read ({error}): run `python -m training prepare` again"
        ) from error
    return [Episode(**row) for row in rows]
