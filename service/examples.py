"""What the OpenAPI page shows besides types: descriptions, requests that work when pasted, problems.

Requests are for the tasks of the bundle that is served; the route is declared with the usual ones, before there is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi.openapi.models import Example
from pydantic.json_schema import models_json_schema

from promptdial.tasks import TASK_INFO, Task
from service.schemas import FieldError, Problem, StreamCandidate, StreamDone, StreamToken

DEFAULT_URL = "http://127.0.0.1:8000"

USUAL = "expand"  # the task of the examples, where the bundle has it


def steered(task: Task) -> dict[str, Any]:
    """A request with targets, candidates and a seed."""
    return {
        "task": task.name,
        "modality": task.modality,
        "input": task.example,
        "target_relevance": 0.85,
        "target_length": 30,
        "n": 4,
        "seed": 7,
    }


def streamed(task: Task) -> dict[str, Any]:
    """A request whose answer comes as events."""
    return {"task": task.name, "input": task.example, "stream": True}


def everything(task: Task) -> dict[str, Any]:
    """A request with every field that one can have."""
    return {
        **{"task": task.name, "modality": task.modality, "input": task.example},
        **{"target_relevance": 0.7, "target_length": 20, "out_of_support": "clamp"},
        **{"n": 2, "seed": 7, "temperature": 0.8, "top_p": 0.95, "max_tokens": 64},
        **{"timeout_ms": 5000, "rank": "highest", "score": True},
    }


def usual(tasks: Mapping[str, Task]) -> Task:
    """The task that examples are about."""
    return tasks.get(USUAL) or next(iter(tasks.values()))


def requests(tasks: Mapping[str, Task]) -> dict[str, Example]:
    """Requests to try, by name."""
    task = usual(tasks)
    return {
        "steered": Example(summary="Four candidates at a relevance and a length", value=steered(task)),
        **{
            each.name: Example(summary=each.description, value={"task": each.name, "input": each.example})
            for each in tasks.values()
        },
        "streamed": Example(summary="As it is written", value=streamed(task)),
        "all fields": Example(summary="Everything that can be said", value=everything(task)),
    }


def curl(body: dict[str, Any], url: str = DEFAULT_URL) -> str:
    """The command that sends a request."""
    flags = "-sSN" if body.get("stream") else "-sS"  # -N: show what comes at once
    quoted = json.dumps(body).replace("'", "'\\''")
    return f"curl {flags} {url}/generate -H 'Content-Type: application/json' -d '{quoted}'"


def description(tasks: Mapping[str, Task]) -> str:
    """What `POST /generate` does, with commands that work when pasted."""
    task = usual(tasks)
    return f"""\
Turns a short input into prompts for an image, video or template generator, best first.

`target_relevance` and `target_length` are inputs of the model: it was trained to write what they ask for.
What it achieved is measured and reported with each candidate. Targets outside the trained support are moved
to its border, which `target.clamped` reports; with `"out_of_support": "reject"` they are refused.

```sh
{curl({"task": task.name, "input": task.example})}
```

```sh
{curl(steered(task))}
```

With `"stream": true` the text comes as it is written, as server-sent events:

```sh
{curl(streamed(task))}
```
"""


GENERATE_DESCRIPTION, GENERATE_EXAMPLES = description(TASK_INFO), requests(TASK_INFO)

API_DESCRIPTION = """\
Errors are RFC 9457 problems (`application/problem+json`) with a stable `code`. Every answer carries its
request id in `X-Request-ID`; send one to choose it.
"""

PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
PROBLEM_TEXTS = {
    400: "`malformed_body`: not UTF-8 or not JSON.",
    413: "`body_too_large`, or `input_too_long`: more tokens than the model reads.",
    415: "`unsupported_media_type`: not declared as JSON in UTF-8.",
    422: "`invalid_request`, `out_of_support`, `timeout_too_short` or `not_available_yet`; "
    "`errors` names the fields.",
    429: "`overloaded`: the queue is full, or the request would miss its deadline; "
    "`Retry-After` and `retry_after_ms` say when to come back.",
    500: "`engine_failed` or `internal_error`; the server's log has the details under the request id.",
    503: "`unavailable`: not started, shutting down, or recovering.",
    504: "`deadline_exceeded`: not done within `timeout_ms`.",
}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {"schema": PROBLEM_REF}}}
    for status, text in PROBLEM_TEXTS.items()
}
STREAM_EXAMPLE = """\
event: token
data: {"candidate":0,"text":"a fox"}

event: candidate
data: {"candidate":0,"text":"a fox","achieved_relevance":0.83,"achieved_length":2,"finish_reason":"stop"}

event: done
data: {"id":"…","model":"…","task":"expand","seed":7,"target":{…},"ranking":[0],"usage":{…},"timing":{…}}

"""
GENERATE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": 'The answer; with `"stream": true` the events `token` (StreamToken), `candidate` '
        "(StreamCandidate), then `done` (StreamDone) or `error` (Problem).",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": STREAM_EXAMPLE}},
    },
    **PROBLEM_RESPONSES,
}


def extra_schemas() -> dict[str, Any]:
    """Component schemas of problems and of a stream's events, which no route returns by itself."""
    models = (Problem, FieldError, StreamToken, StreamCandidate, StreamDone)
    _, definitions = models_json_schema(
        [(model, "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas
