"""`stream: true`: the same texts as the whole answer, piece by piece, and what ends a stream early."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from promptdial.bundle import Bundle, load_bundle
from promptdial.engine import Engine
from promptdial.relevance import RelevanceScorer
from service.app import create_app
from service.pieces import TextPieces, whole_text
from service.settings import Settings
from service.wiring import Backend
from tests.service_live import WAIT_S, ScriptedEngine, http_post, live

GOOD = {"task": "expand", "input": "a fox in the snow"}
SEEDED = GOOD | {"n": 3, "seed": 7, "max_tokens": 24}
Events = list[tuple[str, dict[str, Any]]]


def events_of(text: str) -> Events:
    """Names and data of server-sent events; comments are left out."""
    found = []
    for block in text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def stream(client: httpx.Client, **fields: Any) -> Events:
    """All events of a good request."""
    response = client.post("/generate", json=fields | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def joined(events: Events, candidate: int) -> str:
    return "".join(
        data["text"] for name, data in events if name == "token" and data["candidate"] == candidate
    )


def ranked_texts(events: Events) -> list[str]:
    """Texts in the order that `done` gives."""
    return [joined(events, index) for index in events[-1][1]["ranking"]]


def whole_texts(client: httpx.Client, **fields: Any) -> list[str]:
    return [candidate["text"] for candidate in client.post("/generate", json=fields).json()["candidates"]]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[httpx.Client]:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        yield client


class HeldScorer:
    """The real scorer, but a test decides when it may work."""

    def __init__(self, scorer: RelevanceScorer) -> None:
        self.scorer = scorer
        self.may_work = threading.Event()
        self.may_work.set()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the scorer."""
        assert self.may_work.wait(WAIT_S)
        return self.scorer.embed(texts)


class Scripted:
    """The application over a scripted engine and a scorer that can be held."""

    def __init__(
        self, bundle: Bundle, client: httpx.Client, engine: ScriptedEngine, scorer: HeldScorer
    ) -> None:
        self.bundle, self.client, self.engine, self.scorer = bundle, client, engine, scorer


@contextmanager
def scripted_service(bundle: Bundle, **settings: Any) -> Iterator[Scripted]:
    engine, scorer = ScriptedEngine(bundle.tokenizer()), HeldScorer(bundle.scorer())
    app = create_app(Settings(bundle=bundle.path, **settings), Backend(bundle, engine, scorer))
    with live(app) as client:
        yield Scripted(bundle, client, engine, scorer)


@pytest.fixture
def scripted(bundle: Bundle) -> Iterator[Scripted]:
    with scripted_service(bundle) as scripted:
        yield scripted


@given(data=st.data())
def test_pieces_join_to_the_whole_text_whatever_the_tokens(bundle: Bundle, data: st.DataObject) -> None:
    tokenizer = bundle.tokenizer()
    tokens = st.integers(0, tokenizer.vocabulary - 1)
    awkward = st.sampled_from(
        [i for text in (" ", "\n", "🦊", "é", "\ufffd") for i in tokenizer.encode(text)]
    )
    ids = data.draw(st.lists(tokens | awkward, max_size=40))
    pieces = TextPieces(tokenizer.token_bytes())
    assert "".join([*map(pieces.add, ids), pieces.end()]) == whole_text(tokenizer, ids)


@pytest.mark.parametrize(
    "text", ["a fox 🦊❄️ in the snow", "雪の中の狐", " é  ñ ", "لومړۍ", "a\u2028b\r\n\nc"]
)
def test_a_text_in_any_script_arrives_as_it_is(scripted: Scripted, text: str) -> None:
    scripted.engine.texts = (text,)
    events = stream(scripted.client, **GOOD)
    assert joined(events, 0) == text.strip()
    assert "\ufffd" not in joined(events, 0)
    assert len([name for name, _ in events if name == "token"]) > 1


def test_half_a_character_at_the_cut_is_left_out(scripted: Scripted) -> None:
    scripted.engine.texts = ("a fox 🦊",)
    cut = len(scripted.engine.tokenizer.encode("a fox 🦊")) - 1
    events = stream(scripted.client, **GOOD, max_tokens=cut)
    assert joined(events, 0) == "a fox"
    assert [data["text"] for name, data in events if name == "candidate"] == ["a fox"]


def test_a_stream_says_what_the_whole_answer_says(client: httpx.Client) -> None:
    whole = client.post("/generate", json=SEEDED).json()
    events = stream(client, **SEEDED)
    candidates = {data.pop("candidate"): data for name, data in events if name == "candidate"}
    name, done = events[-1]
    assert name == "done"
    assert [candidates[index] for index in done.pop("ranking")] == whole["candidates"]
    assert {index: joined(events, index) for index in range(3)} == {
        index: candidate["text"] for index, candidate in candidates.items()
    }
    for key in ("model", "task", "seed", "target", "usage"):
        assert done[key] == whole[key]
    assert done.keys() == whole.keys() - {"candidates"}
    assert done["timing"].keys() == whole["timing"].keys()


