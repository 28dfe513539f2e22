"""The latency report: what it prints against a real server, and what it says where there is none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from loadtest.latency import PARTS, main, percentiles
from tests.make_serve import make_serve


@contextmanager
def another_program(content: bytes) -> Iterator[str]:
    """The address of a server that answers everything with 200 and the same content."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to say."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_percentiles_lie_between_the_extremes() -> None:
    assert percentiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0, "mean": 3.0, "min": 3.0, "max": 3.0}
    found = percentiles([float(value) for value in range(1, 102)])
    assert (found["p50"], found["p90"], found["p99"]) == (51.0, 91.0, 100.0)


def test_the_report_holds_the_figures_and_what_they_belong_to(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_serve(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as running:
        options = ["--requests", "3", "--warmup", "1", "--max-tokens", "4", "--target-length", "12"]
        assert main(["--url", running.address(), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["requests"] == 3
    assert report["wall_ms"]["min"] >= report["server"]["total_ms"]["min"] > 0
    assert set(report["server"]) == set(PARTS)
    assert report["completion_tokens"]["max"] <= 4
    assert report["served"]["model"]["id"].startswith("tiny@")
    assert report["served"]["build"]["onnxruntime"]
    assert report["hardware"]["cores"] >= 1


def test_a_server_that_is_not_there_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:9", "--requests", "1"]) == 1
    message = capsys.readouterr().err
    assert "make serve" in message
    assert len(message.splitlines()) == 1


def test_a_refused_request_is_told_with_the_servers_reason(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_serve(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as running:
        assert main(["--url", running.address(), "--task", "nonsense"]) == 1
    assert "422" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"<html>hello</html>", b"7", b"{}", b'{"timing": {}, "usage": 1}', b"\xff"]
)
def test_another_program_at_the_address_is_told_in_one_line(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with another_program(content) as url:
        assert main(["--url", url, "--requests", "1"]) == 1
    message = capsys.readouterr().err
    assert "not answered by Promptdial" in message
    assert len(message.splitlines()) == 1
