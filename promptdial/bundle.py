"""The bundle: one folder with everything that serving needs, checked before anything of it is used.

``bundle.json`` names every file with its hash and holds the command format, tasks, limits, sampling
defaults, support, calibration, metrics and provenance. ``python -m export CHECKPOINT BUNDLE`` is the only
thing that writes bundles; a folder that doesn't match its ``bundle.json`` is refused with the name of the
file and the remedy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptdial.command import Command, CommandFormat
from promptdial.errors import BundleError, InvalidRequest
from promptdial.relevance import SCORER_FILE, SCORER_TOKENIZER_FILE, RelevanceScorer, load_scorer
from promptdial.support import Support
from promptdial.tasks import TASK_INFO, Task
from promptdial.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from promptdial.engine.phrases import Phrases

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
TOKENIZER_FILE = "tokenizer.json"
WORDS_FILE = "words.txt"  # one a line
PHRASES_FILE = "phrases.bin"  # what promptdial/engine/phrases.py tells strange sentences by
CARD_FILE = "MODEL_CARD.md"
OBJECTS = ("calibration", "metrics", "parity", "training")  # only shown; what is in them is training's
REQUIRED = ("name", "files", "decoder", "architecture", "command", "limits", "sampling", "golden")


@dataclass(frozen=True)
class Architecture:
    """Sizes of the decoder; ``positions`` is the most tokens that one sequence may have."""

    layers: int
    heads: int
    head_dim: int
    width: int
    vocabulary: int
    positions: int
    parameters: int


@dataclass(frozen=True)
class Limits:
    """The most tokens an input may have, and the most that may be generated for it."""

    max_input_tokens: int
    max_tokens: int


@dataclass(frozen=True)
class FileEntry:
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Golden:
    """A command and its input, and the token ids that they were rendered to at export."""

    command: Command
    input: str
    ids: list[int]


@dataclass(frozen=True)
class Bundle:
    """A checked bundle folder. Use ``load_bundle``."""

    path: Path
    manifest: dict[str, Any]
    version: str  # first 12 hex digits of the SHA-256 of bundle.json, which holds the hashes of all else

    @property
    def name(self) -> str:
        """The recipe's name, as in ``small@<version>``."""
        return str(self.manifest["name"])

    @cached_property
    def format(self) -> CommandFormat:
        """The command tokens that this model was trained with."""
        found = CommandFormat.from_json(self.manifest["command"])
        if not all((found.tasks, found.modalities, found.relevance_buckets, found.length_buckets)):
            raise ValueError("a part of command is empty")
        return found

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks of this model: its own descriptions where it brings them, else the common ones."""
        own = {name: Task.from_json(entry) for name, entry in self.manifest.get("tasks", {}).items()}
        known = {**TASK_INFO, **own}
        return {name: known[name] for name in self.format.tasks}

    @cached_property
    def support(self) -> Support:
        """The targets that the training data holds."""
        return Support.from_json(self.manifest.get("support", {}))

    @cached_property
    def architecture(self) -> Architecture:
        """Sizes of the decoder."""
        return Architecture(**_whole_numbers("architecture", self.manifest["architecture"]))

    @cached_property
    def limits(self) -> Limits:
        """Token limits of requests."""
        return Limits(**_whole_numbers("limits", self.manifest["limits"]))

    @property
    def sampling(self) -> dict[str, Any]:
        """Default ``temperature``, ``top_p`` and ``top_k``, and others that requests can't change."""
        return dict(self.manifest["sampling"])

    @cached_property
    def files(self) -> dict[str, FileEntry]:
        """The files of the bundle, but for ``bundle.json``."""
        return {
            name: FileEntry(
                _text(f"files {name} sha256", entry["sha256"]),
                _whole_number(f"files {name} bytes", entry["bytes"], least=0),
            )
            for name, entry in self.manifest["files"].items()
        }

    @cached_property
    def golden(self) -> list[Golden]:
        """Commands whose rendering must be what it was at export."""
        rows = [_golden_row(row) for row in self.manifest["golden"]]
        if not rows:
            raise ValueError("golden is empty, so the rendering of commands can't be checked")
        return rows

    @property
    def precision(self) -> str:
        """Of the decoder's weights: ``fp32``, ``fp16``, ``int8`` or ``int4``."""
        return _text("decoder precision", self.manifest["decoder"]["precision"])

    @property
    def decoder_path(self) -> Path:
        """The ONNX file of the decoder's steps, and of prompts where they have none of their own."""
        return self.path / _text("decoder file", self.manifest["decoder"]["file"])

    @property
    def prefill_path(self) -> Path | None:
        """The ONNX file for reading prompts, where that isn't the decoder's."""
        name = self.manifest["decoder"].get("prefill")
        return None if name is None else self.path / _text("decoder prefill", name)

    def check_manifest(self) -> None:
        """Parse everything in ``bundle.json`` that is read later. Raises BundleError."""
        try:
            _text("name", self.manifest["name"])
            self.format, self.tasks, self.support, self.golden  # noqa: B018  (parsed once, and kept)
            self.architecture, self.limits, self.precision  # noqa: B018
            _check_sampling(self.sampling)
            graphs = [path for path in (self.decoder_path, self.prefill_path) if path is not None]
            names = [path.relative_to(self.path).as_posix() for path in graphs]
            for needed in (*names, TOKENIZER_FILE, SCORER_FILE, SCORER_TOKENIZER_FILE):
                if needed not in self.files:
                    raise ValueError(f"it doesn't list {needed}")
            for name in OBJECTS:
                if not isinstance(self.manifest.get(name, {}), dict):
                    raise TypeError(f"{name} must be an object")
        except KeyError as error:
            raise _damaged(MANIFEST, self.path, f"it lacks {error}") from error
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _damaged(MANIFEST, self.path, str(error)) from error

    def tokenizer(self) -> PromptTokenizer:
        """A new tokenizer with this model's command format."""
        try:
            return PromptTokenizer.load(self.path / TOKENIZER_FILE, self.format)
        except Exception as error:  # tokenizers raises a bare Exception
            raise _damaged(TOKENIZER_FILE, self.path, str(error)) from error

    def words(self) -> list[str]:
        """The words that the model was trained on, lower case; none in a bundle that doesn't list them."""
        if WORDS_FILE not in self.files:
            return []
        try:
            return (self.path / WORDS_FILE).read_text(encoding="utf-8").split()
        except ValueError as error:
            raise _damaged(WORDS_FILE, self.path, str(error)) from error

    def phrases(self) -> Phrases | None:
        """What the sentences of the training rows hold; None in a bundle that doesn't have it."""
        from promptdial.engine.phrases import Phrases  # noqa: PLC0415  (the engine imports this module)

        if PHRASES_FILE not in self.files:
            return None
        try:
            return Phrases.from_bytes((self.path / PHRASES_FILE).read_bytes())
        except ValueError as error:
            raise _damaged(PHRASES_FILE, self.path, str(error)) from error

    def scorer(self, threads: int = 1) -> RelevanceScorer:
        """A new relevance scorer."""
        return load_scorer(self.path, threads)


