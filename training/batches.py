"""Token rows and batches: rows of like length together, a batch counted in tokens, loss on outputs only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from promptdial.command import FRAMING_TOKENS, Command
from promptdial.tokenizer import PromptTokenizer
from training.episodes import Episode
from training.loss import summed_cross_entropy
from training.recipe import DataRecipe

IGNORED = -100  # label of positions without loss
# Matrix kernels are compiled per shape: few shapes, few compilations.
LENGTH_STEP = 8
TARGET_STEP = 256


@dataclass(frozen=True, slots=True)
class Row:
    """An episode as token ids, its command apart so that fields can be left out anew each time."""

    command: Command
    input: list[int]
    output: list[int]  # <end> included
    gains: list[float] | None = None  # of each output token's loss; 1 where there are none

    @property
    def length(self) -> int:
        """Tokens in all."""
        return FRAMING_TOKENS + len(self.input) + len(self.output)


def tokenize(episodes: Sequence[Episode], tokenizer: PromptTokenizer, recipe: DataRecipe) -> list[Row]:
    """Rows within the recipe's limits, each as often as it says; longer ones are left out."""
    return repeated(fitting(episodes, tokenizer, recipe), recipe)


def fitting(
    episodes: Sequence[Episode], tokenizer: PromptTokenizer, recipe: DataRecipe
) -> list[tuple[Episode, Row]]:
    """The episodes that a recipe trains on, each once, with their tokens."""
    inputs = tokenizer.encode_batch([episode.input for episode in episodes])
    outputs = tokenizer.encode_batch([episode.output for episode in episodes])
    return [
        (episode, Row(episode.command, input, [*output, tokenizer.end_id]))
        for episode, input, output in zip(episodes, inputs, outputs, strict=True)
        if len(input) <= recipe.max_input_tokens
        and len(output) < recipe.max_tokens
        and is_wanted(episode, recipe)
    ]


def is_wanted(episode: Episode, recipe: DataRecipe) -> bool:
    """Whether a recipe trains on an episode, if its tokens are not too many."""
    return episode.words <= _of(recipe.longest, episode, episode.words) and bool(
        _of(recipe.repeat, episode, 1)
    )


def repeated(rows: Sequence[tuple[Episode, Row]], recipe: DataRecipe) -> list[Row]:
    """Each row as often as the recipe says of its kind."""
    return [row for episode, row in rows for _ in range(_of(recipe.repeat, episode, 1))]


def _of(table: dict[str, int], episode: Episode, default: int) -> int:
    """What a recipe's table says of an episode's source, its method (if composed), its task or its origin, whichever of
    these is the first that it names.
    """
    kinds = (episode.source, episode.method, episode.task, episode.origin)
    return next((table[kind] for kind in kinds if kind in table), default)


class BatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Whole batches as items: `input_ids` and `labels` (rows, tokens), padded on the right; also `gains`, if any row
    has them.

    Padding needs no mask: under causal attention no token sees what stands to its right.
    """

    def __init__(
        self, rows: Sequence[Row], tokenizer: PromptTokenizer, batch_tokens: int, any_share: float, seed: int
    ) -> None:
        self._tokenizer = tokenizer
        self._any_share = any_share
        self._seed = seed
        self._epoch = 0
        noise = random.Random(seed)
        # A few tokens of noise mix rows of neighbouring lengths.
        ordered = sorted(rows, key=lambda row: row.length + noise.uniform(0, 4))
        self._batches: list[list[Row]] = []
        longest = 0
        for row in ordered:
            longest = max(longest, _rounded(row.length, LENGTH_STEP))
            if not self._batches or longest * (len(self._batches[-1]) + 1) > batch_tokens:
                self._batches.append([])
                longest = _rounded(row.length, LENGTH_STEP)
            self._batches[-1].append(row)

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Leave out other fields from here on. What is left out depends on seed, epoch and place alone, so that
        processes that share an epoch see what one process would have seen."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rows = self._batches[index]
        rng = random.Random(f"{self._seed} {self._epoch} {index}")
        longest = _rounded(max(row.length for row in rows), LENGTH_STEP)
        input_ids = torch.full((len(rows), longest), self._tokenizer.end_id)
        labels = torch.full((len(rows), longest), IGNORED)
        gains = torch.ones((len(rows), longest))
        for number, row in enumerate(rows):
            # What has gains answers just this command.
            command = row.command if row.gains is not None else self._with_gaps(row.command, rng)
            prompt = self._tokenizer.frame(command, row.input)
            ids = torch.tensor([*prompt, *row.output])
            input_ids[number, : len(ids)] = ids
            labels[number, len(prompt) : len(ids)] = ids[len(prompt) :]
            if row.gains is not None:
                gains[number, len(prompt) : len(ids)] = torch.tensor(row.gains)
        item = {"input_ids": input_ids, "labels": labels}
        return item | {"gains": gains} if any(row.gains is not None for row in rows) else item

    def _with_gaps(self, command: Command, rng: random.Random) -> Command:
        """The command with relevance, length or both left out in a share of the rows."""
        return Command(
            command.task,
            command.modality,
            None if rng.random() < self._any_share else command.relevance,
            None if rng.random() < self._any_share else command.length,
        )


def output_loss(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], tokens: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy over output tokens, their mean or their sum over `tokens`, each times its gain if there are gains.

    The vocabulary is multiplied at their positions only.
    """
    hidden = model.transformer(input_ids=batch["input_ids"], use_cache=False).last_hidden_state  # type: ignore[operator]
    targets = batch["labels"].roll(-1, dims=1)
    targets[:, -1] = IGNORED
    targets = targets.flatten()
    wanted = targets != IGNORED
    count = min(_rounded(int(wanted.sum()), TARGET_STEP), len(targets))
    # The wanted positions first, then as many others as fill up the shape; those have no loss.
    positions = torch.argsort(wanted, descending=True, stable=True)[:count]
    chosen = targets[positions]
    gains = batch["gains"].roll(-1, dims=1).flatten()[positions] if "gains" in batch else None
    total = summed_cross_entropy(
        hidden.flatten(0, 1)[positions],
        model.lm_head.weight,  # type: ignore[arg-type, union-attr]
        chosen,
        IGNORED,
        gains,
    )
    return total / ((chosen != IGNORED).sum() if tokens is None else tokens)


def _rounded(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step
