"""The service as other programs see it: requests by curl, metrics through Prometheus's own checker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.make_serve import make_serve

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def address(tiny_bundle: Path) -> Iterator[str]:
    with make_serve(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as running:
        yield running.address()


def curl(*arguments: str, body: bytes = b"") -> bytes:
    """What curl prints; ``body`` is its standard input."""
    command = ["curl", "--silent", "--show-error", "--max-time", "30", *arguments]
    return subprocess.run(command, input=body, check=True, capture_output=True).stdout


def generate(address: str, body: bytes, *arguments: str) -> bytes:
    """POST /generate with exactly these bytes."""
    header = ("--header", "Content-Type: application/json")
    return curl("--data-binary", "@-", *header, *arguments, f"{address}/generate", body=body)


def test_curl_gets_a_prompt(address: str) -> None:
    answer = json.loads(
        generate(address, b'{"task": "expand", "input": "a fox in the snow"}', "--fail-with-body")
    )
    assert answer["task"] == "expand"
    assert len(answer["candidates"]) == 1


def test_curl_keeps_one_connection_for_several_requests(address: str) -> None:
    connections = curl(
        *("--output", "/dev/null", "--output", "/dev/null", "--write-out", "%{num_connects} "),
        *(f"{address}/livez", f"{address}/readyz"),
    )
    assert connections.split() == [b"1", b"0"]


def test_bytes_that_are_not_utf_8_are_the_callers_mistake(address: str) -> None:
    status = generate(
        address,
        b'{"task": "expand", "input": "\xff\xfe"}',
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
    )
    assert status in {b"400", b"422"}


def test_prometheus_takes_every_metric_without_a_complaint(address: str) -> None:
    generate(address, b'{"task": "expand", "input": "a fox in the snow"}')
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=curl(f"{address}/metrics"), check=False, capture_output=True
    )
    assert (checked.returncode, checked.stderr.decode()) == (0, "")
