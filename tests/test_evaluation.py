"""Evaluation: figures on hand-made answers, and the real command on a tiny bundle."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.bundle import export_bundle
from promptdial.bundle import load_bundle
from promptdial.command import Command
from promptdial.relevance import load_scorer
from tests.open_data import ANIMALS, COLORS, PLACES
from tests.test_training_pipeline import training
from training.episodes import Episode
from training.errors import TrainingError
from training.evaluation import (
    answers,
    baselines,
    fluency,
    plan,
    quality,
    samples,
    steering,
    subjects,
    verdict,
)
from training.evaluation.answers import Answer
from training.evaluation.intervals import Estimate
from training.evaluation.plan import Case, Scope
from training.evaluation.quality import COPY, MODEL, OVERALL, REFERENCE, Quality
from training.evaluation.steering import SteeringCell
from training.evaluation.subjects import Subject

SCENERY = re.findall(
    r"\w+",
    "pale light dusk mist drifts over stone wall old river bends softly near tall pines morning frost quiet roof smoke "
    "rises slowly behind open gate long shadow crosses wet grass distant hills fade clouds gather above narrow path",
)


def rows(count: int, modality: str = "image") -> list[dict[str, str]]:
    """Pairs of a short input and a long, faithful output that no other resembles."""
    rng = random.Random(count)
    found = []
    for number in range(count):
        color, animal, place = rng.choice(COLORS), rng.choice(ANIMALS), rng.choice(PLACES)
        scenery = rng.sample(SCENERY, 14)
        output = (
            f"{' '.join(scenery[:3]).capitalize()} {color} {animal} {' '.join(scenery[3:7])} {place}. "
            f"{' '.join(scenery[7:12]).capitalize()} {animal} {' '.join(scenery[12:])} {place}."
        )
        found.append(
            {"input": f"{color} {animal} in the {place} {number}", "output": output, "modality": modality}
        )
    return found


def pairs_file(path: Path, found: Sequence[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 image and 20 video pairs, and tags."""
    found = [*rows(20), *rows(20, "video"), *({**row, "task": "tags"} for row in rows(12))]
    return pairs_file(tmp_path_factory.mktemp("pairs") / "unseen.jsonl", found)


SMALL = ("--inputs", "6", "--cell-inputs", "10")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, pairs: Path) -> Path:
    """A folder with a copy of the tiny bundle, evaluated and written to, its report, and a blind sheet."""
    folder = tmp_path_factory.mktemp("evaluation")
    shutil.copytree(tiny_bundle, folder / "bundle")
    training("evaluate", folder / "bundle", "--pairs", pairs, "--out", folder / "report", *SMALL, "--write",
             "--blind", folder / "sheet.csv")  # fmt: skip
    return folder


def test_the_report_starts_with_the_bars_and_has_every_part(work: Path) -> None:
    text = (work / "report" / "report.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "Verdict"
    assert "n = 1" in text.split("## Verdict")[0]
    table = text.split("## Verdict")[1].split("##")[0]
    assert "| expand | image | video |" in table
    for bar in ("≥ 0.95 × the references'", "distinct-2 ≥ 0.94", "1 − self-BLEU ≥ 0.94", "copy rate ≤", "repetition ≤",
                "content words kept", "copy-input loses overall", "±20 % for ≥ 90%", "| tags |"):  # fmt: skip
        assert bar in table, bar
    assert "✗" in table  # random weights reach few bars
    assert "|  | model | no commands | best of 4 (not n = 1) | reference | template | copy-input |" in text


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.outside: list[str] = []
        self.items = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values["src"] or "")
        self.items += tag == "li"
        self.outside += [value or "" for name, value in values.items() if name in ("src", "href")]