def load_bundle(path: Path | str, verify: bool = True) -> Bundle:
    """Read and check a bundle; ``verify=False`` skips the hashes (about 0.1 s), not the rest.

    Raises BundleError, which names the file and says what to do.
    """
    folder = Path(path)
    manifest, version = _read_manifest(folder)
    bundle = Bundle(folder, manifest, version)
    bundle.check_manifest()
    _check_files(bundle, verify)
    _check_golden(bundle)
    return bundle


def _read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"no bundle at {folder}: {MANIFEST} is missing. "
            f"Set PROMPTDIAL_BUNDLE to a bundle folder, or make one with `python -m export CHECKPOINT BUNDLE`"
        )
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise _damaged(MANIFEST, folder, f"it is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version") if isinstance(manifest, dict) else None
        raise BundleError(
            f"{path} has format_version {found!r}, this version of Promptdial reads {FORMAT_VERSION}: "
            f"export the checkpoint again with this version, or install the version that made it"
        )
    if missing := [key for key in REQUIRED if key not in manifest]:
        raise _damaged(MANIFEST, folder, f"it lacks {', '.join(missing)}")
    return manifest, hashlib.sha256(raw).hexdigest()[:12]


def _check_files(bundle: Bundle, verify: bool) -> None:
    for name, entry in bundle.files.items():
        path = bundle.path / name
        if not path.is_file():
            raise BundleError(
                f"{path} is missing, though {MANIFEST} lists it: "
                f"copy the whole bundle folder, or export it again with `python -m export CHECKPOINT BUNDLE`"
            )
        size = path.stat().st_size
        if size != entry.bytes:
            raise _damaged(name, bundle.path, f"it has {size} bytes, {MANIFEST} says {entry.bytes}")
        if verify and file_hash(path) != entry.sha256:
            raise _damaged(name, bundle.path, f"its SHA-256 is not the one in {MANIFEST}")


