"""`python -m training judge` against a real server: nothing paid for twice, and only whole verdicts become labels."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from promptdial.relevance import load_scorer
from tests import open_data
from tests.teacher_server import Teacher, faulty, serving, verdict_on
from tests.test_training_pipeline import training
from training.episodes import Episode, read_episodes
from training.errors import TrainingError
from training.evaluation import intervals
from training.judge import rubric, verdicts
from training.judge.rubric import Malformed
from training.judge.verdicts import Judged

QUICK = ("--backoff", "0.01", "--timeout", "20", "--concurrency", "4")
PAIRS = 60


def judge_server(script: Any = None, **more: Any) -> Teacher:
    return Teacher(script or (lambda asked, before: "answer"), reply=verdict_on, **more)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of 60 pairs, 6 of which no judge can make sense of, and each of them twice."""
    rng = random.Random(4)
    found = []
    for number in range(PAIRS):
        words = ["".join(rng.choices("bdfgklmnprst", k=2)) + rng.choice("aeiou") + "n" for _ in range(5)]
        kept = words[: number % 6]
        asked = " ".join(words) + (" garbled" if number % 10 == 0 else "")
        found.append(
            {"input": asked, "output": f"A scene of {number} with " + " ".join([*kept, "and light."])}
        )
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*found, *found)), encoding="utf-8")
    return path


def options(folder: Path, url: str, scorer: Path, out: str = "verdicts.parquet") -> list[object]:
    return [
        "--judge",
        url,
        "--out",
        folder / out,
        "--cache",
        folder / "cache.jsonl",
        "--scorer",
        scorer,
        *QUICK,
    ]


def judge(
    rows: Path, url: str, scorer: Path, *more: object, out: str = "verdicts.parquet", code: int = 0
) -> str:
    return training("judge", rows, *options(rows.parent, url, scorer, out), *more, code=code)


def facts(folder: Path, name: str = "verdicts.json") -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))


def test_each_pair_is_asked_in_two_orders_once_and_for_good(rows: Path, tiny_bundle: Path) -> None:
    teacher = judge_server()
    with serving(teacher) as url:
        judge(rows, url, tiny_bundle)
        first = verdicts.read(rows.parent / "verdicts.parquet")
        judge(rows, url, tiny_bundle, out="again.parquet")
    asked = Counter(asked for _, asked, _ in teacher.log)
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * PAIRS
    assert sum(text.startswith("Request:") for text in asked) == PAIRS
    assert {body["temperature"] for body in teacher.bodies} == {0.0}
    assert {body["model"] for body in teacher.bodies} == {"tiny"}  # the first that the endpoint lists
    again = verdicts.read(rows.parent / "again.parquet")
    assert [_key(each) for each in again] == [_key(each) for each in first]
    assert facts(rows.parent, "again.json")["requests_of_this_run"] == 0


def _key(judged: Judged) -> tuple[str, str, str, str]:
    return judged.input, judged.output, judged.status, f"{judged.relevance:.6f}"


def test_a_verdict_is_the_mean_of_both_orders_and_their_difference_is_told(
    rows: Path, tiny_bundle: Path
) -> None:
    with serving(judge_server()) as url:
        judge(rows, url, tiny_bundle)
    found = verdicts.read(rows.parent / "verdicts.parquet")
    usable = [each for each in found if each.status == "ok"]
    assert len(usable) == PAIRS - PAIRS // 10
    for each in usable:
        asked = set(each.input.split())
        kept = round(4 * len(asked & set(each.output.lower().split())) / len(asked)) / 4
        assert (each.first, each.second) == pytest.approx((kept, kept * 3 / 4))
        assert (each.relevance, each.disagreement) == pytest.approx((kept * 7 / 8, kept / 4))
    told = facts(rows.parent)
    scores = load_scorer(tiny_bundle).score([e.input for e in usable], [e.output for e in usable])
    expected = intervals.spearman([each.relevance for each in usable], scores)
    assert told["spearman"][0] == pytest.approx(expected, abs=1e-3)
    assert told["disagreement_of_orders"][0] == pytest.approx(
        sum(e.disagreement for e in usable) / len(usable), abs=1e-4
    )
    report = (rows.parent / "verdicts.md").read_text()
    assert f"Spearman {told['spearman'][0]:.2f}" in report
    assert "![relevance by the judge against relevance by the embedding scorer](verdicts.png)" in report
    assert (rows.parent / "verdicts.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64" in (rows.parent / "verdicts.html").read_text()


def test_malformed_verdicts_are_counted_and_become_no_labels(rows: Path, tiny_bundle: Path) -> None:
    teacher = judge_server()
    with serving(teacher) as url:
        judge(rows, url, tiny_bundle)
    told = facts(rows.parent)
    assert told["status"] == {"ok": PAIRS - 6, "malformed": 6}
    assert sum(told["malformed_answers"].values()) == 12
    garbled = {each.input for each in verdicts.read(rows.parent / "verdicts.parquet") if each.status != "ok"}
    assert len(garbled) == 6
    assert all("garbled" in text for text in garbled)
    labels = verdicts.labels(rows.parent / "verdicts.parquet")
    assert len(labels) == PAIRS - 6
    assert not garbled & {input for input, _ in labels}


def test_faults_of_the_endpoint_cost_no_verdict(rows: Path, tiny_bundle: Path) -> None:
    teacher = judge_server(faulty(0.2, seed=2))
    with serving(teacher) as url:
        judge(rows, url, tiny_bundle, "--model", "tiny")
    assert facts(rows.parent)["attempts"] == dict(teacher.outcomes)
    assert facts(rows.parent)["status"] == {"ok": PAIRS - 6, "malformed": 6}
    answered = Counter(asked for done, asked, _ in teacher.log if done == "answer")
    assert set(answered.values()) == {1}


def test_what_the_endpoint_refuses_is_unanswered_and_no_label(rows: Path, tiny_bundle: Path) -> None:
    refused = judge_server(lambda asked, before: "refuse" if "scene of 7 with" in asked else "answer")
    with serving(refused) as url:
        judge(rows, url, tiny_bundle)
    assert facts(rows.parent)["status"] == {"ok": PAIRS - 7, "malformed": 6, "unanswered": 1}
    assert len(verdicts.labels(rows.parent / "verdicts.parquet")) == PAIRS - 7


def test_killing_the_judge_again_and_again_pays_for_nothing_twice_but_what_was_in_flight(
    rows: Path, tiny_bundle: Path
) -> None:
    log, kills, folder = rows.parent / "server.log", 4, rows.parent
    server = subprocess.Popen([sys.executable, "-m", "tests.teacher_server", str(log), "0.1", "5", "0", "judge"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        cache = folder / "cache.jsonl"
        kept: list[bytes] = []
        for _ in range(kills):
            process = subprocess.Popen(
                [sys.executable, "-m", "training", "judge", str(rows),
                 *map(str, options(folder, url, tiny_bundle)), "--requests-per-minute", "1800"],
                stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            enough = len(kept) + 15
            while process.poll() is None and (not cache.exists() or cache.read_bytes().count(b"\n") < enough):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            now = cache.read_bytes().split(b"\n")[:-1]
            assert now[: len(kept)] == kept
            kept = now
        assert 0 < len(kept) < 2 * PAIRS
        judge(rows, url, tiny_bundle)
    finally:
        server.communicate("")
    answers = [json.loads(line) for line in cache.read_text().splitlines()]
    assert len({row["key"] for row in answers}) == len(answers) == 2 * PAIRS
    served = Counter(
        asked for done, asked in map(json.loads, log.read_text().splitlines()) if done == "answer"
    )
    assert len(served) == 2 * PAIRS
    assert served.total() - 2 * PAIRS <= kills * 4  # concurrency
    assert facts(folder)["status"] == {"ok": PAIRS - 6, "malformed": 6}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Episodes, and a judge's verdicts on 40 of them."""
    folder = tmp_path_factory.mktemp("judged")
    open_data.write(folder / "data")
    prepare(folder, tiny_bundle, "plain")
    with serving(judge_server()) as url:
        training("judge", folder / "plain", *options(folder, url, tiny_bundle), "--count", "40")
    return folder


def prepare(folder: Path, scorer: Path, out: str, *more: object) -> list[Episode]:
    training(
        "prepare",
        "--data-dir",
        folder / "data",
        "--out",
        folder / out,
        "--scorer",
        scorer,
        *("--generated", "60", "--written", "60"),
        *more,
    )
    return [episode for split in ("train", "validation") for episode in read_episodes(folder / out, split)]


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_labels_are_the_judge_s_blended_with_the_scorer_s(
    prepared: Path, tiny_bundle: Path, share: float
) -> None:
    before = {(e.task, e.modality, e.input, e.output): e.relevance for e in _read(prepared)}
    labels = verdicts.labels(prepared / "verdicts.parquet")
    after = prepare(prepared, tiny_bundle, f"blended-{share}", "--verdicts", prepared / "verdicts.parquet",
                    "--judge-share", share)  # fmt: skip
    changed = 0
    for each in after:
        own = before[each.task, each.modality, each.input, each.output]
        judged = labels.get((each.input, each.output))
        assert each.relevance == pytest.approx(
            own if judged is None else share * judged + (1 - share) * own, abs=1e-6
        )
        changed += judged is not None
    assert changed >= 40
    card = (prepared / f"blended-{share}" / "CARD.md").read_text()
    assert f"The relevance of {changed} episodes is {share:g} of a judge's verdict" in card


def _read(folder: Path) -> list[Episode]:
    return [
        episode for split in ("train", "validation") for episode in read_episodes(folder / "plain", split)
    ]


def test_a_file_without_usable_verdicts_is_refused(tmp_path: Path) -> None:
    verdicts.write(tmp_path / "none.parquet", [Judged("a fox", "a fox runs", "malformed", "tiny")])
    with pytest.raises(TrainingError, match="none of its 1 verdicts can be used"):
        verdicts.labels(tmp_path / "none.parquet")
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    with pytest.raises(TrainingError, match=r"other\.parquet holds no verdicts"):
        verdicts.labels(tmp_path / "other.parquet")


def test_a_judge_of_whom_nothing_can_be_used_ends_with_an_error_and_a_report(
    rows: Path, tiny_bundle: Path
) -> None:
    with serving(Teacher()) as url:  # describes instead of judging
        said = judge(rows, url, tiny_bundle, code=1)
    assert "no verdict can be used" in said
    assert facts(rows.parent)["status"] == {"malformed": PAIRS}


def test_an_input_that_can_t_be_read_is_named(tmp_path: Path, tiny_bundle: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"input": "a fox"}\n')
    assert "line 1: field 'output' is missing" in judge(rows, "http://127.0.0.1:1/v1", tiny_bundle, code=1)
    assert "no episodes folder" in judge(tmp_path / "none", "http://127.0.0.1:1/v1", tiny_bundle, code=1)


GOOD = '{"entities": 4, "attributes": null, "counts": 2, "quoted_text": null, "consistent": 2}'


def test_relevance_is_what_was_kept_times_what_is_not_contradicted() -> None:
    for answer in (GOOD, f"```json\n{GOOD}\n```", f" {GOOD}\n"):
        assert rubric.parse(answer).relevance == pytest.approx((1 + 0.5) / 2 * 0.5)


@pytest.mark.parametrize(
    "answer",
    [
        "", "4", "null", "[]", "{}", GOOD[:-1], f"Here it is: {GOOD}", f"{GOOD} I hope this helps.", f"{GOOD}{GOOD}",
        GOOD.replace("4", "5"), GOOD.replace("4", "-1"), GOOD.replace("4", '"4"'), GOOD.replace("4", "3.5"),
        GOOD.replace("4", "true"), GOOD.replace("4", "null"), GOOD.replace("4", "NaN"), GOOD[:-1] + ', "more": 1}',
        f"```\n{GOOD}\n```\nThat is my verdict.",
    ],
)  # fmt: skip
def test_anything_but_one_whole_verdict_is_malformed(answer: str) -> None:
    with pytest.raises(Malformed):
        rubric.parse(answer)
