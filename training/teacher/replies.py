"""From what an endpoint sent to an answer: a JSON body, or server-sent events, timed as they arrived.

What came is read as what it says it is, whichever was asked for: some servers always stream, others never do. Anything
that is not a whole answer is a BrokenReply: a stream that ends before its end is told as much as cut-off JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from training.teacher.journal import Answer, request_key

STREAMED = {
    "stream": True,
    "stream_options": {"include_usage": True},
}  # what asks for a stream that counts tokens


class BrokenReply(Exception):
    """A body that holds no answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A body, and after how many seconds since sending how many of its bytes were there."""

    content: bytes
    arrivals: list[tuple[int, float]]
    streamed: bool  # as server-sent events, by its content type

    def arrived(self, size: int) -> float:
        """Seconds until the first `size` bytes were there."""
        return next((at for count, at in self.arrivals if count >= size), self.seconds)

    @property
    def seconds(self) -> float:
        """Until the end."""
        return self.arrivals[-1][1] if self.arrivals else 0.0


def prompt_tokens(body: dict[str, Any]) -> int:
    """About so many tokens has the prompt of a request: four characters are one."""
    return sum(len(message["content"]) for message in body["messages"]) // 4


def answer(body: dict[str, Any], reply: Reply) -> Answer:
    """The answer to the request `body`. Raises BrokenReply."""
    try:
        return _streamed(body, reply) if reply.streamed else _whole(body, reply)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BrokenReply(repr(error)) from error


def _whole(body: dict[str, Any], reply: Reply) -> Answer:
    data = json.loads(reply.content)
    choice = data["choices"][0]
    text = choice["message"]["content"]
    return _answer(body, data, "" if text is None else _text(text), choice.get("finish_reason"), reply)


def _streamed(body: dict[str, Any], reply: Reply) -> Answer:
    """Joined pieces; the last event that names a model, usage or finish reason counts."""
    pieces: list[str] = []
    first_s: float | None = None
    facts: dict[str, Any] = {}
    finish: str | None = None
    for end, data in _events(reply.content):
        if data.get("error"):
            raise ValueError(f"the stream broke off: {data['error']}")
        facts |= {name: data[name] for name in ("model", "usage") if data.get(name)}
        for choice in data["choices"][:1]:  # the last event may hold usage alone
            finish = choice.get("finish_reason") or finish
            if piece := (choice.get("delta") or {}).get("content"):
                pieces.append(_text(piece))
                first_s = reply.arrived(end) if first_s is None else first_s
    if finish is None:
        raise ValueError("the stream ended before the answer did")
    return _answer(body, facts, "".join(pieces), finish, reply, first_s)


def _events(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON of each `data:` line, and where the line ends: in CR, LF or both, as the standard has it."""
    end = 0
    for line in content.splitlines(keepends=True):  # of bytes; those of text end in more ways
        end += len(line)
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield end, json.loads(data)


def _answer(
    body: dict[str, Any],
    data: dict[str, Any],
    text: str,
    finish: object,
    reply: Reply,
    first_s: float | None = None,
) -> Answer:
    """Where the server counts no tokens, four characters are one."""
    usage = data.get("usage")
    count = usage or {"prompt_tokens": prompt_tokens(body), "completion_tokens": -(-len(text) // 4)}
    return Answer(
        request_key(body),
        text,
        str(finish or "unknown"),
        int(count.get("prompt_tokens") or 0),
        int(count.get("completion_tokens") or 0),
        str(data.get("model") or body["model"]),
        datetime.now(UTC).isoformat(timespec="seconds"),
        counted=bool(usage),
        first_s=None if first_s is None else round(first_s, 6),
        total_s=round(reply.seconds, 6),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"content is {type(value).__name__}")
    return value.encode(errors="replace").decode()  # half a surrogate pair, which JSON can hold, is no text
