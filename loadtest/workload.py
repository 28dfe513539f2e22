"""What the load consists of: a seeded mix of tasks, lengths and candidates, the same one for both runners."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadtest.latency import INPUTS

# Task → its share of the requests and inputs as people send them.
TASKS: dict[str, tuple[float, tuple[str, ...]]] = {
    "expand": (0.4, INPUTS),
    "tags": (
        0.15,
        (
            "lighthouse, storm, night, waves",
            "cabin, mountains, snow, smoke",
            "market street, people, evening, lanterns",
        ),
    ),
    "brief": (
        0.15,
        (
            "A poster for a jazz concert in the park on a summer evening.",
            "A banner for a bakery that opens on Monday, warm and simple.",
        ),
    ),
    "style": (0.1, ("a lighthouse, film noir", "a bowl of fruit, watercolor", "a train station, art deco")),
    "compress": (
        0.1,
        (
            "A weathered wooden boat rests on a pebble beach at dawn. Soft pink light falls on the calm water, "
            "gulls stand on the stones, and far out a small sail can be seen against the hills.",
        ),
    ),
    "suggest": (0.1, ("birthday party ideas", "a dragon over a city", "quiet winter morning")),
}
LENGTHS = (None, 12, 25, 40)  # words; None leaves it to the service
CANDIDATES, CANDIDATES_SHARE = 4, 0.1  # so many requests ask for several candidates
STREAMED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Request:
    """One request to be sent: its body, ready as bytes."""

    task: str
    streamed: bool
    body: bytes


def requests(seed: int | str, timeout_ms: int, streamed_share: float = STREAMED_SHARE) -> Iterator[Request]:
    """Requests without end. The same seed gives the same ones."""
    chance = random.Random(seed)
    while True:
        yield one(chance, timeout_ms, streamed=chance.random() < streamed_share)


def one(chance: random.Random, timeout_ms: int, *, streamed: bool) -> Request:
    """A request drawn from the mix."""
    task = chance.choices(list(TASKS), [share for share, _ in TASKS.values()])[0]
    body: dict[str, Any] = {
        "task": task,
        "input": chance.choice(TASKS[task][1]),
        "n": CANDIDATES if chance.random() < CANDIDATES_SHARE else 1,
        "seed": chance.randrange(2**32),
        "timeout_ms": timeout_ms,
        "stream": streamed,
    }
    length = chance.choice(LENGTHS)
    if length is not None:
        body["target_length"] = length
    return Request(task, streamed, json.dumps(body).encode())


def described() -> dict[str, Any]:
    """The mix, for the report."""
    return {
        "tasks": {task: share for task, (share, _) in TASKS.items()},
        "target_length": list(LENGTHS),
        "candidates": f"{CANDIDATES} in {CANDIDATES_SHARE:.0%} of the requests, else 1",
    }
