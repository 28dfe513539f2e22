"""The command: task, modality, wanted relevance and wanted length, as the model reads them.

In upside-down reinforcement learning (Schmidhuber, arXiv 1912.02875) the wanted return and horizon are inputs of
the policy. Here the return is the relevance of the output to the input, the horizon is its length in words, and
both enter as one bucket token each. Training rows and requests are rendered by this module alone, so that they
can't drift apart. It imports nothing but the standard library.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any

TASKS = ("expand", "tags", "brief", "style", "compress", "suggest")
MODALITIES = ("image", "video", "template")

# Bucket centres. Relevance is uniform; lengths grow by 7-25 %, so that a bucket stays well inside +-20 %.
RELEVANCE_BUCKETS = tuple(round(0.025 + 0.05 * i, 3) for i in range(20))
LENGTH_BUCKETS = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 22, 25, 28, 31, 35, 40),
    *(45, 50, 56, 63, 70, 80, 90, 100, 112, 125, 140, 160, 190),
)

PAD, OUT, END = "<pad>", "<out>", "<end>"
ANY = "any"
FRAMING_TOKENS = 5  # of a prompt around its input: the command's four and <out>


def word_count(text: str) -> int:
    """Length of a text in words: its whitespace-separated parts. The one definition of length everywhere."""
    return len(text.split())


@dataclass(frozen=True, slots=True)
class Command:
    """What is wanted of the output. `None` leaves a field to the model (rendered as `<any>`).

    relevance: cosine of input and output embeddings, 0-1. length: words of the output, at least 1.
    """

    task: str
    modality: str
    relevance: float | None = None
    length: int | None = None


@dataclass(frozen=True)
class CommandFormat:
    """The vocabulary of commands of one model. It travels in the bundle, with its buckets and own task names."""

    tasks: tuple[str, ...] = TASKS
    modalities: tuple[str, ...] = MODALITIES
    relevance_buckets: tuple[float, ...] = RELEVANCE_BUCKETS
    length_buckets: tuple[int, ...] = LENGTH_BUCKETS

    def special_tokens(self) -> tuple[str, ...]:
        """All control tokens in the order of their ids, which start at 0."""
        return (
            *(PAD, OUT, END),
            *(f"<task:{task}>" for task in self.tasks),
            *(f"<modality:{modality}>" for modality in self.modalities),
            *(f"<rel:{centre}>" for centre in (*self.relevance_buckets, ANY)),
            *(f"<len:{centre}>" for centre in (*self.length_buckets, ANY)),
        )

    def tokens(self, command: Command) -> tuple[str, str, str, str]:
        """The four control tokens of a command: task, modality, relevance, length.

        Raises ValueError for a task or modality this model was not trained on, or a target out of range.
        """
        if command.task not in self.tasks:
            raise ValueError(f"unknown task {command.task!r}; one of {', '.join(self.tasks)}")
        if command.modality not in self.modalities:
            raise ValueError(f"unknown modality {command.modality!r}; one of {', '.join(self.modalities)}")
        relevance: float | str = ANY
        if command.relevance is not None:
            relevance = self.relevance_buckets[self.relevance_bucket(command.relevance)]
        length: int | str = ANY
        if command.length is not None:
            length = self.length_buckets[self.length_bucket(command.length)]
        return (
            f"<task:{command.task}>",
            f"<modality:{command.modality}>",
            f"<rel:{relevance}>",
            f"<len:{length}>",
        )

    def as_text(self, command: Command, text: str) -> str:
        """The prompt of an input as one string, for tokenizers that read control tokens in their input.

        Promptdial's own never does (`promptdial/tokenizer.py`). With one that does, such as that of an exported Hugging
        Face folder, a control token written into `text` would count as one.
        """
        return "".join((*self.tokens(command), text, OUT))

    def extended(self, other: CommandFormat) -> CommandFormat:
        """This format with the tasks and modalities of another behind its own; the buckets stay."""
        return replace(
            self,
            tasks=tuple(dict.fromkeys((*self.tasks, *other.tasks))),
            modalities=tuple(dict.fromkeys((*self.modalities, *other.modalities))),
        )

    def relevance_bucket(self, relevance: float) -> int:
        """Index of the bucket whose centre is nearest to a relevance in 0-1."""
        if not 0.0 <= relevance <= 1.0:
            raise ValueError(f"relevance must lie in 0-1, got {relevance}")
        return _nearest(self.relevance_buckets, relevance)

    def length_bucket(self, words: int) -> int:
        """Index of the bucket whose centre is nearest to a length in words; the last one is open-ended."""
        if words < 1:
            raise ValueError(f"length must be at least 1 word, got {words}")
        return _nearest(self.length_buckets, words)

    def to_json(self) -> dict[str, Any]:
        """The format as it is written into `bundle.json`."""
        return {
            "tasks": list(self.tasks),
            "modalities": list(self.modalities),
            "relevance_buckets": list(self.relevance_buckets),
            "length_buckets": list(self.length_buckets),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CommandFormat:
        """The format read back from `bundle.json`."""
        return cls(
            tasks=tuple(data["tasks"]),
            modalities=tuple(data["modalities"]),
            relevance_buckets=tuple(float(centre) for centre in data["relevance_buckets"]),
            length_buckets=tuple(int(centre) for centre in data["length_buckets"]),
        )


def _nearest(centres: tuple[float, ...] | tuple[int, ...], value: float) -> int:
    above = min(bisect_right(centres, value), len(centres) - 1)
    below = max(above - 1, 0)
    return below if value - centres[below] <= centres[above] - value else above


DEFAULT_FORMAT = CommandFormat()
