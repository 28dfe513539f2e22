"""`python -m training compare` against real servers: the same inputs for all, each paid for once, paired figures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptdial.bundle import load_bundle
from promptdial.relevance import load_scorer
from tests.teacher_server import Teacher, answer_to, faulty, serving, verdict_on
from tests.test_evaluation import pairs_file, rows
from tests.test_service_process import running
from tests.test_training_pipeline import training
from training.evaluation import intervals
from training.judge import rubric
from training.teacher import templates

QUICK = ("--backoff", "0.01", "--timeout", "30", "--threads", "1")
IMAGES, TAGS = 12, 6


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 image pairs, 6 of tags, 2 of video (too few to compare on), and a task without a template."""
    found = [*rows(IMAGES), *({**row, "task": "tags"} for row in rows(TAGS)), *rows(2, "video"),
             *({**row, "task": "suggest"} for row in rows(3))]  # fmt: skip
    return pairs_file(tmp_path_factory.mktemp("compare") / "unseen.jsonl", found)


def options(pairs: Path, out: Path, student: object, *more: object) -> list[object]:
    return [
        "--pairs",
        pairs,
        "--out",
        out,
        "--student",
        student,
        "--cache",
        out / "judge.jsonl",
        *QUICK,
        *more,
    ]


def report(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text()))


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


class Compared:
    """One comparison with two baselines and a judge, made twice; and what their servers saw."""

    def __init__(self, pairs: Path, bundle: Path, out: Path) -> None:
        self.out = out
        self.llama, self.qwen = Teacher(parameters=8_000_000_000), Teacher()
        self.judge = Teacher(reply=verdict_on)
        with serving(self.llama) as llama, serving(self.qwen) as qwen, serving(self.judge) as judge:
            arguments = options(
                pairs, out, bundle, "--scorer", bundle, "--judge", judge, "--judge-model", "strict",
                "--baseline", f"llama-3={llama}", "--baseline", f"qwen2={qwen}", "--model", "qwen2=qwen2-7b",
                "--parameters", "qwen2=7e9",
            )  # fmt: skip
            self.said = training("compare", *arguments)
            self.first = report(out)
            self.asked = [len(each.log) for each in (self.llama, self.qwen, self.judge)]
            training("compare", *arguments)
            self.asked_again = [len(each.log) for each in (self.llama, self.qwen, self.judge)]


