"""Downloaded files -> `pairs.jsonl`, `texts.jsonl`, `styles.jsonl` and `lists.json`, as `prepare` reads them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training import rules
from training.errors import TrainingError
from training.fetch.table import Conversion, Source

log = logging.getLogger(__name__)

EVAL_SHARE = 0.1  # of the inputs, by the hash of their words

Row = dict[str, Any]


@dataclass
class Rows:
    """What conversions made."""

    pairs: list[Row] = field(default_factory=list)
    texts: list[Row] = field(default_factory=list)
    styles: list[Row] = field(default_factory=list)
    lists: dict[str, Row] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """The four files, each whole or not at all; rows that are alike once."""
        for name, rows in (("pairs", self.pairs), ("texts", self.texts), ("styles", self.styles)):
            lines = dict.fromkeys(json.dumps(row, ensure_ascii=False) for row in rows)
            _replace(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        _replace(folder / "lists.json", json.dumps(self.lists, ensure_ascii=False, indent=1) + "\n")


def convert(sources: Sequence[Source], downloads: Path) -> Rows:
    """The rows of all sources. Raises TrainingError naming a file that is not what the table says."""
    rows = Rows()
    for source in sources:
        for each in source.conversions:
            paths = [downloads / source.name / each.fields[name] for name in ("inputs", "outputs", "file")
                     if name in each.fields]  # fmt: skip
            try:
                _CONVERT[each.form](rows, source, each, paths)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise TrainingError(
                    f"{' and '.join(map(str, paths))}: not in the form {each.form!r} ({error!r})"
                ) from error
    return rows


def _line_pairs(rows: Rows, source: Source, conversion: Conversion, paths: Sequence[Path]) -> None:
    """Line by line: an input and what a teacher made of it."""
    inputs, outputs = (list(_lines(path)) for path in paths)
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs but {len(outputs)} outputs")
    teacher, kind, modality = (conversion.fields[name] for name in ("teacher", "kind", "modality"))
    for asked, written in zip(inputs, outputs, strict=True):
        rows.pairs.append(_pair(source, asked, written, kind, modality, teacher))


def _line_texts(rows: Rows, source: Source, conversion: Conversion, paths: Sequence[Path]) -> None:
    rows.texts += [_text(source, line) for line in _lines(paths[0])]


def _imageinwords(rows: Rows, source: Source, conversion: Conversion, paths: Sequence[Path]) -> None:
    """Labels of objects -> the description by people; descriptions by people and by a model as texts."""
    for line in _lines(paths[0]):
        row = json.loads(line)
        labels = dict.fromkeys(rules.clean(each["label"]) for each in row["objects"])
        if len(labels) >= 2:
            rows.pairs.append(_pair(source, ", ".join(labels), row["IIW"], "tags", "image", "human"))
        rows.texts += [_text(source, row[name]) for name in ("IIW", "IIW-P5B") if row.get(name)]


def _styles(rows: Rows, source: Source, conversion: Conversion, paths: Sequence[Path]) -> None:
    """Templates that say more than their slot."""
    for style in json.loads(paths[0].read_text(encoding="utf-8")):
        if "{prompt}" in style["prompt"] and style["prompt"].strip() != "{prompt}":
            row = {
                "name": style["name"],
                "prompt": style["prompt"],
                "negative_prompt": style["negative_prompt"],
            }
            rows.styles.append({**row, **_credit(source)})


def _word_list(rows: Rows, source: Source, conversion: Conversion, paths: Sequence[Path]) -> None:
    """Lines, or the list under `key` (the only list, without one) of a JSON object."""
    path = paths[0]
    if path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        found = [value for name, value in data.items()
                 if isinstance(value, list) and name == conversion.fields.get("key", name)]  # fmt: skip
        if len(found) != 1:
            raise ValueError(f"{len(found)} lists where one was expected")
        values = found[0]
    else:
        values = list(_lines(path))
    cleaned = dict.fromkeys(rules.clean(str(value)).lower() for value in values)
    words = sorted(word for word in cleaned if word)
    if not words:
        raise ValueError("no words")
    rows.lists[conversion.fields["list"]] = {"values": words, **_credit(source)}


_CONVERT: dict[str, Callable[[Rows, Source, Conversion, Sequence[Path]], None]] = {
    "line pairs": _line_pairs,
    "line texts": _line_texts,
    "imageinwords": _imageinwords,
    "styles": _styles,
    "word list": _word_list,
}


def _pair(source: Source, asked: str, written: str, kind: str, modality: str, teacher: str) -> Row:
    asked, written = rules.clean(asked), rules.clean(written)
    share = int.from_bytes(hashlib.sha256(" ".join(rules.words(asked)).encode()).digest()[:4], "big") / 2**32
    return {
        "input": asked, "output": written, "modality": modality, "kind": kind,
        "split": "eval" if share < EVAL_SHARE else "train", "teacher": teacher, **_credit(source),
    }  # fmt: skip


def _text(source: Source, text: str) -> Row:
    return {"text": rules.clean(text), **_credit(source)}


def _credit(source: Source) -> Row:
    return {"source": source.name, "licence": source.licence}


def _lines(path: Path) -> Iterator[str]:
    """Lines that hold something."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield line.strip()


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
