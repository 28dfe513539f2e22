"""What `/metrics` says of requests, steering, the engine and the process, and where it listens."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference
from prometheus_client.parser import text_string_to_metric_families

from promptdial.bundle import load_bundle
from promptdial.engine import Stats, available_cpus
from service.app import create_app
from service.exposition import MetricsServer
from service.metrics import ALL_OUTCOMES, SECONDS, Metrics, is_hit
from service.series import Family, Histogram
from service.settings import Settings
from service.wiring import Backend
from tests.service_live import WAIT_S, ScriptedEngine, live

GOOD: dict[str, Any] = {"task": "expand", "input": "a fox in the snow"}

Labels = frozenset[tuple[str, str]]


def samples(page: str) -> dict[tuple[str, Labels], float]:
    """Every sample of a page, by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(page: str, name: str, **labels: str) -> float:
    """One sample of a page."""
    return samples(page)[name, frozenset(labels.items())]


class FallenBack(ScriptedEngine):
    """An engine that was asked for CUDA and runs on the CPU."""

    @property
    def stats(self) -> Stats:
        nothing = super().stats
        return Stats(**{name: getattr(nothing, name) for name in nothing.__slots__} | {"device": "cuda"})


def scripted_app(
    tiny_bundle: Path, engine: type[ScriptedEngine] = ScriptedEngine, **settings: Any
) -> FastAPI:
    """The application over a scripted engine."""
    bundle = load_bundle(tiny_bundle)
    backend = Backend(bundle, engine(bundle.tokenizer()), bundle.scorer())
    return create_app(Settings(bundle=tiny_bundle, **settings), backend)


def engine_of(app: FastAPI) -> ScriptedEngine:
    engine = app.state.service.backend.engine
    assert isinstance(engine, ScriptedEngine)
    return engine


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[httpx.Client]:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1, slots=8, max_n=8, queue_limit=5))) as client:
        yield client


finite = st.floats(min_value=-1e3, max_value=1e3)


@given(st.lists(finite, max_size=30), st.lists(finite, max_size=30))
def test_a_histogram_is_exposed_as_prometheus_client_would(single: list[float], many: list[float]) -> None:
    bounds = (-1.0, 0.0, 0.5, 10.0, 250.0)
    registry = CollectorRegistry()
    reference = Reference("x", "It is.", ["task"], buckets=bounds, registry=registry)
    family: Family[Histogram] = Family("x", "histogram", "It is.", ["task"])
    ours = family.add(Histogram(bounds, signed=True), "expand")
    for number in single:
        ours.observe(number)
    ours.observe_all(np.array(many))
    reference.labels("expand")
    for number in (*single, *many):
        reference.labels("expand").observe(number)
    expected = {
        key: value
        for key, value in samples(generate_latest(registry).decode()).items()
        if key[0] != "x_created"
    }
    assert samples(family.render()) == expected


def test_a_histogram_that_is_not_signed_has_a_sum() -> None:
    family: Family[Histogram] = Family("x", "histogram", "It is.")
    histogram = family.add(Histogram((1.0, 2.0)))
    histogram.observe(1.5)
    histogram.observe_all(np.array([0.25, 8.0]))
    page = family.render()
    assert (value(page, "x_sum"), value(page, "x_count"), value(page, "x_bucket", le="2.0")) == (9.75, 3, 2)


def test_a_task_may_be_called_anything() -> None:
    """A bundle names its tasks, and a page that can't be read loses every metric."""
    metrics, name = Metrics(), 'say "hi"\\\n'
    metrics.expect([name])
    assert value(metrics.render().decode(), "promptdial_requests_total", task=name, outcome="ok") == 0


def test_buckets_of_seconds_tell_tenths_of_a_millisecond_apart() -> None:
    assert sum(bound < 0.001 for bound in SECONDS) >= 4
    assert list(SECONDS) == sorted(set(SECONDS))