def test_the_html_needs_no_other_file_and_shows_100_answers_the_worst_marked(work: Path) -> None:
    text = (work / "report" / "report.html").read_text()
    page = _Page(text)
    assert len(page.images) == 4
    assert all(each.startswith("data:image/png;base64,iVBOR") for each in page.outside)
    assert page.items == samples.COUNT
    for kind in ("least relevant", "most repetitive", "farthest from its length"):
        assert text.count(f"worst: {kind}") == samples.WORST
    markdown = (work / "report" / "report.md").read_text().split("## 100 answers")[1]
    assert len(re.findall(r"^- ", markdown, re.MULTILINE)) == samples.COUNT


def test_every_answer_is_one_of_one_but_for_the_marked_baseline_with_three_seeds(work: Path) -> None:
    found = [json.loads(line) for line in (work / "report" / "answers.jsonl").read_text().splitlines()]
    assert {row["n"] for row in found if row["purpose"] != "best-of"} == {1}
    assert {row["n"] for row in found if row["purpose"] == "best-of"} == {plan.BEST_OF}
    best = [row for row in found if row["purpose"] == "best"]
    assert len(best) == 2 * 6 * 3
    assert {row["seed"] for row in best} == {0, 1, 2}
    scorer = load_scorer(work / "bundle")
    again = scorer.score([row["input"] for row in best], [row["text"] for row in best])
    assert [row["relevance"] for row in best] == pytest.approx(again, abs=1e-3)
    assert all(row["words"] == len(row["text"].split()) for row in found)


def test_the_calibration_is_joint_per_length_and_target_and_never_under_30_rows(work: Path) -> None:
    manifest = load_bundle(work / "bundle").manifest
    calibration = manifest["calibration"]
    assert set(calibration) == {"expand", "tags"}
    assert {row["length"] for row in calibration["expand"]} == {4, 40}  # the support's cells
    assert len(calibration["expand"]) == 2 * plan.TARGETS
    for row in calibration["expand"]:
        assert row["count"] >= steering.MIN_ROWS
        assert row["p05"] <= row["p10"] <= row["achieved"] <= row["p90"] <= row["p95"]
    assert manifest["metrics"]["expand_image"]["inputs"] == 6
    assert manifest["metrics"]["steering_tags"]["cells"] == 2
    assert manifest["format_version"] == 1


