"""Traces, as a collector gets them: spans over OTLP, in the caller's trace, and no harm where nobody listens."""

from __future__ import annotations

import itertools
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from promptdial.bundle import load_bundle
from service.app import create_app
from service.settings import Settings
from service.tracing import TracingError, endpoint, open_tracing
from service.wiring import Backend
from tests.service_live import WAIT_S, ScriptedEngine, live
from tests.test_service_process import ROOT, START_S, entries, environment, running

GOOD: dict[str, Any] = {"task": "expand", "input": "my secret idea", "max_tokens": 12}
CALLER, TRACE = "00f067aa0ba902b7", "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(ThreadingHTTPServer):
    """An OTLP receiver: what comes is parsed, and refused where it isn't what it should be."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: queue.SimpleQueue[Span] = queue.SimpleQueue()
        self.resources: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, body: bytes) -> None:
        """Note what an export holds."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            pairs = group.resource.attributes
            self.resources.append({pair.key: pair.value.string_value for pair in pairs})
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)

    def trace(self, spans: int) -> dict[str, Span]:
        """So many spans, by their names, once they have come."""
        found = [self.spans.get(timeout=WAIT_S) for _ in range(spans)]
        return {span.name: span for span in found}


class Receiver(BaseHTTPRequestHandler):
    """One connection of a collector."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        right = (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if right:
            self.server.take(body)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200 if right else 400)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield server
        server.shutdown()


def attributes(span: Span) -> dict[str, Any]:
    """A span's attributes as Python's values."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


def scripted(tiny_bundle: Path) -> tuple[Any, ScriptedEngine]:
    """The application over a scripted engine, and that engine."""
    bundle = load_bundle(tiny_bundle)
    engine = ScriptedEngine(bundle.tokenizer())
    return create_app(Settings(bundle=tiny_bundle), Backend(bundle, engine, bundle.scorer())), engine


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_in_the_callers_trace_with_its_phases_inside(
    tiny_bundle: Path, collector: Collector, stream: bool
) -> None:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "order-66"}
        answer = client.post("/generate", json=GOOD | {"n": 2, "stream": stream}, headers=headers)
        client.get("/tasks")  # not traced
        spans = collector.trace(5)
    assert answer.status_code == 200
    assert spans.keys() == {"POST /generate", "queue", "prefill", "decode", "score"}
    whole = spans["POST /generate"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, CALLER)
    assert whole.kind == Span.SPAN_KIND_SERVER
    told = attributes(whole)
    assert told["promptdial.request_id"] == "order-66"
    assert (told["promptdial.task"], told["promptdial.outcome"]) == ("expand", "ok")
    assert (told["http.response.status_code"], told["promptdial.n"]) == (200, 2)
    assert 0 < told["promptdial.completion_tokens"] <= 24
    phases = [spans[name] for name in ("queue", "prefill", "decode", "score")]
    for phase in phases:
        assert (phase.trace_id.hex(), phase.parent_span_id) == (TRACE, whole.span_id)
        assert whole.start_time_unix_nano <= phase.start_time_unix_nano <= phase.end_time_unix_nano
        assert phase.end_time_unix_nano <= whole.end_time_unix_nano
    for before, after in itertools.pairwise(phases):
        assert abs(after.start_time_unix_nano - before.end_time_unix_nano) < 1000  # floats of seconds
    assert collector.resources[0]["service.name"] == "promptdial"
    assert collector.spans.empty()
    assert "secret" not in str([whole, *phases])


def test_without_a_caller_a_request_begins_a_trace_which_the_log_names(
    tiny_bundle: Path, collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "prompts-eu")
    app, _ = scripted(tiny_bundle)
    with live(app) as client, caplog.at_level("INFO"):
        client.post("/generate", json=GOOD | {"score": False}, headers={"traceparent": "nonsense"})
        spans = collector.trace(4)
    assert "score" not in spans
    whole = spans["POST /generate"]
    assert whole.parent_span_id == b""
    (line,) = [vars(record)["fields"] for record in caplog.records if record.name == "service.access"]
    assert line["trace_id"] == whole.trace_id.hex()
    assert collector.resources[0]["service.name"] == "prompts-eu"


