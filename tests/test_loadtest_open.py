"""The open-loop runner as a process over the tiny bundle's service, and the rules it goes by."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.openloop import WARM_UP
from loadtest.records import Record, percentiles, summarise
from loadtest.retries import bounds
from loadtest.slo import Condition, judge
from loadtest.sweep import HOLDS, Search
from tests.make_serve import ROOT, MakeServe, environment, make_serve

WAIT_S = 240.0
# A tiny model answers in milliseconds; on a starved machine a minute may pass, which must not change what is counted.
PATIENT = ["--good-ms", "60000", "--retry-checks", "1"]


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[MakeServe]:
    with make_serve(PROMPTDIAL_BUNDLE=str(tiny_bundle), PROMPTDIAL_THREADS="1") as running:
        running.address()
        yield running


class Runner:
    """`python -m loadtest.openloop` under way; what it says is read as it comes."""

    def __init__(self, folder: Path, *options: str, **variables: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.openloop", "--out", str(folder), *options],
            cwd=ROOT,
            env=environment(**variables),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._said:
                    self.lines.append(line)
                    self._said.notify_all()

    def says(self, pattern: str) -> None:
        """Wait for a line."""
        with self._said:
            assert self._said.wait_for(lambda: any(re.search(pattern, line) for line in self.lines), WAIT_S)

    def end(self) -> int:
        """The exit code."""
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code

    @property
    def report(self) -> dict[str, Any]:
        """What it wrote."""
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found


def check_step(step: dict[str, Any]) -> None:
    """Figures that have to fit each other, whatever was measured."""
    assert step["sent"] == step["ok"] + step["refused"] + step["errors"] + step["left"]
    assert step["sent"] == sum(step["kinds"].values())
    assert step["good"] <= step["ok"]
    for name in ("latency_ms", "service_ms", "first_token_ms", "inter_token_ms", "lateness_ms"):
        found = step[name]
        ordered = [found[each] for each in ("min", "p50", "p90", "p95", "p99", "p99.9", "max")]
        shown = [value for value in ordered if value is not None]
        assert shown == sorted(shown)
    if step["ok"]:
        for each in ("p50", "p99", "max", "mean"):
            assert step["latency_ms"][each] >= step["service_ms"][each] > 0


def test_a_run_is_counted_consistently_and_reported_in_one_json_and_one_page(
    served: MakeServe, tmp_path: Path
) -> None:
    options = ["--url", served.address(), "--rates", "5,10", "--seconds", "3", *PATIENT, "--slo", "errors<=0"]
    runner = Runner(tmp_path, *options, "--slo", "goodput>=0.9")
    assert runner.end() == 0, "".join(runner.lines)
    report = runner.report
    assert [step["offered_per_s"] for step in report["steps"]] == [5, 10]
    for step in report["steps"]:
        check_step(step)
        assert step["ok"] > 0
        assert step["tokens_per_s"] > 0
        assert step["first_token_ms"]["count"] > 0
    assert [each["met"] for each in report["slo"]] == [True] * 4
    context = report["context"]
    assert context["bundle"].startswith("tiny@")
    assert context["threads"] == 1
    assert context["commit"]
    assert context["hardware"]["cores"] >= 1
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == page.count("</svg>") >= 5
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page), "the page loads nothing"
    for word in (context["bundle"], "p99.9", "intended send time", "goodput"):
        assert word in page


def test_the_same_seed_sends_the_same_requests_at_the_same_times(served: MakeServe, tmp_path: Path) -> None:
    sent = []
    for name in ("a", "b"):
        runner = Runner(
            tmp_path / name,
            "--url",
            served.address(),
            "--rates",
            "8",
            "--seconds",
            "2",
            *PATIENT,
            "--seed",
            "7",
        )
        assert runner.end() == 0, "".join(runner.lines)
        sent.append(runner.report["steps"][0])
    assert sent[0]["sent"] == sent[1]["sent"]
    assert sent[0]["tokens_per_s"] == sent[1]["tokens_per_s"]


def test_a_missed_slo_is_named_and_decides_the_exit_code(served: MakeServe, tmp_path: Path) -> None:
    options = ["--url", served.address(), "--rates", "5", "--seconds", "2", *PATIENT]
    runner = Runner(tmp_path, *options, "--slo", "p50<=0.001ms", "--slo", "p50<=10m")
    assert runner.end() == 2, "a condition that can't be read is a wrong option"
    runner = Runner(tmp_path, *options, "--slo", "p50<=0.001ms", "--slo", "errors<=1")
    assert runner.end() == 3
    missed = [line for line in runner.lines if line.startswith("SLO missed")]
    assert len(missed) == 1
    assert "p50<=0.001ms" in missed[0]
    assert [each["met"] for each in runner.report["slo"]] == [False, True]


def test_a_service_that_stalls_shows_in_the_latencies(served: MakeServe, tmp_path: Path) -> None:
    """A closed loop would have sent nothing meanwhile, and seen one slow request."""
    stall_s = 1.0
    runner = Runner(tmp_path, "--url", served.address(), "--rates", "20", "--seconds", "10", *PATIENT)
    under_way(served, runner)
    os.kill(served.server_pid(), signal.SIGSTOP)
    time.sleep(stall_s)  # the stall itself
    os.kill(served.server_pid(), signal.SIGCONT)
    assert runner.end() == 0, "".join(runner.lines)
    (step,) = runner.report["steps"]
    check_step(step)
    assert step["latency_ms"]["max"] >= 0.9 * stall_s * 1000
    # Of about 20 requests that were due during the stall, those of its first half waited for half of it or longer.
    assert sum(latency >= stall_s * 500 for _, latency, _ in step["curve"]) >= 1
    assert step["latency_ms"]["p99"] >= stall_s * 500


def test_a_generator_that_stalls_can_not_hide_it(served: MakeServe, tmp_path: Path) -> None:
    """From the actual send times everything looks fast: the requests left when the generator could send again."""
    stall_s = 2.0
    runner = Runner(tmp_path, "--url", served.address(), "--rates", "20", "--seconds", "10", *PATIENT)
    under_way(served, runner)
    os.kill(runner.process.pid, signal.SIGSTOP)
    time.sleep(stall_s)  # the stall itself
    os.kill(runner.process.pid, signal.SIGCONT)
    assert runner.end() == 0, "".join(runner.lines)
    (step,) = runner.report["steps"]
    check_step(step)
    assert step["lateness_ms"]["max"] >= 0.5 * stall_s * 1000
    assert step["latency_ms"]["max"] >= 0.5 * stall_s * 1000


def test_an_interrupted_run_reports_what_it_has(served: MakeServe, tmp_path: Path) -> None:
    runner = Runner(tmp_path, "--url", served.address(), "--rates", "10,10", "--seconds", "120", *PATIENT)
    under_way(served, runner)
    runner.process.send_signal(signal.SIGINT)
    assert runner.end() == 130
    report = runner.report
    assert report["interrupted"]
    (step,) = report["steps"]
    check_step(step)
    assert 0 < step["seconds"] < 119
    assert "interrupted" in (tmp_path / "report.html").read_text()


def under_way(served: MakeServe, runner: Runner) -> None:
    """Wait until the first step's requests are being answered."""
    runner.says(r"\d/s: ")
    wait_for(lambda: answered(served) >= WARM_UP + 3)


