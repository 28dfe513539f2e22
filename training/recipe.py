"""Recipes: the whole configuration of a training run, read from TOML, saved with the checkpoint."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from promptdial.command import FRAMING_TOKENS
from promptdial.tasks import TASK_INFO
from training.errors import TrainingError
from training.sources import ATTRIBUTION

RECIPES = Path(__file__).parent / "recipes"
ORIGINS = ("real", "derived", "generated", "distilled", "rollout")
GENERATED_METHODS = ("written", "altered", "scene", "lettering", "style-template")
OPTIMIZERS = ("adamw", "muon")
STARTS = {
    "embeddings": ("scorer", "random"),
    "positions": ("sinusoidal", "random"),
    "attention": ("copy", "random"),
}


@dataclass(frozen=True)
class ModelRecipe:
    """Size of the GPT-2; widths and positions in units, vocabulary with control tokens."""

    layers: int
    heads: int
    width: int
    positions: int
    vocabulary: int
    dropout: float = 0.0


@dataclass(frozen=True)
class InitRecipe:
    """How weights start: see `training/init.py`."""

    embeddings: str = "random"
    positions: str = "random"
    attention: str = "random"


@dataclass(frozen=True)
class DataRecipe:
    """Limits of a row in tokens, share of fields left out, and how often rows come in an epoch.

    `repeat` is how often a row comes in an epoch, 1 where nothing is said, 0 to leave it out; `longest` is how many
    words its output may have. Both are by source, method (of generated rows), task or origin, the first that is given.
    `earlier_words`: answers may also have the words that the weights started from might write. `seldom`: tokens that
    fewer of 100,000 outputs have are spelt by their parts (training/vocabulary.py); 0 leaves the tokenizer as it is.
    """

    max_input_tokens: int
    max_tokens: int
    any_share: float = 0.12
    repeat: dict[str, int] = field(default_factory=dict)
    longest: dict[str, int] = field(default_factory=dict)
    earlier_words: bool = True
    seldom: float = 0.0


@dataclass(frozen=True)
class OptimizerRecipe:
    """Warm-up, a constant rate, and a linear decay to zero; a batch is counted in tokens.

    kind: `adamw`, or `muon` for the matrices of the blocks (training/muon.py).
    """

    batch_tokens: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    decay_share: float
    steps: int
    kind: str = "adamw"


@dataclass(frozen=True)
class SamplingRecipe:
    """Default sampling that the bundle will carry."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float = 0.0
    no_repeat: int = 0
    length_tolerance: float = 0.0
    redraws: int = 0
    max_surprisal: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """A whole training run."""

    name: str
    model: ModelRecipe
    init: InitRecipe
    data: DataRecipe
    optimizer: OptimizerRecipe
    sampling: SamplingRecipe

    def to_json(self) -> dict[str, Any]:
        """As saved in the checkpoint."""
        return asdict(self)


def load(name: str) -> Recipe:
    """A recipe by name (`small`, `base`) or path of a TOML file. Raises TrainingError naming what is wrong."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in RECIPES.glob("*.toml")))
        raise TrainingError(f"no recipe {name!r}: give one of {known}, or a path ending in .toml")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path}: {error}") from error
    recipe: Recipe = _build(Recipe, data, str(path))
    for problem in _problems(recipe):
        raise TrainingError(f"{path}: {problem}")
    return recipe


def _problems(recipe: Recipe) -> Iterator[str]:
    """What a recipe can't be trained with."""
    model, data = recipe.model, recipe.data
    for name, known in STARTS.items():
        if (value := getattr(recipe.init, name)) not in known:
            yield f"[init] {name} is {value!r}, known are {', '.join(known)}"
    if model.width % model.heads:
        yield f"[model] width {model.width} is no multiple of heads {model.heads}"
    if model.positions < FRAMING_TOKENS + data.max_input_tokens + data.max_tokens:
        yield "[model] positions is less than 5 + max_input_tokens + max_tokens of [data]"
    kinds = (*ORIGINS, *GENERATED_METHODS, *TASK_INFO, *ATTRIBUTION)
    for table in ("repeat", "longest"):
        if unknown := set(getattr(data, table)) - set(kinds):
            yield f"[data] {table} has {sorted(unknown)[0]!r}, known are {', '.join(kinds)}"
    if recipe.optimizer.kind not in OPTIMIZERS:
        yield f"[optimizer] kind is {recipe.optimizer.kind!r}, known are {', '.join(OPTIMIZERS)}"


def _build(cls: Any, data: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    unknown = set(data) - set(hints)
    if unknown:
        raise TrainingError(f"{where}: unknown setting {sorted(unknown)[0]!r}")
    values = {}
    for entry in fields(cls):
        if entry.name in data:
            kind = hints[entry.name]
            value = data[entry.name]
            values[entry.name] = (
                _build(kind, value, f"{where}, [{entry.name}]") if is_dataclass(kind) else value
            )
    try:
        return cls(**values)
    except TypeError as error:
        raise TrainingError(f"{where}: {error}") from error
