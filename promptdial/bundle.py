"""The bundle: one folder with everything that serving needs, checked before anything of it is used.

``bundle.json`` names every file with its hash and holds the command format, tasks, limits, sampling
defaults, support, calibration, metrics and provenance. ``python -m export CHECKPOINT BUNDLE`` is the only
thing that writes bundles; a folder that doesn't match its ``bundle.json`` is refused with the name of the
file and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from promptdial.command import Command, CommandFormat
from promptdial.errors import BundleError
from promptdial.relevance import RelevanceScorer, load_scorer
from promptdial.support import Support
from promptdial.tasks import TASK_INFO, Task
from promptdial.tokenizer import PromptTokenizer

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "MODEL_CARD.md"
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
        return CommandFormat.from_json(self.manifest["command"])

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
        return Architecture(**self.manifest["architecture"])

    @cached_property
    def limits(self) -> Limits:
        """Token limits of requests."""
        return Limits(**self.manifest["limits"])

    @property
    def sampling(self) -> dict[str, Any]:
        """Default ``temperature``, ``top_p`` and ``top_k``."""
        return dict(self.manifest["sampling"])

    @property
    def precision(self) -> str:
        """Of the decoder's weights: ``fp32`` or ``int8``."""
        return str(self.manifest["decoder"]["precision"])

    @property
    def decoder_path(self) -> Path:
        """The decoder's ONNX file."""
        return self.path / str(self.manifest["decoder"]["file"])

    def tokenizer(self) -> PromptTokenizer:
        """A new tokenizer with this model's command format."""
        try:
            return PromptTokenizer.load(self.path / TOKENIZER_FILE, self.format)
        except Exception as error:  # tokenizers raises a bare Exception
            raise _damaged(TOKENIZER_FILE, self.path, str(error)) from error

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
    _check_files(bundle, verify)
    try:
        bundle.format, bundle.tasks, bundle.support, bundle.architecture, bundle.limits  # noqa: B018
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(MANIFEST, folder, f"{type(error).__name__}: {error}") from error
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
    files: dict[str, dict[str, Any]] = bundle.manifest["files"]
    for needed in (str(bundle.manifest["decoder"].get("file")), TOKENIZER_FILE):
        if needed not in files:
            raise _damaged(MANIFEST, bundle.path, f"it doesn't list {needed}")
    for name, entry in files.items():
        path = bundle.path / name
        if not path.is_file():
            raise BundleError(
                f"{path} is missing, though {MANIFEST} lists it: "
                f"copy the whole bundle folder, or export it again with `python -m export CHECKPOINT BUNDLE`"
            )
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise _damaged(name, bundle.path, f"it has {size} bytes, {MANIFEST} says {entry['bytes']}")
        if verify and file_hash(path) != entry["sha256"]:
            raise _damaged(name, bundle.path, f"its SHA-256 is not the one in {MANIFEST}")


def _check_golden(bundle: Bundle) -> None:
    """Commands rendered at export must render to the same ids here: one format for training and serving."""
    tokenizer = bundle.tokenizer()
    for row in bundle.manifest["golden"]:
        command = Command(row["task"], row["modality"], row["relevance"], row["length"])
        try:
            ids = tokenizer.prompt(command, row["input"])
        except ValueError as error:
            raise _damaged(MANIFEST, bundle.path, f"a golden command can't be rendered ({error})") from error
        if ids != row["ids"]:
            raise BundleError(
                f"{bundle.path / TOKENIZER_FILE}: golden token ids differ for "
                f"{row['task']!r} {row['input']!r}: "
                f"this version of Promptdial renders commands otherwise than the one that made the bundle. "
                f"Export the checkpoint again with this version"
            )


def _damaged(name: str, folder: Path, why: str) -> BundleError:
    return BundleError(
        f"{folder / name} is damaged: {why}. Restore the file, or export the bundle again with "
        f"`python -m export CHECKPOINT BUNDLE`"
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
