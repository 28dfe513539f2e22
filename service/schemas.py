"""Requests and answers as they travel; what their fields mean is what the OpenAPI page shows.

Types are strict: a number in quotes is an error, not a number. An unknown field is an error too, so that a
typing mistake doesn't quietly leave a target out.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticKnownError

MAX_SEED = 2**63 - 1

# Unicode categories: separators, controls, format characters (zero-width space, byte order mark, tags). Not the
# unassigned ones, which an emoji newer than this Python is among.
INVISIBLE = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})


def has_visible(text: str) -> str:
    """Refuse a text in which there is nothing to see as the empty one that it seems."""
    if all(unicodedata.category(character) in INVISIBLE for character in text):
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    return text


InputText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(has_visible)
]


class GenerateRequest(BaseModel):
    """What to write and how. Only `task` and `input` are required."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    task: str = Field(description="One of `GET /tasks`.", examples=["expand"])
    input: InputText = Field(description="The text to work on; plain text, whatever it holds.")
    modality: str | None = Field(
        default=None, description="One that `GET /tasks` lists for the task; left out: the task's own."
    )
    target_relevance: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Wanted cosine of input and output; left out: high for task and length.",
    )
    target_length: int | None = Field(
        default=None, ge=1, description="Wanted words of the output; left out: the task's usual length."
    )
    out_of_support: Literal["clamp", "reject"] = Field(
        default="clamp", description="What to do with a target that the model was not trained on."
    )
    n: int = Field(default=1, ge=1, description="Candidates; the server's limit is in `GET /model`.")
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Same seed, same answer; left out: drawn."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 always takes the likeliest token."
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, description="Left out: enough for the target length.")
    timeout_ms: int | None = Field(default=None, ge=1, description="Past it the answer is a 504.")
    score: bool = Field(default=True, description="Measure `achieved_relevance`.")
    rank: Literal["closest", "highest"] = Field(
        default="closest",
        description="Best first: closest to the target relevance, or of the highest relevance.",
    )
    stream: bool = Field(default=False, description="Send the text as it is written: server-sent events.")
    min_relevance: float | None = Field(default=None, ge=0, le=1, description="Not available yet.")
    keep: list[str] | None = Field(default=None, description="Not available yet.")


class Target(BaseModel):
    """The command that the model was given, after defaults and clamping; `null` means left to the model."""

    relevance: float | None
    length: int | None
    clamped: bool = Field(description="Whether a target of the request was moved into the trained support.")


class Candidate(BaseModel):
    """One written text and what was measured on it."""

    text: str
    achieved_relevance: float | None = Field(
        description="Cosine of input and text, 0-1; `null` without `score`."
    )
    achieved_length: int = Field(description="Words.")
    finish_reason: Literal["stop", "length"] = Field(description="`length`: cut off at `max_tokens`.")


class Usage(BaseModel):
    """Tokens read, and written over all candidates."""

    prompt_tokens: int
    completion_tokens: int


class TimingMs(BaseModel):
    """Where the time went. `total_ms` counts from the arrival of the request."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    score_ms: float = Field(
        description="Measuring after decoding; the input is embedded while decoding runs."
    )
    total_ms: float


class GenerateResponse(BaseModel):
    """Candidates, best first."""

    id: str = Field(description="The request id, as in `X-Request-ID`.")
    model: str = Field(description="Bundle name and version.")
    task: str
    seed: int = Field(description="The seed that gives this answer again.")
    target: Target
    candidates: list[Candidate]
    usage: Usage
    timing: TimingMs


class StreamToken(BaseModel):
    """Event `token`: the next piece of a candidate. Joined, its pieces are the text."""

    candidate: int = Field(description="0 to n - 1.")
    text: str


class StreamCandidate(Candidate):
    """Event `candidate`: one is complete and measured."""

    candidate: int


class StreamDone(BaseModel):
    """Event `done`, the last one: the answer without its candidates."""

    id: str
    model: str
    task: str
    seed: int
    target: Target
    ranking: list[int] = Field(description="Candidates, best first.")
    usage: Usage
    timing: TimingMs


class LengthRange(BaseModel):
    """Words of the outputs that the training data holds."""

    low: int = Field(description="The least `target_length` that isn't clamped.")
    p05: int = Field(description="5th percentile.")
    p50: int = Field(description="Median: what a left-out `target_length` means.")
    p95: int = Field(description="95th percentile.")
    high: int = Field(description="The most `target_length` that isn't clamped.")


class TaskDescription(BaseModel):
    """One task of the bundle that is served."""

    name: str
    description: str
    input_hint: str
    example: str
    modality: str = Field(description="Used when a request names none.")
    modalities: list[str]
    length: LengthRange | None = Field(description="`null`: unknown, nothing is clamped.")


class TaskList(BaseModel):
    """All tasks."""

    tasks: list[TaskDescription]


class ModelLimits(BaseModel):
    """What one request may ask for."""

    max_input_tokens: int
    max_tokens: int
    max_n: int
    max_timeout_ms: int
    max_body_bytes: int


class ModelDescription(BaseModel):
    """The bundle that is served: what it is, what it can and can't do, and what it was made of."""

    id: str = Field(description="Name and version, as in every answer.")
    name: str
    version: str
    created: str | None
    precision: str
    device: str
    threads: int = Field(description="Of the decoder.")
    architecture: dict[str, Any]
    tasks: list[str]
    modalities: list[str]
    limits: ModelLimits
    sampling: dict[str, Any] = Field(description="Used where a request says nothing.")
    support: dict[str, Any] = Field(
        description="Per task: lengths, and relevances per length, of the training data."
    )
    calibration: dict[str, Any] = Field(
        description="Per task: relevance achieved per length and target, its percentiles, and the count."
    )
    metrics: dict[str, Any]
    parity: dict[str, Any]
    data: list[Any] = Field(description="Training data with licences and attributions.")
    training: dict[str, Any]


class Status(BaseModel):
    """Answer of the health endpoints."""

    status: Literal["ok", "unavailable"]
    reason: str | None = None


class FieldError(BaseModel):
    """One thing wrong with one field."""

    field: str | None = Field(description="`null`: the body as a whole.")
    code: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details. `code` is stable; `detail` is for people and may change."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None
    retry_after_ms: int | None = None
