"""The comparison of the service with and without metrics and logs: the report has both, and the noise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.test_service_process import ROOT, environment


def test_both_ways_are_measured_in_one_process(tiny_bundle: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest.overhead", "--bundle", str(tiny_bundle), "--rounds", "2"),
            *("--requests", "4", "--clients", "2", "--max-tokens", "8", "--scrape", "0.01"),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert len(report["rounds"]) == 2
    for name in ("on", "off", "control"):
        assert report["summary"][name]["tokens_per_s"]["min"] > 0
    for name in ("on_tokens_per_s_ratio", "control_cpu_us_per_token_ratio"):
        ratio = report["summary"][name]
        assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert {"hardware", "versions", "commit", "arguments", "served"} <= report.keys()


def test_a_bundle_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.overhead", "--bundle", str(tmp_path / "nothing")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 1
    assert str(tmp_path / "nothing") in ended.stderr
    assert "Traceback" not in ended.stderr
