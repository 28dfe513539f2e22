"""Locust's users over the tiny bundle's service, and SIGTERM under load: as processes, as a person starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.drain import account
from loadtest.records import Record
from tests.make_serve import ROOT, environment, make_serve
from tests.test_loadtest_open import check_step

WAIT_S = 300.0


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A module of loadtest to its end."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def locust(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """One run over a service of its own: exit code, what it said, where its report is."""
    folder = tmp_path_factory.mktemp("locust")
    options = ["--seconds", "14", "--peak-users", "26", "--good-ms", "60000"]
    conditions = ["--slo", "knee>=0.1", "--slo", "p50<=0.001ms"]
    ended = run(
        *("loadtest.closed", "--out", str(folder), *options, *conditions),
        PROMPTDIAL_BUNDLE=str(tiny_bundle),
        PROMPTDIAL_THREADS="1",
    )
    return ended.returncode, ended.stdout + ended.stderr, folder


def test_locusts_users_are_counted_consistently_by_stages(locust: tuple[int, str, Path]) -> None:
    _, output, folder = locust
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    steps = report["steps"]
    assert len(steps) >= 3, output
    offered = [step["offered_per_s"] for step in steps]
    assert offered == sorted(offered)
    for step in steps:
        check_step(step)
    assert sum(step["ok"] for step in steps) > 0
    assert sum(step["left"] for step in steps) > 0, "some left"
    assert report["context"]["bundle"].startswith("tiny@")
    assert report["knee"]["rate_per_s"]
    assert "<svg" in (folder / "report.html").read_text()


def test_locust_itself_shows_first_tokens_and_the_times_between(locust: tuple[int, str, Path]) -> None:
    _, output, _ = locust
    assert "first token" in output
    assert "between tokens" in output
    assert "LEFT" in output


def test_a_missed_slo_decides_locusts_exit_code(locust: tuple[int, str, Path]) -> None:
    code, output, _ = locust
    assert code == 3, output
    assert "SLO missed: p50<=0.001ms" in output
    assert "SLO missed: knee" not in output


def test_locust_says_that_no_service_is_there(tmp_path: Path) -> None:
    ended = run("loadtest.closed", "--url", "http://127.0.0.1:9", "--out", str(tmp_path))
    assert ended.returncode == 1
    assert "make serve" in ended.stderr


def test_the_makefile_passes_the_address_on(tiny_bundle: Path, tmp_path: Path) -> None:
    with make_serve(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as running:
        ended = subprocess.run(
            [
                *("make", "loadtest-open", f"LOADTEST_URL={running.address()}"),
                f"LOADTEST_ARGS=--rates 5 --seconds 1 --good-ms 60000 --out {tmp_path}",
            ],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert running.running
    assert "starting the service" not in ended.stderr
    assert json.loads((tmp_path / "report.json").read_text())["steps"]


def test_sigterm_under_load_loses_no_admitted_request(tiny_bundle: Path) -> None:
    """More than one slot's worth of load, so that requests run and wait when the signal comes."""
    ended = run(
        *("loadtest.drain", "--rate", "60", "--seconds", "5", "--timeout-ms", "60000"),
        **{"PROMPTDIAL_BUNDLE": str(tiny_bundle), "PROMPTDIAL_THREADS": "1", "PROMPTDIAL_SLOTS": "2"},
        **{"PROMPTDIAL_MAX_N": "2"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout)
    assert found["lost"] == []
    assert found["service_exit_code"] == 0
    assert sum(found["fates"].values()) == found["sent"]
    assert found["fates"]["answered"] > 0
    after = sum(
        count for fate, count in found["fates"].items() if "503" in fate or fate == "connection refused"
    )
    assert after > 0, "it went on being asked"


def test_a_request_that_the_log_knows_and_nobody_answered_is_lost() -> None:
    records = {}
    for name, kind in (
        ("a", "cut off: ReadError"),
        ("b", "cut off: ReadError"),
        ("c", "not connected"),
        ("d", "200"),
    ):
        record = records[name] = Record(0.0, 0.0, False, 1.0)
        record.kind = kind
        record.outcome = "ok" if kind == "200" else "error"
    log = [json.dumps({"message": "request", "request_id": name, "status": 200}) for name in ("a", "d")]
    found = account(records, ["no json\n", *log], 0.5)
    assert found["fates"] == {"lost": 1, "closed unread": 1, "connection refused": 1, "answered": 1}
    assert [each["request"] for each in found["lost"]] == ["a"]