def test_a_candidate_follows_its_last_token(client: httpx.Client) -> None:
    events = stream(client, **SEEDED)
    for index in range(3):
        own = [name for name, data in events if data.get("candidate") == index]
        assert own[-1] == "candidate"
        assert set(own[:-1]) == {"token"}


def test_a_stream_without_scores_has_none(client: httpx.Client) -> None:
    events = stream(client, **SEEDED, score=False)
    assert [data["achieved_relevance"] for name, data in events if name == "candidate"] == [None] * 3
    assert events[-1][1]["timing"]["score_ms"] == 0


def test_a_seed_gives_the_same_texts_whole_and_streamed_alone_and_in_a_crowd(client: httpx.Client) -> None:
    """16 others join and leave meanwhile, of other lengths, whole and streamed."""
    alone = whole_texts(client, **SEEDED)
    assert ranked_texts(stream(client, **SEEDED)) == alone

    def other(place: int) -> None:
        fields = GOOD | {"input": "a boat " * (1 + place), "seed": place, "max_tokens": 4 + 5 * place}
        client.post("/generate", json=fields | {"stream": place % 2 == 0}).raise_for_status()

    with ThreadPoolExecutor(18) as pool:
        others = [pool.submit(other, place) for place in range(16)]
        streamed = pool.submit(stream, client, **SEEDED)
        whole = pool.submit(whole_texts, client, **SEEDED)
        for each in others:
            each.result(WAIT_S)
    assert ranked_texts(streamed.result()) == alone
    assert whole.result() == alone


def test_scoring_delays_no_token(scripted: Scripted) -> None:
    scripted.scorer.may_work.clear()
    scripted.engine.texts = ("a fox in snow", "a boat")
    with scripted.client.stream("POST", "/generate", json=GOOD | {"n": 2, "stream": True}) as response:
        parts = response.iter_text()
        text = ""
        while (joined(events_of(text), 0), joined(events_of(text), 1)) != ("a fox in snow", "a boat"):
            text += next(parts)
        assert {name for name, _ in events_of(text)} == {"token"}
        scripted.scorer.may_work.set()
        text += "".join(parts)
    assert [name for name, _ in events_of(text)][-3:] == ["candidate", "candidate", "done"]


@pytest.mark.parametrize(
    ("behaviour", "fields", "status", "code"),
    [
        ("answer", {"n": 0}, 422, "invalid_request"),
        ("full", {}, 429, "overloaded"),
        ("late", {}, 422, "timeout_too_short"),
        ("hold", {"timeout_ms": 20}, 504, "deadline_exceeded"),
        ("fail", {}, 500, "engine_failed"),
    ],
)
def test_an_error_before_the_first_token_is_an_ordinary_problem(
    scripted: Scripted, behaviour: Any, fields: dict[str, Any], status: int, code: str
) -> None:
    scripted.engine.behaviour = behaviour
    response = scripted.client.post("/generate", json=GOOD | fields | {"stream": True})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("behaviour", "fields", "code", "outcome"),
    [
        ("break", {}, "engine_failed", "error"),
        ("stick", {"timeout_ms": 200}, "deadline_exceeded", "timeout"),
    ],
)
def test_an_error_after_the_first_token_is_the_last_event(
    scripted: Scripted, behaviour: Any, fields: dict[str, Any], code: str, outcome: str
) -> None:
    scripted.engine.behaviour = behaviour
    response = scripted.client.post("/generate", json=GOOD | fields | {"stream": True})
    assert response.status_code == 200
    events = events_of(response.text)
    assert [name for name, _ in events] == ["token", "error"]
    assert events[-1][1]["code"] == code
    assert events[-1][1]["request_id"] == response.headers["x-request-id"]
    assert "secret" not in response.text
    page = scripted.client.get("/metrics").text
    assert f'promptdial_requests_total{{outcome="{outcome}",task="expand"}} 1.0' in page


def test_a_timeout_that_no_waiting_helps_names_the_field(scripted: Scripted) -> None:
    scripted.engine.behaviour = "late"
    response = scripted.client.post("/generate", json=GOOD | {"timeout_ms": 1})
    assert "retry-after" not in response.headers
    (error,) = response.json()["errors"]
    assert (error["field"], error["code"]) == ("timeout_ms", "timeout_too_short")
    assert "500 ms" in error["message"]


