"""A real Prometheus over a running service: it takes every metric, and every query and rule gives something.

The configuration is the one in deploy/prometheus, with shorter intervals and the test's address.
"""

from __future__ import annotations

import itertools
import math
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import pytest

from deploy.grafana import dashboard
from tests.test_service_process import ROOT, running

pytestmark = pytest.mark.system

PROMETHEUS = ROOT / "deploy" / "prometheus"
DEADLINE_S = 180.0
POLL_S = 0.25
MOST_REQUESTS = 2_000
SUBSTITUTES = {"$__rate_interval": "15s", "$__range": "1h", "$task": ".*"}

# A bit of everything that is counted: tasks, streams, clamped targets, mistakes, deadlines.
BODIES: tuple[dict[str, Any], ...] = (
    *({"task": task, "input": "a fox in the snow"} for task in ("expand", "tags", "brief", "style")),
    {"task": "compress", "input": "a fox in the snow, pine trees", "n": 3},
    {"task": "suggest", "input": "a fox", "stream": True},
    {"task": "expand", "input": "a fox", "target_length": 9999, "target_relevance": 1.0},
    {"task": "expand", "input": "a fox", "n": 0},
    {"task": "tags", "input": "fox, snow", "n": 16, "max_tokens": 120, "timeout_ms": 2},
)


def promtool(*arguments: str) -> str:
    """What promtool prints, where it is content."""
    ended = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_prometheus_takes_configuration_and_rules() -> None:
    assert "2 rule files found" in promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "recording.yml", "alerts.yml")


@pytest.mark.parametrize("name", sorted(path.name for path in (PROMETHEUS / "tests").glob("*.yml")))
def test_alerts_fire_in_their_trouble_and_in_no_other(name: str) -> None:
    promtool("test", "rules", f"tests/{name}")


@dataclass(frozen=True)
class Prometheus:
    """A running server, by its HTTP interface."""

    client: httpx.Client

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer, which must be a success."""
        answer = self.client.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        assert (answer.status_code, body["status"]) == (200, "success"), body
        return body["data"]

    def values(self, expression: str) -> list[float]:
        """What an expression gives now: numbers, without those that aren't."""
        data = self.get("query", query=expression)
        results = [data["result"]] if data["resultType"] == "scalar" else data["result"]
        numbers = [float(each["value"][1]) if isinstance(each, dict) else float(each[1]) for each in results]
        return [number for number in numbers if math.isfinite(number)]

    def rules(self, kind: str) -> list[dict[str, Any]]:
        """All rules: `alert` or `record`."""
        return [rule for group in self.get("rules", type=kind)["groups"] for rule in group["rules"]]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """The deployed configuration, hurried, over a target; ended whatever happens."""
    copytree(PROMETHEUS, folder / "config")
    path = folder / "config" / "prometheus.yml"
    text = path.read_text().replace("15s", "1s").replace("scrape_timeout: 5s", "scrape_timeout: 1s")
    assert "promptdial:8000" in text
    path.write_text(text.replace("promptdial:8000", target))
    address = f"127.0.0.1:{free_port()}"
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ],
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        with httpx.Client(
            base_url=f"http://{address}", timeout=30, transport=httpx.HTTPTransport(retries=5)
        ) as client:
            deadline = time.monotonic() + DEADLINE_S
            while not is_ready(client):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(POLL_S)
            yield Prometheus(client)
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def is_ready(client: httpx.Client) -> bool:
    """Whether it answers queries."""
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def watched(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Prometheus]]:
    """A running service's address and a Prometheus that scrapes it."""
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service:
        address = service.address()
        with prometheus(tmp_path_factory.mktemp("prometheus"), address.removeprefix("http://")) as server:
            yield address, server


def leave(address: str) -> None:
    """A client that goes away amid its answer."""
    body = {"task": "expand", "input": "a fox", "n": 16, "max_tokens": 120, "stream": True}
    with httpx.stream("POST", f"{address}/generate", json=body, timeout=30):
        pass


def until_all_give_something(server: Prometheus, address: str, queries: dict[str, str]) -> dict[str, str]:
    """Ask under load until each has given a number, or the time is up; what is left has not."""
    left = dict(queries)
    requests = itertools.islice(itertools.cycle(BODIES), MOST_REQUESTS)
    deadline = time.monotonic() + DEADLINE_S
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=address, timeout=30) as client:
        while left and time.monotonic() < deadline:
            sent = [
                pool.submit(client.post, "/generate", json=body) for body in itertools.islice(requests, 9)
            ]
            leave(address)
            for each in sent:
                each.result()
            left = {name: expression for name, expression in left.items() if not server.values(expression)}
    return left


def substituted(expression: str, instance: str) -> str:
    """As Grafana would send it."""
    for name, value in (SUBSTITUTES | {"$instance": instance}).items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def test_every_query_of_the_dashboard_gives_something_under_load(watched: tuple[str, Prometheus]) -> None:
    address, server = watched
    instance = address.removeprefix("http://")
    found = dashboard.expressions(dashboard.TARGET.read_text())
    queries = {f"{title}: {expr}": substituted(expr, instance) for title, expr in found}
    assert len(queries) > 40
    assert until_all_give_something(server, address, queries) == {}


def test_every_recording_rule_gives_something_and_is_recorded(watched: tuple[str, Prometheus]) -> None:
    address, server = watched
    rules = server.rules("record")
    assert len(rules) >= 14
    queries = {f"{rule['name']}, now": rule["query"] for rule in rules} | {
        rule["name"]: rule["name"] for rule in rules
    }
    assert until_all_give_something(server, address, queries) == {}


def test_every_rule_is_evaluated_without_an_error(watched: tuple[str, Prometheus]) -> None:
    _, server = watched
    deadline = time.monotonic() + DEADLINE_S
    while not all(rule["health"] == "ok" for rule in server.rules("record") + server.rules("alert")):
        assert time.monotonic() < deadline, server.get("rules")
        time.sleep(POLL_S)
    alerts = server.rules("alert")
    assert len(alerts) >= 12
    for rule in alerts:
        server.values(rule["query"])  # it may be empty, but not fail
    well = {"PromptdialDown", "PromptdialNotReady", "PromptdialCpuFallback", "PromptdialEngineStepsFail"}
    assert {rule["state"] for rule in alerts if rule["name"] in well} == {"inactive"}


def test_prometheus_takes_every_sample_of_the_page(watched: tuple[str, Prometheus]) -> None:
    address, server = watched
    page = httpx.get(f"{address}/metrics").text
    samples = sum(not line.startswith("#") for line in page.splitlines())
    deadline = time.monotonic() + DEADLINE_S
    while samples not in server.values("scrape_samples_scraped"):
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    (target,) = server.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert server.values("scrape_samples_post_metric_relabeling") == [samples]
