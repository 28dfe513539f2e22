"""What a client sees of an engine that is full, hung or failing, and an engine of a client that leaves."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from promptdial.bundle import Bundle, load_bundle
from promptdial.engine import Engine
from promptdial.engine.cached import Top
from promptdial.engine.decoder import Decoder
from service.app import create_app
from service.settings import Settings
from service.wiring import Backend
from tests.service_live import WAIT_S, ScriptedEngine, http_post, live

GOOD = {"task": "expand", "input": "a fox in the snow"}


@dataclass(frozen=True)
class Served:
    """An application over a scripted engine, and a client of it."""

    app: FastAPI
    engine: ScriptedEngine
    client: httpx.Client

    def generate(self, **fields: Any) -> httpx.Response:
        """Post a good request."""
        return self.client.post("/generate", json=GOOD | fields)

    def metrics(self) -> str:
        """The metrics page."""
        return self.client.get("/metrics").text


@pytest.fixture
def served(tiny_bundle: Path) -> Iterator[Served]:
    bundle = load_bundle(tiny_bundle)
    engine = ScriptedEngine(bundle.tokenizer())
    app = create_app(Settings(bundle=tiny_bundle), Backend(bundle, engine, bundle.scorer()))
    with live(app) as client:
        yield Served(app, engine, client)


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem of a response."""
    assert (response.status_code, response.json()["code"]) == (status, code)
    body: dict[str, Any] = response.json()
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def test_a_full_queue_is_a_429_that_says_when_to_come_back(served: Served) -> None:
    served.engine.behaviour = "full"
    response = served.generate()
    assert problem(response, 429, "overloaded")["retry_after_ms"] == 1234
    assert response.headers["retry-after"] == "2"
    assert 'promptdial_rejected_total{reason="overloaded"} 1.0' in served.metrics()
    assert 'promptdial_requests_total{outcome="overloaded",task="expand"} 1.0' in served.metrics()


def test_a_request_past_its_timeout_is_a_504_and_stops_decoding(served: Served) -> None:
    served.engine.behaviour = "hold"
    problem(served.generate(timeout_ms=20), 504, "deadline_exceeded")
    assert served.engine.cancelled.wait(WAIT_S)
    assert 'promptdial_requests_total{outcome="timeout",task="expand"} 1.0' in served.metrics()


def test_what_was_decoded_before_a_timeout_is_counted(served: Served) -> None:
    served.engine.behaviour = "stick"
    problem(served.generate(timeout_ms=20), 504, "deadline_exceeded")
    page = served.metrics()
    assert f"promptdial_prompt_tokens_total {len(served.engine.requests[-1].prompt)}.0" in page
    assert "promptdial_generated_tokens_total 1.0" in page
    assert "promptdial_queue_seconds_count 0.0" in page  # the engine tells that at the end only


def test_a_request_that_never_left_the_queue_counts_no_tokens(served: Served) -> None:
    served.engine.behaviour = "hold"
    problem(served.generate(timeout_ms=20), 504, "deadline_exceeded")
    page = served.metrics()
    assert "promptdial_prompt_tokens_total 0.0" in page
    assert "promptdial_generated_tokens_total 0.0" in page


def test_the_default_timeout_is_the_servers(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    engine = ScriptedEngine(bundle.tokenizer())
    settings = Settings(bundle=tiny_bundle, request_timeout_ms=50)
    engine.behaviour = "answer"
    with live(create_app(settings, Backend(bundle, engine, bundle.scorer()))) as client:
        engine.behaviour = "hold"
        problem(client.post("/generate", json=GOOD), 504, "deadline_exceeded")


def test_a_failed_step_is_a_500_without_its_inner_text(served: Served) -> None:
    served.engine.behaviour = "fail"
    response = served.generate()
    problem(response, 500, "engine_failed")
    assert "secret" not in response.text


def test_a_defect_is_a_500_with_one_fixed_text_and_a_traceback_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.engine.behaviour = "defect"
    response = served.generate()
    problem(response, 500, "internal_error")
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.name == "service.problems"]
    assert record.exc_info is not None
    assert served.generate().status_code == 500  # and the service goes on


