"""What the judge is asked about an input and an output, and what counts as its answer.

A judge's answer depends on the order in which it reads (Zheng et al. 2023, arXiv 2306.05685), so each pair is asked
about twice: with the input first and the criteria in their order, and with the output first and the criteria turned
round.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

HIGHEST = 4
ORDERS = (0, 1)
MAX_TOKENS = 120  # an answer takes about 50
_CRITERIA = {
    "entities": "every person, animal, thing and place of the request is in the description",
    "attributes": "colours, materials, styles, moods and actions are kept, each with what it belongs to; null if the "
    "request has none",
    "counts": "numbers of things are kept; null if the request has none",
    "quoted_text": "text in quotation marks stands in the description word for word; null if the request has none",
    "consistent": "nothing in the description contradicts the request",
}
_SYSTEM = """
You check whether a description keeps to a request. Rate each point from 0 (not at all) to 4 (fully). What the
description adds is no fault unless it contradicts the request.

{criteria}

Answer with one JSON object and nothing else, such as {example}"""
_EXAMPLE = {"entities": "4", "attributes": "3", "counts": "null", "quoted_text": "null", "consistent": "4"}
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)

Points = Annotated[int, Field(ge=0, le=HIGHEST)]


class Malformed(Exception):
    """An answer that is no verdict; the text says why."""


class Verdict(BaseModel):
    """Points of one answer; None where the input has nothing of the kind."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    entities: Points
    attributes: Points | None
    counts: Points | None
    quoted_text: Points | None
    consistent: Points

    @property
    def relevance(self) -> float:
        """0-1: the mean share of what was kept, times the share that is not contradicted."""
        kept = [self.entities, self.attributes, self.counts, self.quoted_text]
        found = [points for points in kept if points is not None]
        return sum(found) / len(found) / HIGHEST * self.consistent / HIGHEST


FIELDS = tuple(Verdict.model_fields)


def body(model: str, input: str, output: str, order: int, json_mode: bool = False) -> dict[str, Any]:
    """The request about one pair in one of the orders; temperature 0."""
    names = list(_CRITERIA)[:: 1 if order == 0 else -1]
    criteria = "\n".join(f"- {name}: {_CRITERIA[name]}" for name in names)
    example = "{" + ", ".join(f'"{name}": {_EXAMPLE[name]}' for name in names) + "}"
    texts = [f"Request:\n{input}", f"Description:\n{output}"][:: 1 if order == 0 else -1]
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": _SYSTEM.strip().format(criteria=criteria, example=example)},
            {"role": "user", "content": "\n\n".join(texts)},
        ],
        "max_tokens": MAX_TOKENS,
        "temperature": 0.0,
        **({"response_format": {"type": "json_object"}} if json_mode else {}),
    }


def parse(answer: str) -> Verdict:
    """The verdict in an answer, which may stand in a code fence and nothing else. Raises Malformed."""
    fenced = _FENCE.match(answer)
    try:
        return Verdict.model_validate_json(fenced[1] if fenced else answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"{place}: {first['type']}" if place else str(first["type"])) from error
