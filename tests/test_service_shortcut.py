"""What goes past FastAPI is read and answered as FastAPI would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.app import create_app
from service.schemas import GenerateRequest
from service.settings import Settings
from tests.service_live import live

GOOD: dict[str, Any] = {"task": "expand", "input": "a fox in the snow", "max_tokens": 4, "seed": 7}
MARKED = (
    b"\xef\xbb\xbf"  # a byte order mark: FastAPI reads the body behind it, the shortcut leaves it to FastAPI
)
JSON = {"Content-Type": "application/json", "X-Request-ID": "mine"}

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.text(max_size=3))
)
valid: dict[str, st.SearchStrategy[Any]] = {
    "modality": st.text(max_size=8), "target_relevance": st.one_of(st.floats(0, 1), st.integers(0, 1)),
    "target_length": st.integers(1, 400), "out_of_support": st.sampled_from(["clamp", "reject"]),
    "n": st.integers(1, 20), "rank": st.sampled_from(["closest", "highest"]), "score": st.booleans(),
    "seed": st.integers(0, 2**31), "temperature": st.one_of(st.floats(0, 2), st.integers(0, 2)),
    "top_p": st.floats(0.01, 1), "max_tokens": st.integers(1, 500), "timeout_ms": st.integers(1, 10**6),
    "stream": st.booleans(), "keep": st.lists(st.text(max_size=3), max_size=3),
}  # fmt: skip
# Nearly all of them valid: what isn't goes to FastAPI.
bodies = st.fixed_dictionaries(
    {"task": st.text(min_size=1, max_size=8), "input": st.text(min_size=1)},
    optional={
        **valid,
        "other": anything,
        **{name: st.one_of(each, each, anything) for name, each in valid.items()},
    },
)


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[httpx.Client]:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        yield client


@given(fields=bodies, ascii_only=st.booleans())
def test_what_is_read_at_once_is_what_parsing_and_checking_gives(
    fields: dict[str, Any], ascii_only: bool
) -> None:
    body = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        read = GenerateRequest.model_validate_json(body)
    except ValidationError:
        return  # FastAPI's, whatever it is
    assert read == GenerateRequest.model_validate(json.loads(body))


def test_a_valid_request_goes_past_fastapi_and_another_does_not(tiny_bundle: Path) -> None:
    app = create_app(Settings(bundle=tiny_bundle, threads=1))
    app.router.routes.clear()
    with live(app) as client:
        answers = [
            client.post("/generate", content=each + json.dumps(GOOD).encode(), headers=JSON)
            for each in (b"", MARKED)
        ]
    assert [answer.status_code for answer in answers] == [200, 404]


def test_of_a_field_that_is_there_twice_the_last_one_counts_either_way() -> None:
    body = b'{"task": "expand", "input": "a fox", "input": "a wolf"}'
    assert GenerateRequest.model_validate_json(body) == GenerateRequest.model_validate(json.loads(body))


@pytest.mark.parametrize("fields", [{"n": 2}, {"stream": True}, {"task": "paint"}, {"timeout_ms": 10**9}])
def test_both_ways_give_the_same_answer(client: httpx.Client, fields: dict[str, Any]) -> None:
    body = json.dumps(GOOD | fields).encode()
    short, long = (client.post("/generate", content=each, headers=JSON) for each in (body, MARKED + body))
    assert short.status_code == long.status_code
    assert short.headers.keys() == long.headers.keys()
    if "stream" in fields:
        assert without_timing(last_event(short.text)) == without_timing(last_event(long.text))
    else:
        assert without_timing(short.json()) == without_timing(long.json())


def last_event(stream: str) -> dict[str, Any]:
    """Data of the last event."""
    found: dict[str, Any] = json.loads(stream.rpartition("data: ")[2])
    return found


def without_timing(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer's parts that don't depend on the clock."""
    return {name: value for name, value in answer.items() if name != "timing"}