def test_the_service_answers_again_after_a_failure(served: Served) -> None:
    for behaviour in ("fail", "defect", "full"):
        served.engine.behaviour = behaviour
        assert served.generate().status_code >= 400
    served.engine.behaviour = "answer"
    assert served.generate().status_code == 200


def test_an_engine_that_is_not_ready_takes_no_work(served: Served) -> None:
    served.engine.ready = False
    assert served.client.get("/readyz").status_code == 503
    assert served.client.get("/livez").status_code == 200
    response = served.generate()
    body = problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) * 1000 >= body["retry_after_ms"] > 0
    served.engine.ready = True
    assert served.client.get("/readyz").json() == {"status": "ok", "reason": None}
    assert served.generate().status_code == 200


def test_an_engine_without_a_heartbeat_is_neither_ready_nor_alive(served: Served) -> None:
    served.engine.silent_since = served.engine.heartbeat - 11
    for path in ("/livez", "/readyz"):
        response = served.client.get(path)
        assert response.status_code == 503
        assert re.search(r"silent for \d+ s", response.json()["reason"])


class Hanging(Decoder):
    """The real decoder, whose steps hang while a test wants it."""

    may_step = threading.Event()

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top:
        """As the decoder."""
        assert self.may_step.wait(WAIT_S)
        return super().decode(tokens, lengths)


