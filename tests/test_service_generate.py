"""`POST /generate` and the describing endpoints over the real engine, through a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from promptdial.bundle import Bundle, load_bundle
from promptdial.command import Command, word_count
from service.app import create_app
from service.settings import Settings
from tests.service_live import live

SEEDED = {"task": "expand", "input": "a fox in the snow", "n": 3, "seed": 7, "max_tokens": 12}


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[httpx.Client]:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        yield client


def generate(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """The answer to a good request."""
    response = client.post("/generate", json=fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def texts(answer: dict[str, Any]) -> list[str]:
    return [candidate["text"] for candidate in answer["candidates"]]


def test_two_fields_are_enough(client: httpx.Client, bundle: Bundle) -> None:
    answer = generate(client, task="expand", input="a fox in the snow")
    assert answer["model"] == f"{bundle.name}@{bundle.version}"
    assert answer["task"] == "expand"
    assert len(answer["candidates"]) == 1
    length = bundle.support.default_length("expand")
    assert length is not None
    assert answer["target"] == {
        "relevance": bundle.support.default_relevance("expand", length),
        "length": length,
        "clamped": False,
    }


def test_an_answer_has_the_measured_values_of_each_candidate(client: httpx.Client, bundle: Bundle) -> None:
    answer = generate(client, **SEEDED)
    scorer = bundle.scorer()
    for candidate in answer["candidates"]:
        (relevance,) = scorer.score([str(SEEDED["input"])], [candidate["text"]])
        assert candidate["achieved_relevance"] == pytest.approx(relevance, abs=1e-3)
        assert candidate["achieved_length"] == word_count(candidate["text"])
        assert candidate["finish_reason"] in {"stop", "length"}


def test_usage_counts_the_prompt_once_and_every_candidates_tokens(
    client: httpx.Client, bundle: Bundle
) -> None:
    answer = generate(client, **SEEDED)
    command = Command("expand", "image", answer["target"]["relevance"], answer["target"]["length"])
    prompt = bundle.tokenizer().prompt(command, str(SEEDED["input"]))
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert 0 < answer["usage"]["completion_tokens"] <= 3 * 12


def test_the_parts_of_the_time_fit_into_the_whole(client: httpx.Client) -> None:
    timing = generate(client, **SEEDED)["timing"]
    parts = ("queue_ms", "prefill_ms", "decode_ms", "score_ms")
    assert all(timing[part] >= 0 for part in parts)
    assert timing["prefill_ms"] > 0
    assert sum(timing[part] for part in parts) <= timing["total_ms"]


def test_the_same_seed_gives_the_same_texts_and_another_one_others(client: httpx.Client) -> None:
    first = generate(client, **SEEDED)
    assert texts(generate(client, **SEEDED)) == texts(first)
    assert texts(generate(client, **SEEDED | {"seed": 8})) != texts(first)


def test_a_drawn_seed_gives_the_answer_again(client: httpx.Client) -> None:
    fields = {name: value for name, value in SEEDED.items() if name != "seed"}
    first = generate(client, **fields)
    assert texts(generate(client, **fields, seed=first["seed"])) == texts(first)


def test_temperature_0_takes_the_likeliest_token_whatever_the_seed(client: httpx.Client) -> None:
    greedy = SEEDED | {"temperature": 0, "n": 1}
    assert texts(generate(client, **greedy)) == texts(generate(client, **greedy | {"seed": 8}))


def test_the_largest_n_gives_that_many_candidates(client: httpx.Client) -> None:
    limit = client.get("/model").json()["limits"]["max_n"]
    assert len(generate(client, **SEEDED | {"n": limit})["candidates"]) == limit


def test_every_task_and_modality_answers(client: httpx.Client) -> None:
    for task in client.get("/tasks").json()["tasks"]:
        for modality in task["modalities"]:
            answer = generate(
                client, task=task["name"], modality=modality, input=task["example"], max_tokens=4
            )
            assert answer["task"] == task["name"]


def test_a_target_outside_the_support_is_clamped_and_said(client: httpx.Client, bundle: Bundle) -> None:
    lengths = bundle.support.length_range("expand")
    assert lengths is not None
    answer = generate(client, task="expand", input="a fox", target_length=9999, max_tokens=4)
    assert answer["target"]["length"] == lengths[1]
    assert answer["target"]["clamped"] is True
    relevances = bundle.support.range("expand", lengths[0])
    assert relevances is not None
    answer = generate(
        client, task="expand", input="a fox", target_length=lengths[0], target_relevance=0.0, max_tokens=4
    )
    assert answer["target"] == {"relevance": relevances[0], "length": lengths[0], "clamped": True}


def test_a_target_outside_the_support_is_refused_where_that_is_asked(
    client: httpx.Client, bundle: Bundle
) -> None:
    fields = {"task": "expand", "input": "a fox", "out_of_support": "reject"}
    response = client.post("/generate", json=fields | {"target_length": 9999})
    body = response.json()
    assert (response.status_code, body["code"]) == (422, "out_of_support")
    assert body["errors"][0]["field"] == "target_length"
    lengths = bundle.support.length_range("expand")
    assert lengths is not None
    assert str(lengths[1]) in body["detail"]
    response = client.post("/generate", json=fields | {"target_relevance": 0.0})
    assert response.json()["errors"][0]["field"] == "target_relevance"
    generate(client, **fields, target_length=lengths[0], max_tokens=4)


def test_white_space_around_an_input_does_not_matter(client: httpx.Client) -> None:
    padded = SEEDED | {"input": "  a fox in the snow\n"}
    assert texts(generate(client, **padded)) == texts(generate(client, **SEEDED))


def test_an_input_may_be_in_any_script(client: httpx.Client) -> None:
    for text in ("雪の中の狐", "لومړۍ", "🦊❄️", "a\x00b"):
        generate(client, task="expand", input=text, max_tokens=4)


def test_an_input_at_the_limit_is_taken(client: httpx.Client, bundle: Bundle) -> None:
    tokenizer, limit = bundle.tokenizer(), bundle.limits.max_input_tokens
    text = "fox"
    while len(tokenizer.encode(f"{text} fox")) <= limit:
        text = f"{text} fox"
    generate(client, task="expand", input=text, max_tokens=bundle.limits.max_tokens)


def test_timings_and_tokens_show_in_the_metrics(tiny_bundle: Path) -> None:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        answer = generate(client, **SEEDED, target_length=9999)
        page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    for line in (
        'promptdial_requests_total{outcome="ok",task="expand"} 1.0',
        "promptdial_request_seconds_count 1.0",
        "promptdial_queue_seconds_count 1.0",  # without the warm-up
        "promptdial_prefill_seconds_count 1.0",
        "promptdial_score_seconds_count 1.0",
        'promptdial_clamped_targets_total{field="length",task="expand"} 1.0',
        'promptdial_target_error_count{field="relevance",task="expand"} 1.0',
        'promptdial_request_seconds_bucket{le="0.0005"}',
    ):
        assert line in page.text
    assert f'bundle_version="{answer["model"].split("@")[1]}"' in page.text
    assert "promptdial_generated_tokens_total" in page.text


def test_tasks_describe_what_they_take(client: httpx.Client, bundle: Bundle) -> None:
    tasks = client.get("/tasks").json()["tasks"]
    assert [task["name"] for task in tasks] == list(bundle.tasks)
    for task in tasks:
        assert task["description"]
        assert task["input_hint"]
        assert task["modality"] in task["modalities"]


def test_the_model_tells_its_limits_support_and_provenance(client: httpx.Client, bundle: Bundle) -> None:
    model = client.get("/model").json()
    assert model["id"] == f"{bundle.name}@{bundle.version}"
    assert model["limits"]["max_input_tokens"] == bundle.limits.max_input_tokens
    assert model["support"] == bundle.manifest["support"]
    assert model["data"] == bundle.manifest["data"]
    assert model["precision"] == bundle.precision


def test_health_is_green_while_serving(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz"):
        response = client.get(path)
        assert (response.status_code, response.json()["status"]) == (200, "ok")


def test_the_request_id_is_in_header_and_body(client: httpx.Client) -> None:
    response = client.post("/generate", json=SEEDED, headers={"X-Request-ID": "order-66"})
    assert response.headers["x-request-id"] == response.json()["id"] == "order-66"
    made = [client.post("/generate", json=SEEDED).json()["id"] for _ in range(2)]
    assert made[0] != made[1]


def test_several_clients_at_once_get_what_each_would_alone(client: httpx.Client) -> None:
    seeds = range(6)
    alone = [texts(generate(client, **SEEDED | {"seed": seed})) for seed in seeds]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda seed: texts(generate(client, **SEEDED | {"seed": seed})), seeds))
    assert together == alone


def test_openapi_examples_work_when_pasted(client: httpx.Client) -> None:
    page = client.get("/openapi.json").json()
    content = page["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]
    examples = [example["value"] for example in content["examples"].values()]
    assert {example["task"] for example in examples} == {
        "expand",
        "tags",
        "brief",
        "style",
        "compress",
        "suggest",
    }
    for example in examples:
        response = client.post("/generate", json=example)
        assert response.status_code == 200, json.dumps(example)


def test_openapi_describes_the_problems(client: httpx.Client) -> None:
    page = client.get("/openapi.json").json()
    answers = page["paths"]["/generate"]["post"]["responses"]
    assert {"200", "400", "413", "415", "422", "429", "500", "503", "504"} <= set(answers)
    assert "application/problem+json" in answers["422"]["content"]
    assert {"Problem", "FieldError"} <= set(page["components"]["schemas"])
    assert client.get("/docs").status_code == 200
