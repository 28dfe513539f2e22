"""One line of JSON per request, with what became of it; its text only where that was asked for."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from promptdial.bundle import load_bundle
from service.app import create_app
from service.settings import Settings
from service.wiring import Backend
from tests.service_live import ScriptedEngine, http_post, live
from tests.test_service_process import entries, running

GOOD: dict[str, Any] = {"task": "expand", "input": "my secret idea"}
TIMINGS = {"queue_ms", "prefill_ms", "decode_ms", "score_ms", "total_ms", "duration_ms"}


def log_of(bundle: Path, *bodies: dict[str, Any], **variables: str) -> list[dict[str, Any]]:
    """What a service writes to answer these requests."""
    with running(PROMPTDIAL_BUNDLE=str(bundle), **variables) as service:
        for body in bodies:
            httpx.post(f"{service.address()}/generate", json=body)
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0
    return entries("".join(service.log))


def access(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of requests."""
    return [entry for entry in log if entry["logger"] == "service.access"]


def test_a_request_is_one_line_with_its_outcome_and_timings(tiny_bundle: Path) -> None:
    log = log_of(
        tiny_bundle,
        GOOD | {"n": 2},
        GOOD | {"stream": True},
        GOOD | {"n": 0},
        {"task": "paint", "input": "my secret idea"},
        GOOD | {"n": 16, "timeout_ms": 1},
    )
    lines = access(log)
    assert [(line["outcome"], line["task"]) for line in lines[:4]] == [
        ("ok", "expand"),
        ("ok", "expand"),
        ("invalid", "unknown"),
        ("invalid", "unknown"),
    ]
    assert lines[4]["outcome"] in {"timeout", "invalid"}  # refused, where it can be told
    assert len(lines) == 5
    assert len({line["request_id"] for line in log if "request_id" in line}) == 5
    for line in lines[:2]:
        assert line.keys() >= TIMINGS | {"n", "prompt_tokens", "completion_tokens"}
    for line in lines[2:]:
        assert line["duration_ms"] > 0
        assert line["code"]


@pytest.mark.parametrize(
    ("behaviour", "stream", "status", "outcome"),
    [
        ("full", False, 429, "overloaded"),
        ("hold", False, 504, "timeout"),
        ("stick", True, 200, "timeout"),
        ("break", True, 200, "error"),
        ("defect", False, 500, "error"),
    ],
)
def test_what_failed_is_one_line_too(
    tiny_bundle: Path,
    caplog: pytest.LogCaptureFixture,
    behaviour: Any,
    stream: bool,
    status: int,
    outcome: str,
) -> None:
    """A stream's status was sent before it failed: the outcome tells."""
    bundle = load_bundle(tiny_bundle)
    engine = ScriptedEngine(bundle.tokenizer())
    app = create_app(Settings(bundle=tiny_bundle), Backend(bundle, engine, bundle.scorer()))
    with live(app) as client, caplog.at_level("INFO"):
        engine.behaviour = behaviour
        client.post("/generate", json=GOOD | {"timeout_ms": 50, "stream": stream})
    lines: list[dict[str, Any]] = [
        vars(record)["fields"] for record in caplog.records if record.name == "service.access"
    ]
    assert [(line["status"], line["outcome"], line["task"]) for line in lines] == [
        (status, outcome, "expand")
    ]
    assert "secret" not in str([vars(record) for record in caplog.records if record.name == "service.access"])


def test_a_client_that_left_is_a_line(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = load_bundle(tiny_bundle)
    engine = ScriptedEngine(bundle.tokenizer())
    app = create_app(Settings(bundle=tiny_bundle), Backend(bundle, engine, bundle.scorer()))
    with caplog.at_level("INFO"):
        with live(app) as client:
            engine.behaviour = "stick"
            url = client.base_url
            with socket.create_connection((url.host, url.port or 80)) as connection:
                connection.sendall(http_post(GOOD | {"stream": True}))
                connection.recv(65536)
            assert engine.cancelled.wait(20)
        outcomes = [
            vars(each)["fields"]["outcome"] for each in caplog.records if each.name == "service.access"
        ]
    assert outcomes == ["cancelled"]


def test_no_line_holds_a_text_by_default(tiny_bundle: Path) -> None:
    log = log_of(tiny_bundle, GOOD, GOOD | {"stream": True}, PROMPTDIAL_LOG_LEVEL="DEBUG")
    assert "secret" not in json.dumps(log)
    assert all({"input", "texts"}.isdisjoint(line) for line in access(log))


def test_texts_are_logged_where_that_is_asked_for_and_the_start_warns(tiny_bundle: Path) -> None:
    log = log_of(tiny_bundle, GOOD | {"n": 2}, PROMPTDIAL_LOG_PROMPTS="1")
    (line,) = access(log)
    assert line["input"] == "my secret idea"
    assert len(line["texts"]) == 2
    (warning,) = [entry for entry in log if entry["level"] == "WARNING"]
    assert "PROMPTDIAL_LOG_PROMPTS" in warning["message"]