def test_an_interrupted_evaluation_goes_on_where_it_was(work: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = [
        sys.executable,
        "-m",
        "training",
        "evaluate",
        work / "bundle",
        "--pairs",
        pairs,
        "--out",
        out,
        *SMALL,
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    kept = out / "generated.partial.jsonl"
    deadline = time.monotonic() + 240
    while not (kept.is_file() and kept.stat().st_size > 1000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run again, keeps what was done" in said
    with kept.open("a") as file:
        file.write('{"key": "cut o')  # what a kill leaves
    said = training("evaluate", work / "bundle", "--pairs", pairs, "--out", out, *SMALL)
    before = int(re.findall(r"requests, (\d+) of them generated before", said)[0])
    assert before > 0
    assert (out / "answers.jsonl").read_bytes() == (work / "report" / "answers.jsonl").read_bytes()
    assert not kept.exists()


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A bundle of other random weights."""
    from tests.tiny import make_checkpoint  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("other")
    export_bundle(make_checkpoint(folder / "checkpoint", seed=5), folder / "bundle", precision="fp32", name="other",
                  scorer=tiny_bundle)  # fmt: skip
    return folder / "bundle"


def compared(bundle: Path, other: Path, pairs: Path, out: Path) -> list[dict[str, Any]]:
    training("evaluate", bundle, "--pairs", pairs, "--out", out, "--inputs", "5", "--cell-inputs", "4", "--seeds", "1",
             "--against", other)  # fmt: skip
    found: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["differences"]
    return found


def test_a_bundle_does_not_differ_from_itself(work: Path, pairs: Path, tmp_path: Path) -> None:
    found = compared(work / "bundle", work / "bundle", pairs, tmp_path)
    assert len(found) > 20
    assert {row["better"] for row in found} == {None}
    assert {tuple(row["difference"]) for row in found} == {(0.0, 0.0, 0.0)}


def test_two_bundles_are_compared_input_by_input_and_the_report_says_so(
    work: Path, other_bundle: Path, pairs: Path, tmp_path: Path
) -> None:
    there = compared(work / "bundle", other_bundle, pairs, tmp_path / "there")
    back = compared(other_bundle, work / "bundle", pairs, tmp_path / "back")
    assert [row["first"] for row in there] == pytest.approx([row["second"] for row in back])
    assert [row["difference"][0] for row in there] == pytest.approx([-row["difference"][0] for row in back])
    assert any(row["difference"][0] for row in there)
    text = (tmp_path / "there" / "report.html").read_text()
    assert "<h2>Against other@" in text and "no difference shown" in text
    assert len(_Page(text).images) == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"input": "a fox", "output": "A fox."}', r"line 21: field 'modality' is missing or no text"),
        ("{half", r"line 21: not JSON"),
        ('{"input": "a fox", "output": "A fox.", "modality": "audio"}',
         r"line 21: modality 'audio' is unknown to the bundle, it has image, video, template"),
        ('{"input": "a fox", "output": "A fox.", "modality": "image", "task": "sing"}',
         r"line 21: task 'sing' is unknown"),
        ('{"input": "a fox", "output": "A fox.", "modality": "image", "task": 3}', r"line 21: task 3 is unknown"),
    ],
)  # fmt: skip
def test_a_bad_pair_is_named_by_file_and_line(
    tiny_bundle: Path, tmp_path: Path, line: str, said: str
) -> None:
    path = pairs_file(tmp_path / "own.jsonl", rows(20))
    path.write_text(path.read_text() + line + "\n")
    error = training("evaluate", tiny_bundle, "--pairs", path, "--out", tmp_path, code=1).splitlines()[-1]
    assert re.search(f"own.jsonl, {said}", error), error


def test_pairs_that_are_missing_or_hold_nothing_to_compare_with_are_named(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    arguments = ("evaluate", tiny_bundle, "--out", tmp_path, "--pairs")
    assert "nothing.jsonl: there is no such file" in training(*arguments, tmp_path / "nothing.jsonl", code=1)
    assert "empty.jsonl holds no rows" in training(
        *arguments, pairs_file(tmp_path / "empty.jsonl", []), code=1
    )
    tags = pairs_file(tmp_path / "tags.jsonl", [{**row, "task": "tags"} for row in rows(3)])
    assert "no input of task 'expand' has a reference" in training(*arguments, tags, code=1)


def test_the_same_inputs_are_chosen_when_others_are_added() -> None:
    few = [Subject("expand", "image", f"input {number}", "out") for number in range(50)]
    chosen = subjects.choose(few, 10)
    more = [*few, *(Subject("expand", "image", f"later {number}", "out") for number in range(5))]
    assert len(set(chosen) & set(subjects.choose(reversed(more), 10))) >= 7
    assert chosen != subjects.choose(few, 10, "salt")


def test_episodes_with_anothers_output_are_no_subjects_and_only_teachers_write_references() -> None:
    def episode(input: str, method: str, origin: str) -> Episode:
        return Episode("expand", "image", input, "A fox.", origin, method, "s", "MIT", input)

    found = subjects.from_episodes(
        [
            episode("found", "pair", "real"),
            episode("found", "cut", "derived"),
            episode("cut", "cut", "derived"),
            episode("stood in", "pair", "distilled"),
            episode("strange", "mismatched", "derived"),
        ]
    )
    assert {each.input: bool(each.reference) for each in found} == {
        "found": True,
        "cut": False,
        "stood in": False,
    }


def test_a_request_is_clamped_by_the_bundle_that_gets_it(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)  # lengths 3-90; 0.1-0.85 near 40 words
    subject = Subject("expand", "image", "a fox", "A fox.")
    assert Case("best", subject, 1.0, 128, 0).command(bundle) == Command("expand", "image", 0.85, 90)
    assert Case("length", subject, None, 40, 0).command(bundle) == Command("expand", "image", 0.8, 40)
    assert Case("free", subject, None, None, 0).command(bundle) == Command("expand", "image", None, None)


def test_sweeps_cover_the_10th_to_the_90th_percentile_with_the_same_inputs_and_seeds(
    tiny_bundle: Path,
) -> None:
    bundle = load_bundle(tiny_bundle)
    found = [Subject("expand", "image", row["input"], row["output"]) for row in rows(30)]
    cases = [c for c in plan.plan(bundle, found, Scope(5, 12, 2)) if c.purpose == "sweep" and c.length == 40]
    targets = sorted({case.relevance or 0.0 for case in cases})
    assert targets == pytest.approx(np.linspace(0.1 + (0.5 - 0.1) / 9, 0.8, 5), abs=1e-3)
    by_target = [{(c.subject, c.sampling_seed) for c in cases if c.relevance == target} for target in targets]
    assert all(each == by_target[0] and len(each) == 24 for each in by_target)


# Figures on hand-made answers.


def answer(subject: Subject, text: str, relevance: float, purpose: str, seed: int = 0) -> Answer:
    case = Case(purpose, subject, 1.0, subject.reference_words, seed)
    command = Command(subject.task, subject.modality, 0.9, subject.reference_words)
    return Answer(case, command, text, relevance, len(text.split()))


def assessed(tiny_bundle: Path, write: Any, count: int = 24) -> Quality:
    """`expand` for images, answered by `write`, in all three roles, twice."""
    scorer = load_scorer(tiny_bundle)
    found = [Subject("expand", "image", row["input"], row["output"]) for row in rows(count)]
    texts = [write(subject) for subject in found]
    relevance = scorer.score([subject.input for subject in found], texts)
    given = [
        answer(subject, text, value, purpose, seed)
        for purpose in quality.PURPOSES.values()
        for seed in (0, 1)
        for subject, text, value in zip(found, texts, relevance, strict=True)
    ]
    return quality.assess("image", given, scorer.score)


def test_who_writes_the_references_reaches_every_reference_bar(tiny_bundle: Path) -> None:
    found = assessed(tiny_bundle, lambda subject: subject.reference)
    model = found.figures[MODEL]
    assert model[OVERALL].value == pytest.approx(1.0)
    for ratio in (quality.RELEVANCE_RATIO, quality.DISTINCT, quality.DIVERSITY):
        assert model[ratio].to_json() == pytest.approx([1.0, 1.0, 1.0])
    assert all(each.reached for each in verdict._against_references(found))
    assert found.random_relevance < found.figures[REFERENCE][quality.RELEVANCE].value


def test_copying_has_the_highest_relevance_and_loses_all_the_same(tiny_bundle: Path) -> None:
    found = assessed(tiny_bundle, lambda subject: subject.reference)
    copy = found.figures[COPY]
    assert copy[quality.RELEVANCE].value == pytest.approx(1.0, abs=1e-3)
    assert copy[quality.COPYING].value == 1.0
    assert copy[OVERALL].value == 0.0
    copier = assessed(tiny_bundle, lambda subject: subject.input)
    missed = {each.row for each in verdict._against_references(copier) if not each.reached}
    assert missed >= {"copy rate ≤ the references' + 10 %", "copy-input loses overall"}


def test_a_template_and_one_text_for_all_lose_on_diversity(tiny_bundle: Path) -> None:
    found = assessed(
        tiny_bundle, lambda subject: "The same few words about nothing at all, said to everyone who asks."
    )
    assert found.figures[MODEL][quality.DIVERSITY].value == pytest.approx(0.0, abs=1e-6)
    assert found.figures["template"][quality.DIVERSITY].value < 0.8
    assert found.figures["template"][OVERALL].value < found.figures[REFERENCE][OVERALL].value
    assert baselines.template("A fox.", "image", 12).startswith("A detailed image of A fox, ")
    assert 12 <= len(baselines.template("A fox.", "image", 12).split()) <= 20


def test_seeds_are_averaged_within_an_input_before_anything_is_resampled() -> None:
    subject = Subject("expand", "image", "a fox", "A fox in the snow.")
    system = quality.System(
        "model", (subject,) * 2, (("a fox", "A fox in deep snow."),) * 2, np.array([[1.0, 0.5]] * 2)
    )
    assert system.per_input[quality.RELEVANCE].tolist() == [0.75, 0.75]
    assert system.per_input[quality.COPYING].tolist() == pytest.approx([(1 + 2 / 5) / 2] * 2)
    assert system.per_input[quality.WITHIN_20].tolist() == [0.5, 0.5]


def cell(relevance: Any, targets: tuple[float, ...] = (0.2, 0.4, 0.6), length: int = 10) -> SteeringCell:
    found = np.array(relevance, float)  # (inputs, seeds, targets)
    return SteeringCell("expand", length, targets, ("image",) * len(found), found, np.full(found.shape, 9.0))


def test_an_obedient_cell_rises_at_every_step_and_has_no_error() -> None:
    found = cell([[[0.2, 0.4, 0.6]], [[0.2, 0.4, 0.6]]])
    assert (found.rising_steps, found.steps) == (2, 2)
    assert found.spearman.value == pytest.approx(1.0)
    assert found.error.to_json() == [0.0, 0.0, 0.0]
    assert found.within_20.tolist() == [1.0, 1.0]
    assert [each.value for each in found.curve("image")] == pytest.approx([0.2, 0.4, 0.6])


def test_error_is_that_of_single_answers_and_not_of_their_mean() -> None:
    """A mean on target hides answers that miss it on both sides."""
    found = cell([[[0.1, 0.3, 0.5]], [[0.3, 0.5, 0.7]]])
    assert found.error.value == pytest.approx(0.1)
    assert found.bias == pytest.approx(0.0)
    task = steering.TaskSteering("expand", (found, cell([[[0.5, 0.4, 0.4]], [[0.5, 0.4, 0.4]]], length=20)))
    assert task.rising_cells == 1
    assert task.lowest_spearman.length == 20
    bars = {each.column.split(" ")[0]: each for each in verdict._steering(task)}
    assert not bars["mean"].reached


def test_bars_are_judged_by_the_figure_and_the_interval_tells_the_close_ones() -> None:
    reached = verdict.Verdict("bar", "image", "0.96", Estimate(0.01, -0.02, 0.04))
    missed = verdict.Verdict("bar", "image", "0.90", Estimate(-0.05, -0.08, -0.01))
    assert (reached.reached, reached.close) == (True, True)
    assert (missed.reached, missed.close) == (False, False)


def test_calibration_leaves_out_cells_with_too_few_rows() -> None:
    enough = cell(np.tile([0.2, 0.4, 0.6], (10, 3, 1)))
    few = cell(np.tile([0.2, 0.4, 0.6], (9, 3, 1)), length=20)
    found = steering.calibrate([enough, few])["expand"]
    assert [(row["length"], row["target"], row["count"]) for row in found] == [
        (10, 0.2, 30),
        (10, 0.4, 30),
        (10, 0.6, 30),
    ]


def test_of_four_answers_the_most_relevant_is_taken(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, scorer = load_bundle(tiny_bundle), load_scorer(tiny_bundle)
    subject = Subject("expand", "image", "a fox in the snow", "A red fox in the snow.")
    cases = [Case("best-of", subject, 1.0, 20, seed) for seed in range(4)]
    commands = [case.command(bundle) for case in cases]
    texts = answers.generate(bundle, cases, commands, 1, tmp_path / "kept.jsonl")
    assert [len(each) for each in texts] == [plan.BEST_OF] * 4
    found = answers.answer(bundle, cases, scorer, 1, tmp_path / "kept.jsonl")
    for each, candidates in zip(found, texts, strict=True):
        best = max(scorer.score([subject.input] * plan.BEST_OF, candidates))
        assert each.relevance == pytest.approx(best, abs=1e-6)


# The blind sheet.


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, found: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def test_the_sheet_tells_nothing_and_the_key_tells_who_wrote_what(work: Path) -> None:
    found = read(work / "sheet.csv")
    assert set(found[0]) == {"number", "modality", "input", "text", "grammatical", "on_topic"}
    assert {row["grammatical"] + row["on_topic"] for row in found} == {""}
    key = json.loads((work / "sheet.key.json").read_text())["rows"]
    writers = [key[row["number"]][0] for row in found]
    assert (
        writers.count("answer") == 2 * 6 * 3 + 50
    )  # all there are at the references' length, half of 100 at others
    assert writers.count("reference") == 2 * 6
    assert writers != sorted(writers) and writers != sorted(writers, reverse=True)
    texts = {row["output"] for row in rows(20)}
    assert all(
        (row["text"] in texts) == (writer == "reference") for row, writer in zip(found, writers, strict=True)
    )


def test_a_filled_in_sheet_gives_shares_for_answers_and_references(work: Path, tmp_path: Path) -> None:
    key = json.loads((work / "sheet.key.json").read_text())["rows"]
    seen = {"answer": 0, "reference": 0}
    filled = []
    # Every third answer is ungrammatical, every fourth off topic; references are fine.
    for row in read(work / "sheet.csv"):
        writer = key[row["number"]][0]
        seen[writer] += 1
        third, fourth = (writer == "answer" and seen[writer] % each == 0 for each in (3, 4))
        filled.append({**row, "grammatical": "No " if third else "yes", "on_topic": "n" if fourth else "Y"})
    sheet = write_csv(tmp_path / "filled.csv", filled)
    training("fluency", sheet, work / "sheet.key.json", "--out", tmp_path / "fluency.md")
    text = (tmp_path / "fluency.md").read_text()
    assert "| | 86 answers | 12 references |" in text
    assert "| grammatical | 0.674 (" in text and "| on topic | 0.756 (" in text
    assert re.search(r"\| both \| 0\.512 \([^)]*\) \| 1\.000 \(0\.758–1\.000\) \|", text)
    by_length = [int(count) for count in re.findall(r"\| both, [^|]*\|[^|]* of (\d+) \|", text)]
    assert sum(by_length) == 86 and len(by_length) > 1
    assert "not reached" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grammatical": ""}, "line 2: grammatical must be yes or no, not ''"),
        ({"on_topic": "maybe"}, "line 2: on_topic must be yes or no, not 'maybe'"),
        ({"number": "2"}, "line 2: not the text that"),
        ({"text": "another"}, "line 2: not the text that"),
        ({"number": "99"}, "line 2: row '99' is not in"),
    ],
)
def test_a_sheet_that_is_not_filled_in_or_not_its_own_is_named_by_line(
    work: Path, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    found = read(work / "sheet.csv")
    filled = [{**row, "grammatical": "yes", "on_topic": "yes"} for row in found]
    filled[0] |= change
    sheet = write_csv(tmp_path / "filled.csv", filled)
    with pytest.raises(TrainingError, match=re.escape(f"filled.csv, {said}")):
        fluency.read_verdicts(sheet, work / "sheet.key.json")


def test_a_sheet_that_lacks_a_row_or_a_column_is_named(work: Path, tmp_path: Path) -> None:
    key, found = work / "sheet.key.json", read(work / "sheet.csv")
    filled = [{**row, "grammatical": "yes", "on_topic": "yes"} for row in found]
    with pytest.raises(TrainingError, match=r"short\.csv lacks row 98 and 0 more of"):
        fluency.read_verdicts(write_csv(tmp_path / "short.csv", filled[:-1]), key)
    narrow = [{name: value for name, value in row.items() if name != "on_topic"} for row in filled]
    with pytest.raises(TrainingError, match=r"narrow\.csv, line 1: column 'on_topic' is missing"):
        fluency.read_verdicts(write_csv(tmp_path / "narrow.csv", narrow), key)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"other\.json is no key of a sheet"):
        fluency.read_verdicts(work / "sheet.csv", tmp_path / "other.json")
