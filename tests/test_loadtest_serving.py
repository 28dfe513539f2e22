"""The serving report: its figures against a real server, beside the engine alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.serving import main
from service.app import create_app
from service.settings import Settings
from tests.service_live import live


def test_the_report_holds_the_figures_of_each_round_and_their_medians(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        options = [
            "--clients",
            "3",
            "--requests",
            "6",
            "--rounds",
            "2",
            "--max-tokens",
            "8",
            "--threads",
            "1",
        ]
        address = ["--url", str(client.base_url), "--bundle", str(tiny_bundle), "--others", "20"]
        assert main([*address, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["rounds"]) == 2
    summary = report["summary"]
    for name in ("tokens_per_s", "engine_tokens_per_s", "share_of_engine"):
        assert summary[name]["min"] <= summary[name]["median"] <= summary[name]["max"]
        assert summary[name]["min"] > 0
    for name in ("first_token_ms", "inter_token_ms", "total_ms", "score_ms"):
        assert summary[name]["p50"]["median"] <= summary[name]["p99"]["median"]
    assert 0 < summary["scoring_share_of_cpu"]["median"] < 1
    assert report["served"]["model"]["id"].startswith("tiny@")
    assert report["hardware"]["cores"] >= 1


def test_a_server_that_is_not_there_is_told_in_one_line(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", "http://127.0.0.1:9", "--bundle", str(tiny_bundle)]) == 1
    message = capsys.readouterr().err
    assert "make serve" in message
    assert len(message.splitlines()) == 1
