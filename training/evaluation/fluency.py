"""Answers and references for a reader who doesn't know which is which: the sheet, and what the verdicts come to.

    python -m training evaluate BUNDLE --blind sheet.csv          # writes sheet.csv and sheet.key.json
    python -m training fluency sheet.csv sheet.key.json           # once the sheet is filled in

The reader writes `yes` or `no` under `grammatical` and `on_topic` of every row, and never sees the key.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptdial.command import word_count
from training.errors import TrainingError
from training.evaluation import intervals
from training.evaluation.answers import Answer
from training.evaluation.evaluation import Evaluation
from training.evaluation.quality import MODEL, PURPOSES
from training.evaluation.subjects import digest
from training.evaluation.verdict import show

log = logging.getLogger(__name__)

ANSWERS, REFERENCES = 100, 50
# Half of the answers are as long as the references, at the highest relevance; half have one of the report's lengths.
DRAWN_FROM = (PURPOSES[MODEL], "length")
GROUPS = {"up to 30 words": range(31), "31-70 words": range(31, 71), "over 70 words": range(71, 10_000)}
COLUMNS = ("number", "modality", "input", "text", "grammatical", "on_topic")
QUESTIONS = COLUMNS[-2:]
WORDS = {"yes": True, "y": True, "no": False, "n": False}
BAR = 0.9
ANSWER, REFERENCE = "answer", "reference"


@dataclass(frozen=True, slots=True)
class Judged:
    """A row of the sheet, with who wrote it."""

    writer: str
    grammatical: bool
    on_topic: bool
    words: int

    @property
    def both(self) -> bool:
        """Grammatical and on topic."""
        return self.grammatical and self.on_topic


def write_sheet(path: Path, found: Evaluation) -> None:
    """100 answers and 50 references in random order, and the key beside them."""
    rows = _drawn(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, (_, modality, input, text) in enumerate(rows, start=1):
            writer.writerow({"number": number, "modality": modality, "input": input, "text": text})
    key = {
        "bundle": found.name,
        "rows": {
            str(number): [row[0], _fingerprint(row[2], row[3])] for number, row in enumerate(rows, start=1)
        },
    }
    key_path = path.with_suffix(".key.json")
    key_path.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    answers = sum(row[0] == ANSWER for row in rows)
    log.info(
        "wrote %s: %d answers and %d references; the key is %s", path, answers, len(rows) - answers, key_path
    )


def _drawn(found: Evaluation) -> list[tuple[str, str, str, str]]:
    """(writer, modality, input, text) in an order that tells nothing; inputs differ as far as there are enough."""
    version = found.bundle.version
    answers: list[Answer] = []
    for purpose in DRAWN_FROM:
        pool = [each for each in found.answers if each.case.purpose == purpose]
        pool.sort(key=lambda each: digest(version, each.case.subject.input, each.case.length, each.case.seed))
        once: dict[Any, Answer] = {each.case.subject: each for each in reversed(pool)}
        further = (each for each in pool if once[each.case.subject] is not each)
        answers += [*once.values(), *further][: ANSWERS // len(DRAWN_FROM)]
    asked = {each.case.subject for each in answers}
    all_subjects = {each.case.subject for each in found.answers if each.case.purpose == PURPOSES[MODEL]}
    subjects = sorted(
        all_subjects, key=lambda each: (each in asked, digest(version, "reference", each.input))
    )
    rows = [(ANSWER, a.case.subject.modality, a.case.subject.input, a.text) for a in answers]
    rows += [(REFERENCE, each.modality, each.input, each.reference) for each in subjects[:REFERENCES]]
    rows = [(writer, modality, _line(input), _line(text)) for writer, modality, input, text in rows]
    return sorted(rows, key=lambda row: digest(version, *row))


def run(args: argparse.Namespace) -> None:
    """Score a filled-in sheet."""
    text = summary(read_verdicts(args.sheet, args.key))
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def read_verdicts(sheet: Path, key: Path) -> list[Judged]:
    """The sheet's rows with their writers. Raises TrainingError naming the file and line of what is missing."""
    writers = _read_key(key)
    judged = []
    for number, line, row in _read_sheet(sheet):
        if number not in writers:
            raise TrainingError(f"{sheet}, line {line}: row {number!r} is not in {key} or comes twice")
        writer, fingerprint = writers.pop(number)
        if fingerprint != _fingerprint(row["input"] or "", row["text"] or ""):
            raise TrainingError(f"{sheet}, line {line}: not the text that {key} was made for")
        grammatical, on_topic = (_verdict(row, question, f"{sheet}, line {line}") for question in QUESTIONS)
        judged.append(Judged(writer, grammatical, on_topic, word_count(row["text"] or "")))
    if writers:
        raise TrainingError(f"{sheet} lacks row {min(writers, key=int)} and {len(writers) - 1} more of {key}")
    return judged


def summary(judged: Sequence[Judged]) -> str:
    """Shares with intervals as a Markdown table, by length as well, and whether the bar is reached."""
    groups = {writer: [row for row in judged if row.writer == writer] for writer in (ANSWER, REFERENCE)}
    questions: tuple[tuple[str, Callable[[Judged], bool]], ...] = (
        ("grammatical", lambda row: row.grammatical),
        ("on topic", lambda row: row.on_topic),
        ("both", lambda row: row.both),
    )
    lines = [
        f"| | {len(groups[ANSWER])} answers | {len(groups[REFERENCE])} references |", "|---|---:|---:|",
    ]  # fmt: skip
    for label, of in questions:
        shares = [intervals.share(sum(map(of, rows)), len(rows)) for rows in groups.values()]
        lines.append(f"| {label} | {show(shares[0])} | {show(shares[1])} |")
    for label, words in GROUPS.items():
        cells = []
        for rows in groups.values():
            within = [row.both for row in rows if row.words in words]
            cells.append(
                f"{show(intervals.share(sum(within), len(within)))} of {len(within)}" if within else ""
            )
        lines.append(f"| both, {label} | {' | '.join(cells)} |")
    both = intervals.share(sum(row.both for row in groups[ANSWER]), len(groups[ANSWER])).value
    lines += ["", f"Bar: at least {BAR:.0%} of the answers grammatical and on topic: "
              f"{'reached' if both >= BAR else 'not reached'}."]  # fmt: skip
    return "\n".join(lines)


def _read_key(path: Path) -> dict[str, tuple[str, str]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {number: (writer, fingerprint) for number, (writer, fingerprint) in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} is no key of a sheet ({error})") from error


def _read_sheet(path: Path) -> list[tuple[str, int, dict[str, str | None]]]:
    """(number, line, row) of every row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows: list[dict[str, str | None]] = []
            lines = []
            for row in reader:
                rows.append(row)
                lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path} can't be read ({error})") from error
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise TrainingError(f"{path}, line 1: column {missing[0]!r} is missing")
    return [(row["number"] or "", line, row) for row, line in zip(rows, lines, strict=True)]


def _verdict(row: dict[str, str | None], question: str, where: str) -> bool:
    given = (row[question] or "").strip().lower()
    if given not in WORDS:
        raise TrainingError(f"{where}: {question} must be yes or no, not {given!r}")
    return WORDS[given]


def _fingerprint(input: str, text: str) -> str:
    return hashlib.sha256(f"{input}\x1f{text}".encode()).hexdigest()[:12]


def _line(text: str) -> str:
    return " ".join(text.split())