def test_every_series_of_the_bundles_tasks_is_there_before_the_first_request(client: httpx.Client) -> None:
    """Prometheus sees no increase in a counter that begins at 1."""
    found = samples(client.get("/metrics").text)
    for task in ("compress", "suggest"):  # no other test here asks for them
        for outcome in ALL_OUTCOMES:
            assert found["promptdial_requests_total", frozenset({("task", task), ("outcome", outcome)})] == 0
        for field in ("relevance", "length"):
            labels = frozenset({("task", task), ("field", field)})
            for name in (
                "clamped_targets_total",
                "target_sum_total",
                "target_hits_total",
                "target_error_count",
            ):
                assert found[f"promptdial_{name}", labels] == 0


def test_what_was_achieved_adds_up_beside_its_target(client: httpx.Client) -> None:
    targets: dict[str, list[float]] = {"relevance": [], "length": []}
    achieved: dict[str, list[float]] = {"relevance": [], "length": []}
    for seed in range(6):
        body = GOOD | {"task": "tags", "seed": seed, "target_length": 4 + 6 * seed, "target_relevance": 0.4}
        answer = client.post("/generate", json=body).json()
        for field, wanted in targets.items():
            wanted.append(answer["target"][field])
            achieved[field].append(answer["candidates"][0][f"achieved_{field}"])
    page = client.get("/metrics").text
    for field, wanted in targets.items():
        labels = {"field": field, "task": "tags"}
        got = achieved[field]
        hits = sum(is_hit(field, one, other) for one, other in zip(wanted, got, strict=True))
        above = sum(other > one for one, other in zip(wanted, got, strict=True))
        assert value(page, "promptdial_target_sum_total", **labels) == pytest.approx(sum(wanted))
        assert value(page, "promptdial_achieved_sum_total", **labels) == pytest.approx(
            sum(max(0.0, each) for each in got)
        )
        assert value(page, "promptdial_target_hits_total", **labels) == hits
        count = value(page, "promptdial_target_error_count", **labels)
        at_or_below = value(page, "promptdial_target_error_bucket", le="0.0", **labels)
        assert (count, count - at_or_below) == (6, above)


@pytest.mark.parametrize(
    ("field", "target", "achieved", "hit"),
    [
        ("relevance", 0.8, 0.72, True),
        ("relevance", 0.8, 0.69, False),
        ("relevance", 0.8, 0.95, False),
        ("length", 10, 12, True),
        ("length", 10, 7, False),
        ("length", 100, 81, True),
    ],
)
def test_a_target_is_hit_within_a_tenth_of_cosine_or_a_fifth_of_the_words(
    field: str, target: float, achieved: float, hit: bool
) -> None:
    assert is_hit(field, target, achieved) == hit


def test_an_opposite_meaning_leaves_the_sum_as_it_is() -> None:
    """A counter that falls is taken for a restart."""
    metrics = Metrics()
    metrics.expect(["expand"])
    metrics.steered("relevance", "expand", 0.5, -0.2)
    page = metrics.render().decode()
    labels = {"field": "relevance", "task": "expand"}
    assert value(page, "promptdial_achieved_sum_total", **labels) == 0
    assert value(page, "promptdial_target_error_bucket", le="-0.5", **labels) == 1


def test_the_engine_and_the_process_tell_how_they_are(client: httpx.Client) -> None:
    client.post("/generate", json=GOOD)
    page = client.get("/metrics").text
    assert value(page, "promptdial_engine_threads") == 1
    assert value(page, "promptdial_kv_slots") == 8
    assert value(page, "promptdial_queue_limit") == 5
    assert value(page, "promptdial_ready") == 1
    assert value(page, "promptdial_cpu_fallback") == 0
    assert value(page, "promptdial_engine_failed_steps_total") == 0
    assert value(page, "promptdial_engine_steps_total") > 0
    assert value(page, "promptdial_batch_size_count") > 0
    assert 0 <= value(page, "promptdial_engine_heartbeat_age_seconds") < WAIT_S
    assert value(page, "promptdial_engine_provider", device="cpu", provider="CPUExecutionProvider") == 1
    assert value(page, "process_threads") >= threading.active_count()
    assert value(page, "process_resident_memory_bytes") > 2**20