def answered(served: MakeServe) -> int:
    """Requests in the service's log so far, by the newest run."""
    return sum('"path": "/generate"' in line for line in served.lines[mark(served) :])


def mark(served: MakeServe) -> int:
    """Where in the log the newest run began: it asks for the model once."""
    return max(index for index, line in enumerate(served.lines) if '"path": "/model"' in line)


def wait_for(condition: Callable[[], bool]) -> None:
    """Look every little while."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.05)


def test_it_finds_the_knee_of_a_service_of_its_own_and_checks_what_refusals_say(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """Four slots and no queue: a fifth request at a time is refused, so a hundred a second are too many."""
    few = {"PROMPTDIAL_SLOTS": "4", "PROMPTDIAL_MAX_N": "4", "PROMPTDIAL_QUEUE_LIMIT": "0"}
    options = ["--start", "120", "--seconds", "1", "--most-steps", "2", "--hold", "2", "--hold-seconds", "1"]
    runner = Runner(
        tmp_path,
        *options,
        *PATIENT,
        "--bursts",
        "1",
        "--burst-size",
        "12",
        **few,
        PROMPTDIAL_BUNDLE=str(tiny_bundle),
    )
    assert runner.end() == 0, "".join(runner.lines)
    report = runner.report
    for step in report["steps"]:
        check_step(step)
    assert report["knee"]["failed_at_per_s"]
    assert sum(step["refused"] for step in report["steps"]) > 0
    checks = report["retry_after"]["all"]
    assert checks["polled"] == checks["right"] + checks["too_short"] + checks["too_long"]
    assert checks["obeyed"] >= checks["admitted"]
    assert checks["polled"] + checks["obeyed"] + checks["void"] == len(report["checks"]) > 0
    assert report["context"]["settings"]["PROMPTDIAL_SLOTS"] == "4"


def test_a_service_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "--url", "http://127.0.0.1:9")
    assert runner.end() == 1
    assert len(runner.lines) == 1
    assert "make serve" in runner.lines[0]


# --- rules ------------------------------------------------------------------------------------------------------------


def test_the_search_closes_in_on_the_rate_that_holds() -> None:
    true_knee = 37.0
    search = Search(start=5.0, most_steps=40)
    while search.rate is not None:
        search.note(1.0 if search.rate <= true_knee else HOLDS - 0.01)
    found = search.found()
    assert found["rate_per_s"] <= true_knee < found["failed_at_per_s"]
    assert found["failed_at_per_s"] / found["rate_per_s"] < 1.06


def test_one_bad_moment_does_not_end_the_search() -> None:
    search = Search(start=5.0, most_steps=40)
    search.note(0.1)
    assert search.rate == 5.0
    search.note(1.0)
    assert search.held == 5.0
    assert search.failed is None


def test_the_search_goes_down_where_the_first_rate_fails_and_gives_up_at_its_bounds() -> None:
    search = Search(start=8.0, most_steps=40)
    while search.rate is not None:
        search.note(1.0 if search.rate <= 1.7 else 0.0)
    assert search.found()["rate_per_s"] <= 1.7
    search = Search(start=8.0, most_steps=3)
    for _ in range(3):
        search.note(0.0)
    assert search.rate is None
    assert search.found()["rate_per_s"] is None


@pytest.mark.parametrize(
    ("text", "name", "value", "at"),
    [
        ("p99<=500ms", "p99", 500.0, None),
        ("p99.9 <= 1.5s @ 0.8", "p99.9", 1500.0, 0.8),
        ("goodput>=0.9@2", "goodput", 0.9, 2.0),
        ("errors<=1%", "errors", 0.01, None),
        ("first_token_p90<=80", "first_token_p90", 80.0, None),
        ("knee>=10/s", "knee", 10.0, None),
    ],
)
def test_conditions_are_read_as_they_are_written(
    text: str, name: str, value: float, at: float | None
) -> None:
    condition = Condition.parse(text)
    assert (condition.name, condition.at) == (name, at)
    assert condition.value == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["p99", "p98<=1s", "p99<=5/s", "errors<=5ms", "knee>=1@2", "p99==1", "p99<=1s@x", "p50<=1.2.3"]
)
def test_conditions_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Condition.parse(text)


def test_a_condition_on_a_step_that_was_not_measured_is_missed() -> None:
    (verdict,) = judge([Condition.parse("p99<=500ms@0.8")], [], {})
    assert not verdict["met"]


def test_figures_of_a_step_are_those_of_its_requests() -> None:
    def record(intended: float, sent: float, ended: float, outcome: str) -> Record:
        made = Record(intended, sent, False, ended)
        made.outcome, made.kind = outcome, outcome  # type: ignore[assignment]
        return made

    records = [
        record(0.0, 0.5, 1.0, "ok"),
        record(1.0, 1.0, 1.2, "ok"),
        record(1.0, 1.0, 2.5, "ok"),
        record(1.0, 1.1, 1.2, "refused"),
        record(1.0, 1.0, 1.5, "error"),
    ]
    step = summarise(records, 2.0, 1000)
    assert (step["sent"], step["ok"], step["refused"], step["errors"], step["good"]) == (5, 3, 1, 1, 2)
    assert (step["achieved_per_s"], step["goodput_per_s"], step["goodput"]) == (1.0, 1.0, 0.4)
    assert (step["latency_ms"]["max"], step["service_ms"]["max"], step["lateness_ms"]["max"]) == (
        1500,
        1500,
        500,
    )
    assert (step["latency_ms"]["p50"], step["service_ms"]["p50"]) == (1000, 500)


def test_the_999th_of_1000_needs_1000() -> None:
    assert percentiles([1.0] * 999)["p99.9"] is None
    assert percentiles([1.0] * 1000)["p99.9"] == 1.0
    assert percentiles([])["p50"] is None


@pytest.mark.parametrize("said", [0.01, 0.1, 0.25, 0.5, 2.0, 7.0])
def test_an_estimate_is_right_exactly_between_its_bounds(said: float) -> None:
    earliest, latest = bounds(said)

    def right(waited: float) -> bool:
        return abs(said - waited) <= max(0.3 * waited, 0.1)

    for inside in (earliest + 1e-9, said, latest - 1e-9):
        assert inside < 0 or right(inside)
    assert not right(latest + 1e-6)
    assert earliest <= 0 or not right(earliest - 1e-6)