def _check_golden(bundle: Bundle) -> None:
    """Commands rendered at export must render to the same ids here: one format for training and serving."""
    tokenizer = bundle.tokenizer()
    for row in bundle.golden:
        try:
            ids = tokenizer.prompt(row.command, row.input)
        except ValueError as error:
            raise _damaged(MANIFEST, bundle.path, f"a golden command can't be rendered ({error})") from error
        if ids != row.ids:
            raise BundleError(
                f"{bundle.path / TOKENIZER_FILE}: golden token ids differ for "
                f"{row.command.task!r} {row.input!r}: "
                f"this version of Promptdial renders commands otherwise than the one that made the bundle. "
                f"Export the checkpoint again with this version"
            )


def _golden_row(row: Mapping[str, Any]) -> Golden:
    relevance, length = row["relevance"], row["length"]
    command = Command(
        _text("golden task", row["task"]),
        _text("golden modality", row["modality"]),
        None if relevance is None else _number("golden relevance", relevance),
        None if length is None else _whole_number("golden length", length),
    )
    text, ids = row["input"], row["ids"]
    if not isinstance(text, str) or not isinstance(ids, list):
        raise TypeError("golden rows need a text as input and a list of ids")
    return Golden(command, text, [_whole_number("golden ids", each, least=0) for each in ids])


def _check_sampling(sampling: Mapping[str, Any]) -> None:
    from promptdial.engine.sampling import Sampling  # noqa: PLC0415  (the engine imports this module)

    known = {field.name: field.default for field in fields(Sampling)}
    if unknown := sorted(set(sampling) - set(known)):
        raise ValueError(f"sampling has unknown fields: {', '.join(unknown)}")
    for name in ("temperature", "top_p", "top_k", *sampling):  # every bundle has the first three
        if isinstance(known[name], int):
            _whole_number(f"sampling {name}", sampling[name], least=0)
        else:
            _number(f"sampling {name}", sampling[name])
    try:
        Sampling(**sampling).check()
    except InvalidRequest as error:
        raise ValueError(f"sampling {error}") from error


def _whole_numbers(name: str, values: Mapping[str, Any]) -> dict[str, int]:
    return {key: _whole_number(f"{name} {key}", value) for key, value in values.items()}


def _whole_number(name: str, value: object, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")
    return value


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return float(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a text, not {value!r}")
    return value


def _damaged(name: str, folder: Path, why: str) -> BundleError:
    return BundleError(
        f"{folder / name} is damaged: {why}. Restore the file, or export the bundle again with "
        f"`python -m export CHECKPOINT BUNDLE`"
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