def test_the_decoder_has_the_threads_that_the_process_may_use(tiny_bundle: Path) -> None:
    with live(create_app(Settings(bundle=tiny_bundle))) as client:
        assert value(client.get("/metrics").text, "promptdial_engine_threads") == available_cpus()


def test_a_silent_engine_shows_its_age_and_is_not_ready(tiny_bundle: Path) -> None:
    app = scripted_app(tiny_bundle)
    with live(app) as client:
        engine = engine_of(app)
        engine.silent_since = engine.heartbeat - 42
        page = client.get("/metrics").text
        assert 42 <= value(page, "promptdial_engine_heartbeat_age_seconds") < 42 + WAIT_S
        assert value(page, "promptdial_ready") == 0


def test_a_draining_service_is_not_ready(tiny_bundle: Path) -> None:
    app = scripted_app(tiny_bundle)
    with live(app) as client:
        app.state.health.draining = True
        assert value(client.get("/metrics").text, "promptdial_ready") == 0


def test_a_cpu_in_place_of_the_device_asked_for_shows(tiny_bundle: Path) -> None:
    with live(scripted_app(tiny_bundle, FallenBack)) as client:
        page = client.get("/metrics").text
    assert value(page, "promptdial_cpu_fallback") == 1
    assert value(page, "promptdial_engine_provider", device="cuda", provider="CPUExecutionProvider") == 1


def test_no_value_is_missing_or_not_a_number(client: httpx.Client) -> None:
    found = samples(client.get("/metrics").text)
    assert len(found) > 400
    assert not [key for key, number in found.items() if not math.isfinite(number)]


def port_of(log: pytest.LogCaptureFixture) -> int:
    """Where the log says that the metrics are."""
    (line,) = [each.getMessage() for each in log.records if each.getMessage().startswith("metrics at")]
    return int(line.rpartition(":")[2].partition("/")[0])


def test_a_port_of_their_own_has_the_metrics_and_the_main_one_has_not(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), live(scripted_app(tiny_bundle, metrics_port=0)) as client:
        client.post("/generate", json=GOOD)
        url = f"http://127.0.0.1:{port_of(caplog)}"
        page = httpx.get(f"{url}/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        assert value(page.text, "promptdial_requests_total", task="expand", outcome="ok") == 1
        assert httpx.get(f"{url}/generate").status_code == 404
        missing = client.get("/metrics")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        assert "/metrics" not in client.get("/openapi.json").json()["paths"]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/metrics")


def test_metrics_on_their_own_port_come_while_the_event_loop_is_stuck(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = scripted_app(tiny_bundle, metrics_port=0)
    release, stuck = threading.Event(), threading.Event()

    def stick(_: object) -> None:
        stuck.set()
        release.wait(WAIT_S)

    with caplog.at_level("INFO"), live(app):
        app.state.service.generator.mailbox.post(stick, None)
        assert stuck.wait(WAIT_S)
        try:
            page = httpx.get(f"http://127.0.0.1:{port_of(caplog)}/metrics", timeout=WAIT_S / 2)
        finally:
            release.set()
    assert page.status_code == 200


def test_a_taken_metrics_port_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        MetricsServer("127.0.0.1", taken.getsockname()[1], lambda: b"")
    assert "PROMPTDIAL_METRICS_PORT" in caplog.text


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_metrics_can_listen_on_ipv6() -> None:
    try:
        server = MetricsServer("::1", 0, lambda: b"page\n")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    try:
        assert httpx.get(server.url).text == "page\n"
    finally:
        server.close()