def test_a_scorer_that_fails_ends_the_request_with_a_fixed_text(bundle: Bundle) -> None:
    class Broken(HeldScorer):
        broken = False

        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if self.broken:
                raise ZeroDivisionError("a secret of the server")
            return super().embed(texts)

    engine, scorer = ScriptedEngine(bundle.tokenizer()), Broken(bundle.scorer())
    with live(create_app(Settings(bundle=bundle.path), Backend(bundle, engine, scorer))) as client:
        scorer.broken = True
        whole = client.post("/generate", json=GOOD)
        streamed = client.post("/generate", json=GOOD | {"stream": True})
    assert (whole.status_code, whole.json()["code"]) == (500, "internal_error")
    assert events_of(streamed.text)[-1][1]["code"] == "internal_error"
    assert "secret" not in whole.text + streamed.text


def test_a_stream_without_news_gets_comments(bundle: Bundle) -> None:
    with scripted_service(bundle, keep_alive_ms=20) as scripted:
        scripted.engine.behaviour = "stick"
        with scripted.client.stream("POST", "/generate", json=GOOD | {"stream": True}) as response:
            comments = (line for line in response.iter_lines() if line.startswith(":"))
            assert [next(comments), next(comments)] == [": keep-alive"] * 2


def test_comments_go_on_whenever_their_alarm_goes_off(bundle: Bundle) -> None:
    """An alarm that was due already, and one that went off a moment early, ended the comments, or the stream."""
    with scripted_service(bundle, keep_alive_ms=1) as scripted:
        scripted.engine.behaviour = "stick"
        with scripted.client.stream("POST", "/generate", json=GOOD | {"stream": True}) as response:
            comments = (line for line in response.iter_lines() if line.startswith(":"))
            assert [next(comments) for _ in range(200)] == [": keep-alive"] * 200


def test_a_client_that_leaves_a_stream_stops_its_decoding(scripted: Scripted) -> None:
    scripted.engine.behaviour = "stick"
    scripted.engine.cancelled.clear()
    url = scripted.client.base_url
    with socket.create_connection((url.host, url.port or 80), WAIT_S) as connection:
        connection.sendall(http_post(GOOD | {"stream": True}))
        assert b"200 OK" in connection.recv(65536)
        assert not scripted.engine.cancelled.is_set()
    assert scripted.engine.cancelled.wait(WAIT_S)
    assert scripted.client.get("/readyz").status_code == 200
    page = scripted.client.get("/metrics").text
    assert "promptdial_cancelled_total 1.0" in page
    assert 'promptdial_requests_total{outcome="cancelled",task="expand"} 1.0' in page


def test_a_stream_that_the_shutdown_does_not_wait_for_says_so(bundle: Bundle) -> None:
    engine = ScriptedEngine(bundle.tokenizer())
    app = create_app(Settings(bundle=bundle.path), Backend(bundle, engine, bundle.scorer()))
    with live(app, shutdown_timeout_s=0) as client:
        url = client.base_url
        engine.behaviour = "stick"
        connection = socket.create_connection((url.host, url.port or 80), WAIT_S)
        connection.sendall(http_post(GOOD | {"stream": True}))
        answer = connection.recv(65536)
    with connection:
        answer += b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'event: error\ndata: {"type":"urn:promptdial:problem:unavailable"' in answer
    assert answer.endswith(b"0\r\n\r\n")


def resident_bytes() -> int:
    """Memory of this process, which the server is a thread of."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def leave_amid_a_stream(url: httpx.URL, place: int) -> None:
    """Read the first tokens of a long stream, then close the connection."""
    body = GOOD | {"seed": place, "temperature": 2, "max_tokens": 120, "stream": True, "timeout_ms": 60_000}
    with socket.create_connection((url.host, url.port or 80), WAIT_S) as connection:
        connection.sendall(http_post(body))
        head = connection.recv(4096)
        assert head.startswith(b"HTTP/1.1 200 "), head


def test_500_clients_that_leave_amid_their_streams_leave_nothing_behind(bundle: Bundle) -> None:
    engine = Engine.from_bundle(bundle, threads=1)
    app: FastAPI = create_app(Settings(bundle=bundle.path), Backend(bundle, engine, bundle.scorer()))
    with live(app) as client, ThreadPoolExecutor(50) as pool:

        def left() -> tuple[int, ...]:
            """What is still there of requests: in the engine three times, then in the service."""
            now = engine.stats
            counts = (now.running_sequences, now.running_requests, now.waiting_requests)
            return (*counts, app.state.service.generator.in_flight)

        def clients(places: range) -> int:
            """Memory once all of them have come and gone."""
            list(pool.map(lambda place: leave_amid_a_stream(client.base_url, place), places))
            give_up = time.monotonic() + WAIT_S
            while any(left()) and time.monotonic() < give_up:
                client.get("/readyz")
            assert left() == (0, 0, 0, 0)
            return resident_bytes()

        before = clients(range(100))
        after = clients(range(500))
        page = client.get("/metrics").text
    assert abs(after / before - 1) <= 0.05
    assert "promptdial_running_sequences 0.0" in page
    assert "promptdial_waiting_requests 0.0" in page