def test_a_hung_step_turns_liveness_red_and_a_busy_engine_does_not(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    Hanging.may_step.set()
    decoder = Hanging(bundle.decoder_path, bundle.architecture, threads=1, slots=16)
    engine = Engine(decoder, bundle.tokenizer().end_id)
    settings = Settings(bundle=tiny_bundle, stall_limit_ms=400)
    work = GOOD | {"n": 16, "max_tokens": 120, "temperature": 2}
    with (
        live(create_app(settings, Backend(bundle, engine, bundle.scorer()))) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        busy = pool.submit(client.post, "/generate", json=work)
        while not busy.done():
            assert client.get("/livez").status_code == 200
        assert busy.result().status_code == 200
        decoder.may_step.clear()
        hung = pool.submit(client.post, "/generate", json=work)
        while client.get("/livez").status_code == 200:
            assert not hung.done()
        assert client.get("/readyz").status_code == 503
        decoder.may_step.set()
        assert hung.result().status_code == 200
        assert client.get("/livez").status_code == 200


def test_a_draining_server_is_red_and_takes_no_new_work_but_ends_what_it_has(served: Served) -> None:
    served.engine.behaviour = "hold"
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(served.generate()))
    served.engine.submitted.clear()
    waiting.start()
    assert served.engine.submitted.wait(WAIT_S)
    served.app.state.health.draining = True
    assert served.client.get("/readyz").status_code == 503
    assert served.client.get("/livez").status_code == 200
    problem(served.generate(), 503, "unavailable")
    served.engine.release()
    waiting.join(WAIT_S)
    assert answers[0].status_code == 200


def test_a_request_that_the_shutdown_does_not_wait_for_is_a_503(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    engine = ScriptedEngine(bundle.tokenizer())
    app = create_app(Settings(bundle=tiny_bundle), Backend(bundle, engine, bundle.scorer()))
    with live(app, shutdown_timeout_s=0) as client:
        url = client.base_url
        engine.behaviour = "hold"
        engine.submitted.clear()
        connection = socket.create_connection((url.host, url.port or 80), WAIT_S)
        connection.sendall(http_post(GOOD))
        assert engine.submitted.wait(WAIT_S)
    with connection:
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"unavailable"' in answer
    assert engine.cancelled.is_set()


def test_a_client_that_leaves_stops_its_decoding(served: Served) -> None:
    served.engine.behaviour = "hold"
    served.engine.submitted.clear()
    served.engine.cancelled.clear()
    url = served.client.base_url
    with socket.create_connection((url.host, url.port), WAIT_S) as connection:
        connection.sendall(http_post(GOOD))
        assert served.engine.submitted.wait(WAIT_S)
        assert not served.engine.cancelled.is_set()
    assert served.engine.cancelled.wait(WAIT_S)
    served.engine.behaviour = "answer"
    assert served.generate().status_code == 200
    assert "promptdial_cancelled_total 1.0" in served.metrics()
    assert 'promptdial_requests_total{outcome="cancelled",task="expand"} 1.0' in served.metrics()


def test_a_client_that_leaves_amid_its_body_costs_nothing(served: Served) -> None:
    served.engine.submitted.clear()
    url = served.client.base_url
    with socket.create_connection((url.host, url.port), WAIT_S) as connection:
        connection.sendall(http_post(GOOD)[:-1])
    assert served.generate().status_code == 200
    assert len(served.engine.requests) == 2  # the warm-up's and this one


def test_a_task_outside_the_bundles_is_counted_as_unknown(served: Served) -> None:
    """A label from a request would let any client fill the metrics."""
    served.generate(task="paint")
    served.generate(n=0)
    assert 'promptdial_requests_total{outcome="invalid",task="unknown"} 2.0' in served.metrics()
    assert "paint" not in served.metrics()


def test_the_log_has_the_request_but_not_its_text(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        served.generate(input="my secret idea")
    text = "\n".join(str(vars(record)) for record in caplog.records)
    assert "'path': '/generate'" in text
    assert "total_ms" in text
    assert "my secret idea" not in text


def test_half_a_character_at_the_cut_is_left_out(tiny_bundle: Path) -> None:
    bundle: Bundle = load_bundle(tiny_bundle)
    tokenizer = bundle.tokenizer()
    engine = ScriptedEngine(tokenizer, texts=("a fox 🦊",))
    cut = len(tokenizer.encode("a fox 🦊")) - 1
    with live(create_app(Settings(bundle=tiny_bundle), Backend(bundle, engine, bundle.scorer()))) as client:
        (candidate,) = client.post("/generate", json=GOOD | {"max_tokens": cut}).json()["candidates"]
    assert candidate["finish_reason"] == "length"
    assert candidate["text"] == "a fox"


def test_candidates_come_closest_first_or_highest_first(served: Served) -> None:
    engine = served.engine
    engine.texts = ("a fox in the snow", "a fox", "tax forms on a desk", "snow")
    closest = served.generate(n=4, target_relevance=0.5, rank="closest").json()
    target = closest["target"]["relevance"]
    distances = [abs(candidate["achieved_relevance"] - target) for candidate in closest["candidates"]]
    assert distances == sorted(distances)
    highest = served.generate(n=4, target_relevance=0.5, rank="highest").json()
    relevances = [candidate["achieved_relevance"] for candidate in highest["candidates"]]
    assert relevances == sorted(relevances, reverse=True)
    assert sorted(c["text"] for c in closest["candidates"]) == sorted(engine.texts)


def test_without_scores_candidates_come_closest_in_length_first(served: Served) -> None:
    served.engine.texts = (
        "one",
        "one two three four five six seven eight nine",
        "one two three four five six",
    )
    answer = served.generate(n=3, target_length=9, score=False).json()
    off = [abs(c["achieved_length"] - answer["target"]["length"]) for c in answer["candidates"]]
    assert off == sorted(off)
    assert [c["achieved_relevance"] for c in answer["candidates"]] == [None] * 3
    assert answer["timing"]["score_ms"] == 0


def test_the_engine_gets_what_the_request_says(served: Served) -> None:
    served.generate(n=3, seed=7, temperature=0.5, top_p=0.5, max_tokens=5, timeout_ms=1000)
    work = served.engine.requests[-1]
    assert (work.n, work.seed, work.max_tokens) == (3, 7, 5)
    assert (work.sampling.temperature, work.sampling.top_p) == (0.5, 0.5)
    assert work.deadline is not None


def test_left_out_fields_mean_the_bundles_defaults(served: Served, tiny_bundle: Path) -> None:
    served.generate()
    bundle = load_bundle(tiny_bundle)
    sampling = served.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (
        bundle.sampling["temperature"],
        bundle.sampling["top_p"],
        bundle.sampling["top_k"],
    )


def test_a_drawn_seed_is_told_and_differs(served: Served) -> None:
    seeds = {served.generate().json()["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert served.engine.requests[-1].seed in seeds
