"""One question to an endpoint with the chat protocol of OpenAI, asked until it is answered or can't be.

Overload (429), server errors, timeouts, broken connections and broken bodies are tried again, with exponential backoff
and jitter; `Retry-After` is kept to by all requests. A refused key, model or path stops the run: no retry would help.
An answer that doesn't end is cut off by the deadline or by its size. Every attempt is counted by its outcome.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from training.errors import TrainingError
from training.teacher.journal import Answer, request_key
from training.teacher.pace import Pace, backoff, retry_after

log = logging.getLogger(__name__)

LARGEST_BODY = 1 << 20  # bytes
FATAL = {401, 402, 403, 404}
RETRIED = {408, 409, 425, 429}


class Unanswered(Exception):
    """One request failed for good; the text says how."""


class _Again(Exception):
    """An attempt failed in a way that may pass: `outcome` for the count, `wait_s` if the server said how long."""

    def __init__(self, outcome: str, wait_s: float | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.wait_s = wait_s


@dataclass
class Endpoint:
    """Where to ask and how stubbornly. `outcomes` counts attempts: `200`, `429`, `timeout`, `broken body`, ..."""

    url: str
    api_key: str | None
    pace: Pace
    timeout_s: float = 120.0
    attempts: int = 6
    backoff_s: float = 1.0
    longest_backoff_s: float = 60.0
    rng: random.Random = field(default_factory=random.Random)
    outcomes: Counter[str] = field(default_factory=Counter)

    def client(self, concurrency: int) -> httpx.AsyncClient:
        """A connection pool for this endpoint; the caller closes it."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        return httpx.AsyncClient(headers=headers, limits=limits, timeout=None)  # ask() has the deadline

    async def ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        """The answer to one request. Raises Unanswered, or TrainingError when asking on makes no sense."""
        estimate = estimated_tokens(body)
        for attempt in range(1, self.attempts + 1):
            await self.pace.wait(estimate)
            try:
                answer = await self._attempt(client, body)
            except _Again as failure:
                self.outcomes[failure.outcome] += 1
                if failure.wait_s is not None:
                    self.pace.pause(failure.wait_s)
                if attempt == self.attempts:
                    raise Unanswered(failure.outcome) from failure
                if failure.wait_s is None:
                    await asyncio.sleep(backoff(attempt, self.backoff_s, self.longest_backoff_s, self.rng))
            else:
                self.outcomes["200"] += 1
                self.pace.correct(answer.prompt_tokens + answer.completion_tokens - estimate)
                return answer
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        try:
            async with asyncio.timeout(self.timeout_s):
                status, headers, content = await self._post(client, body)
        except TimeoutError as error:
            raise _Again("timeout") from error
        except httpx.InvalidURL as error:
            raise TrainingError(f"{self.url} is no URL: {error}") from error
        except httpx.UnsupportedProtocol as error:
            raise TrainingError(f"{self.url}: {error}") from error
        except httpx.HTTPError as error:
            raise _Again("connection") from error
        if status in RETRIED or status >= 500:
            raise _Again(str(status), retry_after(headers.get("Retry-After")))
        if status in FATAL:
            self.outcomes[str(status)] += 1
            raise TrainingError(f"{self.url} answered {status}: {content[:300].decode(errors='replace')}")
        if status != 200:
            self.outcomes[str(status)] += 1
            raise Unanswered(f"{status}: {content[:200].decode(errors='replace')}")
        return _parsed(body, content)

    async def _post(
        self, client: httpx.AsyncClient, body: dict[str, Any]
    ) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body; a body without end is given up at LARGEST_BODY."""
        url = self.url.rstrip("/") + "/chat/completions"
        async with client.stream("POST", url, json=body) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST_BODY:
                    raise _Again("endless body")
            return response.status_code, response.headers, bytes(content)


def estimated_tokens(body: dict[str, Any]) -> int:
    """About what a request will take: four characters a token, and all that the answer may have."""
    characters = sum(len(message["content"]) for message in body["messages"])
    return characters // 4 + int(body["max_tokens"])


def _parsed(body: dict[str, Any], content: bytes) -> Answer:
    try:
        data = json.loads(content)
        choice = data["choices"][0]
        usage = data.get("usage") or {}
        text = choice["message"]["content"]
        return Answer(
            request_key(body),
            "" if text is None else _text(text),
            str(choice.get("finish_reason") or "unknown"),
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            str(data.get("model") or body["model"]),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Again("broken body") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"content is {type(value).__name__}")
    return value
