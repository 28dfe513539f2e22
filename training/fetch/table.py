"""The table of sources: which files, at which commit, under which licence, and how they become rows."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError

TABLE = Path(__file__).with_name("sources.toml")
FORMS = {
    "line pairs": ("inputs", "outputs", "teacher", "kind", "modality"),
    "line texts": ("file",),
    "imageinwords": ("file",),
    "styles": ("file",),
    "word list": ("file", "list"),
}
PLACES = ("inputs", "outputs", "file")  # fields that name a file


@dataclass(frozen=True, slots=True)
class File:
    """A file of a repository at a commit; `size` is about its bytes, `sha256` is empty where it isn't known."""

    path: str
    commit: str
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """How files of a source become rows: a key of FORMS, and its fields."""

    form: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """One public home."""

    name: str
    repository: str
    licence: str
    what: str
    note: str
    files: tuple[File, ...]
    conversions: tuple[Conversion, ...]

    @property
    def size(self) -> int:
        """About so many bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Table:
    """All sources, and the base of their URLs."""

    base: str
    sources: tuple[Source, ...]

    def url(self, source: Source, file: File) -> str:
        """Where a file is."""
        return f"{self.base.rstrip('/')}/{source.repository}/{file.commit}/{file.path}"

    def only(self, names: Sequence[str]) -> tuple[Source, ...]:
        """The sources of these names, or all. Raises TrainingError for an unknown one."""
        known = {source.name: source for source in self.sources}
        if unknown := [name for name in names if name not in known]:
            raise TrainingError(f"there is no source {unknown[0]!r}; there are {', '.join(known)}")
        return tuple(known[name] for name in names) if names else self.sources


def load(path: Path = TABLE) -> Table:
    """Read a table. Raises TrainingError naming the file and what is wrong with it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Table(str(data["base"]), tuple(_source(*entry) for entry in data["sources"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} is no table of sources: {error!r}") from error


def _source(name: str, entry: dict[str, Any]) -> Source:
    files = tuple(File(**file) for file in entry["files"])
    conversions = tuple(_conversion(dict(each)) for each in entry["conversions"])
    known = {file.path for file in files}
    for file in files:
        if file.path.startswith("/") or ".." in Path(file.path).parts:
            raise ValueError(f"{name}: {file.path!r} leaves the folder")
    for each in conversions:
        for field in PLACES:
            if field in each.fields and each.fields[field] not in known:
                raise ValueError(f"{name}: {each.fields[field]!r} is none of its files")
    return Source(
        name, entry["repository"], entry["licence"], entry["what"], entry.get("note", ""), files, conversions
    )


def _conversion(entry: dict[str, str]) -> Conversion:
    form = entry.pop("form")
    if form not in FORMS:
        raise ValueError(f"{form!r} is no form; there are {', '.join(FORMS)}")
    if lacking := [field for field in FORMS[form] if field not in entry]:
        raise ValueError(f"{form!r} lacks {lacking[0]!r}")
    return Conversion(form, entry)