def test_a_caller_that_does_not_sample_is_obeyed(tiny_bundle: Path, collector: Collector) -> None:
    app, _ = scripted(tiny_bundle)
    with live(app) as client:
        client.post("/generate", json=GOOD, headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
        client.post("/generate", json=GOOD, headers={"traceparent": f"00-{TRACE[::-1]}-{CALLER}-01"})
        spans = collector.trace(5)
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE[::-1]}
    assert collector.spans.empty()


@pytest.mark.parametrize(
    ("behaviour", "stream", "code", "outcome", "names"),
    [
        ("full", False, "overloaded", "overloaded", []),
        ("hold", False, "deadline_exceeded", "timeout", []),
        ("stick", False, "deadline_exceeded", "timeout", ["decode"]),
        ("break", True, "engine_failed", "error", ["decode"]),
    ],
)
def test_a_request_that_failed_tells_how_far_it_came(
    tiny_bundle: Path,
    collector: Collector,
    behaviour: Any,
    stream: bool,
    code: str,
    outcome: str,
    names: list[str],
) -> None:
    app, engine = scripted(tiny_bundle)
    with live(app) as client:
        engine.behaviour = behaviour
        client.post("/generate", json=GOOD | {"timeout_ms": 50, "stream": stream})
        spans = collector.trace(1 + len(names))
    assert spans.keys() == {"POST /generate", *names}
    told = attributes(spans["POST /generate"])
    assert (told["error.type"], told["promptdial.outcome"]) == (code, outcome)
    is_error = spans["POST /generate"].status.code == Status.STATUS_CODE_ERROR
    assert is_error == (outcome != "overloaded")


def test_the_last_spans_are_sent_before_the_process_ends(tiny_bundle: Path, collector: Collector) -> None:
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle), **told) as service:
        httpx.post(f"{service.address()}/generate", json=GOOD, timeout=WAIT_S)
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0
    assert len(collector.trace(5)) == 5


@pytest.mark.parametrize("away", ["nobody listens", "nobody answers"])
def test_a_collector_that_is_away_delays_no_request_and_no_exit(tiny_bundle: Path, away: str) -> None:
    """More spans than the queue holds; the exporter is stuck or tries again all the time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        if away == "nobody listens":
            mute.close()
        told = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        with running(PROMPTDIAL_BUNDLE=str(tiny_bundle), **told) as service:
            with httpx.Client(base_url=service.address(), timeout=WAIT_S) as client:
                for seed in range(20):
                    answer = client.post("/generate", json=GOOD | {"seed": seed})
                    assert answer.status_code == 200, answer.text
            service.signal(signal.SIGTERM)
            assert service.exit_code() == 0
    assert [entry["outcome"] for entry in entries("".join(service.log)) if "outcome" in entry] == ["ok"] * 20


def test_traces_without_the_extra_end_the_start_with_what_to_do(tiny_bundle: Path) -> None:
    without = "import sys; sys.modules['opentelemetry.sdk'] = None; from service.server import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", without],
        cwd=ROOT,
        env=environment(
            PROMPTDIAL_BUNDLE=str(tiny_bundle), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318"
        ),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 1
    last = entries(ended.stderr)[-1]
    assert last["code"] == "tracing_unavailable"
    assert "promptdial[trace]" in last["message"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in last["message"]
    assert "Traceback" not in ended.stderr


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(TracingError, match="http/protobuf"):
        open_tracing()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, "http://a"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b"}, "http://b"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "otlp"}, "http://a"),
    ],
)
def test_traces_are_on_where_the_standard_variables_say_so(
    told: dict[str, str], expected: str | None
) -> None:
    assert endpoint(told) == expected


def test_off_neither_sdk_nor_exporter_is_loaded() -> None:
    code = (
        "import sys, service.server; from service.app import create_app; create_app(); "
        "print(*[name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
