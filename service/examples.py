"""What the OpenAPI page shows besides types: descriptions, requests that work when pasted, problems."""

from __future__ import annotations

import json
from typing import Any

from fastapi.openapi.models import Example
from pydantic.json_schema import models_json_schema

from promptdial.tasks import TASK_INFO
from service.schemas import FieldError, Problem, StreamCandidate, StreamDone, StreamToken

DEFAULT_URL = "http://127.0.0.1:8000"

STEERED: dict[str, Any] = {
    "task": "expand",
    "modality": "image",
    "input": "a fox in the snow",
    "target_relevance": 0.85,
    "target_length": 30,
    "n": 4,
    "seed": 7,
}

STREAMED: dict[str, Any] = {"task": "expand", "input": "a fox in the snow", "stream": True}

GENERATE_EXAMPLES: dict[str, Example] = {
    "steered": Example(summary="Four candidates at a relevance and a length", value=STEERED),
    **{
        task.name: Example(summary=task.description, value={"task": task.name, "input": task.example})
        for task in TASK_INFO.values()
    },
    "streamed": Example(summary="As it is written", value=STREAMED),
    "style, all fields": Example(
        summary="Everything that can be said",
        value={
            **{"task": "style", "modality": "video", "input": "a lighthouse, film noir"},
            **{"target_relevance": 0.7, "target_length": 20, "out_of_support": "clamp"},
            **{"n": 2, "seed": 7, "temperature": 0.8, "top_p": 0.95, "max_tokens": 64},
            **{"timeout_ms": 5000, "rank": "highest", "score": True},
        },
    ),
}


def curl(body: dict[str, Any], url: str = DEFAULT_URL) -> str:
    """The command that sends a request."""
    flags = "-sSN" if body.get("stream") else "-sS"  # -N: show what comes at once
    quoted = json.dumps(body).replace("'", "'\\''")
    return f"curl {flags} {url}/generate -H 'Content-Type: application/json' -d '{quoted}'"


GENERATE_DESCRIPTION = f"""\
Turns a short input into prompts for an image, video or template generator, best first.

`target_relevance` and `target_length` are inputs of the model: it was trained to write what they ask for.
What it achieved is measured and reported with each candidate. Targets outside the trained support are moved
to its border, which `target.clamped` reports; with `"out_of_support": "reject"` they are refused.

```sh
{curl({"task": "expand", "input": "a fox in the snow"})}
```

```sh
{curl(STEERED)}
```

With `"stream": true` the text comes as it is written, as server-sent events:

```sh
{curl(STREAMED)}
```
"""

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