@pytest.fixture(scope="module")
def compared(pairs: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return Compared(pairs, tiny_bundle, tmp_path_factory.mktemp("out"))


def test_every_baseline_gets_the_same_inputs_once_with_a_plain_instruction(compared: Compared) -> None:
    asked = [sorted(text for _, text, _ in each.log) for each in (compared.llama, compared.qwen)]
    assert asked[0] == asked[1]
    assert set(Counter(asked[0]).values()) <= {1, 2}  # an input may be one of expand and of tags
    assert len(asked[0]) == IMAGES + TAGS
    assert {body["model"] for body in compared.llama.bodies} == {"tiny"}
    assert {body["model"] for body in compared.qwen.bodies} == {"qwen2-7b"}
    systems = {each.system for each in templates.load_all()}
    for body in compared.llama.bodies:
        system, user = body["messages"]
        assert re.sub(r"\d+ words", "{length} words", system["content"]) in systems
        assert (user["role"], body["stream"]) == ("user", True)


def test_the_same_command_again_asks_for_nothing_and_says_the_same(compared: Compared) -> None:
    assert compared.asked_again == compared.asked
    again = report(compared.out)
    assert again["groups"] == compared.first["groups"]
    assert {each["requests_of_this_run"] for each in again["systems"].values()} == {0}


def test_groups_with_too_few_inputs_are_left_out_and_said_so(compared: Compared) -> None:
    assert {name: each["inputs"] for name, each in report(compared.out)["groups"].items()} == {
        "expand, image": IMAGES,
        "tags, image": TAGS,
    }
    assert "expand, video: fewer than 4 inputs" in compared.said


def test_figures_follow_from_the_answers_and_differences_are_paired(
    compared: Compared, tiny_bundle: Path
) -> None:
    found = [row for row in answers(compared.out) if row["task"] == "expand"]
    by_system = {
        name: [row for row in found if row["system"] == name]
        for name in ("reference", "llama-3", "qwen2", "student")
    }
    inputs = [row["input"] for row in by_system["reference"]]
    scorer, relevance = load_scorer(tiny_bundle), {}
    for name, own in by_system.items():
        assert [row["input"] for row in own] == inputs
        relevance[name] = np.array(scorer.score(inputs, [row["text"] for row in own]))
    assert [row["text"] for row in by_system["llama-3"]] == [answer_to(text) for text in inputs]
    group = report(compared.out)["groups"]["expand, image"]
    for name, values in relevance.items():
        assert group["systems"][name]["relevance"] == pytest.approx(
            intervals.mean(values).to_json(), abs=2e-3
        )
    for name in ("llama-3", "qwen2"):
        told = group["differences"][name]
        expected = intervals.mean(relevance["student"] - relevance[name])
        assert told["relevance"]["difference"] == pytest.approx(expected.to_json(), abs=2e-3)
        ratio = intervals.ratio(relevance["student"], relevance[name])
        assert told["relevance, ÷ the baseline's, − 1"]["difference"] == pytest.approx(
            [each - 1 for each in ratio.to_json()], abs=2e-3
        )
        within = [
            float(
                np.mean([abs(row["words"] - row["asked_words"]) <= 0.2 * row["asked_words"] for row in own])
            )
            for own in (by_system["student"], by_system[name])
        ]
        length = told["within ±20 % of the reference's length"]
        assert (length["student"], length["baseline"]) == pytest.approx(within, abs=1e-3)


def test_two_systems_that_write_the_same_do_not_differ(compared: Compared) -> None:
    """Both servers answer alike; only the times of the two baselines can differ."""
    told = report(compared.out)["groups"]["expand, image"]
    same = {name: value for name, value in told["systems"]["llama-3"].items() if not name.endswith(", s")}
    assert same == {
        name: value for name, value in told["systems"]["qwen2"].items() if not name.endswith(", s")
    }
    assert told["systems"]["reference"]["distinct-2, ÷ the references'"] == ["1.000"]


def test_times_are_those_of_the_stream(compared: Compared) -> None:
    timed = [row for row in answers(compared.out) if row["system"] != "reference"]
    assert all(row["total_s"] > 0 for row in timed)
    assert all(row["first_s"] is None or 0 < row["first_s"] <= row["total_s"] for row in timed)
    assert all(row["first_s"] is not None for row in timed if row["system"] != "student")
    journal = [json.loads(line) for line in (compared.out / "answers-llama-3.jsonl").read_text().splitlines()]
    assert {row["completion_tokens"] for row in journal} >= {len(answer_to(compared.llama.log[0][1]).split())}


def test_sizes_are_given_or_told_by_the_endpoint(compared: Compared, tiny_bundle: Path) -> None:
    own = load_bundle(tiny_bundle).architecture.parameters
    systems = report(compared.out)["systems"]
    assert systems["student"]["parameters"] == own
    assert systems["llama-3"]["size_ratio"] == pytest.approx(8e9 / own)
    assert systems["qwen2"]["size_ratio"] == pytest.approx(7e9 / own)


def test_the_judge_rates_every_text_in_both_orders_once(compared: Compared) -> None:
    found = answers(compared.out)
    texts = {(row["input"], row["text"]) for row in found}
    asked = Counter(text for _, text, _ in compared.judge.log)
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * len(texts)
    for row in found:
        bodies = [rubric.body("strict", row["input"], row["text"], order) for order in rubric.ORDERS]
        verdicts = [rubric.parse(verdict_on(body["messages"][-1]["content"])).relevance for body in bodies]
        assert row["judged"] == pytest.approx(sum(verdicts) / 2, abs=1e-4)


def test_the_report_has_verdicts_tables_and_plots(compared: Compared) -> None:
    text = (compared.out / "report.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[:2] == ["Verdict", "Systems"]
    assert "expand, image: student − llama-3" in headings
    assert "|  | reference | llama-3 | qwen2 | student |" in text
    for name in re.findall(r"\]\((.*?\.png)\)", text):
        assert (compared.out / name).read_bytes().startswith(b"\x89PNG")
    assert (compared.out / "report.html").read_text().count("data:image/png;base64") == 5


def test_faults_of_a_stream_cost_no_answer(pairs: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    teacher = Teacher(faulty(0.3, seed=8))
    with serving(teacher) as url:
        training("compare", *options(pairs, tmp_path, tiny_bundle, "--baseline", f"llama={url}"))
    assert {"half", "other", "cut stream", "failed stream"} & {done for done, _, _ in teacher.log}
    told = report(tmp_path)
    attempts = Counter(teacher.outcomes)
    attempts["200"] += 1  # GET /models
    assert told["systems"]["llama"]["attempts"] == dict(attempts)
    assert told["left_out"] == 0
    for row in answers(tmp_path):
        assert row["system"] != "llama" or row["text"] == answer_to(row["input"])


def test_an_input_that_one_system_can_t_answer_is_left_out_for_all(
    pairs: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    chosen = json.loads(pairs.read_text().splitlines()[3])["input"]
    refusing = Teacher(lambda asked, before: "refuse" if asked == chosen else "answer")
    with serving(refusing) as bad, serving(Teacher()) as good:
        training(
            "compare",
            *options(pairs, tmp_path, tiny_bundle, "--baseline", f"bad={bad}", "--baseline", f"good={good}"),
        )
    assert report(tmp_path)["left_out"] == 1
    assert report(tmp_path)["groups"]["expand, image"]["inputs"] == IMAGES - 1
    assert chosen not in {row["input"] for row in answers(tmp_path) if row["task"] == "expand"}


def test_a_killed_comparison_goes_on_without_paying_again(
    pairs: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    log, kills, kept = tmp_path / "server.log", 3, 0
    server = subprocess.Popen([sys.executable, "-m", "tests.teacher_server", str(log), "0.1", "3", "0"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        arguments = options(pairs, tmp_path / "out", tiny_bundle, "--baseline", f"llama={url}")
        journal = tmp_path / "out" / "answers-llama.jsonl"
        for _ in range(kills):
            process = subprocess.Popen(
                [sys.executable, "-m", "training", "compare", *map(str, arguments), "--requests-per-minute", "240"],
                stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            while process.poll() is None and (
                not journal.exists() or journal.read_bytes().count(b"\n") < kept + 4
            ):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kept = journal.read_bytes().count(b"\n")
        assert 0 < kept < IMAGES + TAGS
        training("compare", *arguments)
    finally:
        server.communicate("")
    done = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(done) == len(set(done)) == IMAGES + TAGS
    served = Counter(
        asked for done, asked in map(json.loads, log.read_text().splitlines()) if done == "answer"
    )
    assert served.total() - (IMAGES + TAGS) <= kills  # one at a time
    assert report(tmp_path / "out")["systems"]["llama"]["requests"] == IMAGES + TAGS


def test_the_student_may_be_a_running_service(pairs: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    with serving(Teacher()) as url, running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service:
        training(
            "compare",
            *options(
                pairs, tmp_path, service.address(), "--scorer", tiny_bundle, "--baseline", f"llama={url}"
            ),
        )
    told = report(tmp_path)
    bundle = load_bundle(tiny_bundle)
    assert told["systems"]["student"]["model"] == f"tiny@{bundle.version}"
    assert told["systems"]["student"]["parameters"] == bundle.architecture.parameters
    assert told["groups"]["expand, image"]["inputs"] == IMAGES
    mine = [row for row in answers(tmp_path) if row["system"] == "student"]
    assert any(row["text"] for row in mine)
    assert all(row["total_s"] > 0 for row in mine)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--baseline", "student=http://127.0.0.1:1/v1"], "'student' is no name for a baseline"),
        (["--baseline", "a/b=http://127.0.0.1:1/v1"], "'a/b' is no name for a baseline"),
        (["--baseline", "a=http://x/v1", "--baseline", "a=http://y/v1"], "two baselines have one name"),
        (
            ["--baseline", "a=http://x/v1", "--model", "b=m"],
            "--model b=...: there is no baseline of that name",
        ),
        (["--baseline", "a=http://127.0.0.1:1/v1", "--attempts", "1"], "/models: connection; is it up?"),
    ],
)
def test_what_can_t_be_compared_is_said(
    pairs: Path, tiny_bundle: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in training("compare", *options(pairs, tmp_path, tiny_bundle, *arguments), code=1)
    assert "no running service" in training(
        "compare", *options(pairs, tmp_path, "http://127.0.0.1:1", "--baseline", "a=http://x/v1"), code=1
    )
