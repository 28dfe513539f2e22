"""A teacher that misbehaves: the chat protocol over a real socket, with faults by script and a log of all that it did.

Run as a program (`python -m tests.teacher_server LOG FAULT_SHARE SEED LATENCY_S [judge]`) it prints its port and
outlives killed clients. It answers inputs with descriptions, or, as a judge, pairs with verdicts; in one piece or
streamed.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# The outcome that a client has to count for each fault.
OUTCOME = {
    "answer": "200",
    "whole": "200",  # also where a stream is asked for
    "stream": "200",
    "bare stream": "200",  # no usage, no [DONE], lines that end in CR LF
    "odd text": "200",
    "busy": "429",
    "busy with date": "429",
    "busy without word": "429",
    "error": "500",
    "hang": "timeout",
    "dribble": "timeout",
    "half": "broken body",
    "other": "broken body",
    "cut stream": "broken body",
    "failed stream": "broken body",
    "endless": "endless body",
    "endless stream": "endless body",
    "drop": "connection",
    "no handshake": "TLS",
    "refuse": "400",
    "no key": "401",
    "no model": "404",
}
PASSING = (
    "busy", "busy with date", "busy without word", "error", "half", "other", "cut stream", "failed stream", "endless",
    "endless stream", "drop",
)  # fmt: skip
STREAMED = ("stream", "bare stream", "cut stream", "failed stream")  # also where a whole answer is asked for
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8"}
CERTIFICATE = Path(__file__).with_name("teacher_tls.pem")
Script = Callable[[str, int], str]  # the input asked and how often it was asked before -> a key of OUTCOME
CRITERIA = ("entities", "attributes", "counts", "quoted_text", "consistent")
GARBLED = ("The description is fine.", '{"entities": 4}', '{"entities": 9, "attributes": 1, "counts": null, '
           '"quoted_text": null, "consistent": 4}')  # fmt: skip


@dataclass
class Teacher:
    """What the server does and did. `log` holds (what it did, the input asked, when)."""

    script: Script = lambda asked, before: "answer"
    retry_after: str = "0"
    log_file: Path | None = None
    reply: Callable[[str], str] = field(default_factory=lambda: answer_to)
    model: str | None = None  # the only one it has; None answers for any
    parameters: int | None = None  # told by GET /models, as llama.cpp's server does
    broken_handshakes: float = 0.0  # share of TLS connections
    latency_s: float = 0.0  # between the note in the log and the deed
    log: list[tuple[str, str, float]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorization: set[str | None] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)
    _asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, body: dict[str, Any], authorization: str | None) -> str:
        """What to do with a request; noted before it is done."""
        asked = body["messages"][-1]["content"]
        with self._lock:
            known = self.model in (None, body["model"])
            done = self.script(asked, self._asked[asked]) if known else "no model"
            self._asked[asked] += 1
            self.log.append((done, asked, time.monotonic()))
            self.bodies.append(body)
            self.authorization.add(authorization)
            if self.log_file is not None:
                with self.log_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([done, asked]) + "\n")
        return done

    @property
    def outcomes(self) -> Counter[str]:
        """The log in the words of a client's report."""
        return Counter(OUTCOME[done] for done, _, _ in self.log)


def answer_to(asked: str) -> str:
    """A description with words of its own, the same for the same input."""
    rng = random.Random(asked)
    own = [
        "".join(rng.choices("bcdfghklmnprst", k=2)) + rng.choice("aeiou") + rng.choice("lnrt")
        for _ in range(12)
    ]
    return (
        f"{asked.capitalize()} with {own[0]} and {own[1]} in the {own[2]} light of the {own[3]}. "
        f"Behind the {own[4]} {own[5]} there {own[6]} a {own[7]} of {own[8]} on the {own[9]} {own[10]}."
    )


def verdict_on(asked: str) -> str:
    """A judge's answer: by shared words; stricter when it reads the description first; none on what is `garbled`."""
    halves = dict(part.split("\n", 1) for part in asked.split("\n\n", 1))
    request, description = halves["Request:"], halves["Description:"]
    if "garbled" in request:
        return GARBLED[len(request) % len(GARBLED)]
    words = set(request.lower().split())
    kept = round(4 * len(words & set(description.lower().split())) / len(words))
    late = asked.startswith("Description:")
    points = dict.fromkeys(CRITERIA[1:4]) | {"entities": kept, "consistent": max(0, 4 - late)}
    return json.dumps({name: points[name] for name in CRITERIA[:: -1 if late else 1]})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    teacher: Teacher

    def do_GET(self) -> None:
        model: dict[str, Any] = {"id": "tiny", "object": "model"}
        if self.teacher.parameters is not None:
            model["meta"] = {"n_params": self.teacher.parameters}
        self._send(200, json.dumps({"object": "list", "data": [model]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        done = self.teacher.decide(body, self.headers.get("Authorization"))
        self.teacher.closing.wait(self.teacher.latency_s)
        with contextlib.suppress(ConnectionError):
            self._do(done, body)

    def _do(self, done: str, body: dict[str, Any]) -> None:
        completion = _completion(body, self.teacher.reply)
        wanted = bool(body.get("stream")) and done != "whole"
        events = list(_events(completion, done))
        whole = b"".join(events) if wanted else json.dumps(completion).encode()
        if done in STREAMED or (done == "answer" and wanted):
            self._stream(events)
        elif done in ("answer", "whole"):
            self._send(200, whole)
        elif done == "odd text":
            self._send(200, whole.replace(b" with ", b" \\ud800 "))
        elif OUTCOME[done] in ("429", "500", "400", "401", "404"):
            self._send(int(OUTCOME[done]), b'{"error": {"message": "no"}}', self._wait(done))
        elif done == "half":
            self._send(200, whole[: len(whole) // 2], EVENTS if wanted else None)
        elif done == "other":
            self._send(200, b'{"choices": [{"message": {"content": 7}}]}')
        elif done == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif done == "hang":
            self.teacher.closing.wait()
        else:
            self._without_end(done)

    def _wait(self, done: str) -> dict[str, str]:
        now = formatdate(usegmt=True)
        return {
            "busy": {"Retry-After": self.teacher.retry_after},
            "busy with date": {"Retry-After": now},
        }.get(done, {})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, events: list[bytes]) -> None:
        """An event at a time; the connection's end is the body's."""
        self._begin(EVENTS)
        for event in events:
            self.wfile.write(event)
            self.wfile.flush()

    def _begin(self, headers: dict[str, str]) -> None:
        """The head of a body whose size is not told."""
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def _without_end(self, done: str) -> None:
        """As fast as the socket takes it, or a byte now and then."""
        self._begin(EVENTS if done == "endless stream" else {})
        event = b'data: {"choices": [{"delta": {"content": "more and "}}]}\n\n'
        piece = {"dribble": b" ", "endless": b" " * 65_536, "endless stream": event * 1000}[done]
        pause = 0.05 if done == "dribble" else 0.0
        while not self.teacher.closing.wait(pause):
            self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _completion(body: dict[str, Any], reply: Callable[[str], str]) -> dict[str, Any]:
    text = reply(body["messages"][-1]["content"])
    return {
        "model": body["model"],
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": sum(len(message["content"]) for message in body["messages"]) // 4,
            "completion_tokens": len(text.split()),
        },
    }


def _events(whole: dict[str, Any], done: str) -> Iterator[bytes]:
    """A completion as servers of the protocol stream it: role, words, finish reason, usage, end."""
    choice = whole["choices"][0]
    first, *words = choice["message"]["content"].split(" ")
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None},
        *({"content": piece} for piece in (first, *(f" {word}" for word in words))),
    ]
    line_end = b"\r\n" if done == "bare stream" else b"\n"

    def event(**facts: Any) -> bytes:
        return b"data: " + json.dumps({"model": whole["model"], **facts}).encode() + 2 * line_end

    for delta in deltas:
        yield event(choices=[{"delta": delta, "finish_reason": None}])
    if done == "failed stream":
        yield b'data: {"error": "CUDA error"}'
    if done in ("cut stream", "failed stream"):
        return
    yield event(choices=[{"delta": {}, "finish_reason": choice["finish_reason"]}])
    if done != "bare stream":
        yield b": still here\r\n\r\n"
        yield event(choices=[], usage=whole["usage"])
        yield b"data: [DONE]\n\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    teacher: Teacher
    tls: ssl.SSLContext | None = None
    rng = random.Random(5)

    def get_request(self) -> tuple[socket.socket, Any]:
        """A new connection; its TLS handshake, if there is one, waits for the thread of the connection."""
        connection, address = super().get_request()
        if self.tls is None:
            return connection, address
        if self.rng.random() < self.teacher.broken_handshakes:
            with connection:
                connection.recv(65_536)  # unread bytes would reset the connection and hide the answer
                self.teacher.log.append(("no handshake", "", time.monotonic()))
                connection.sendall(b"no TLS is spoken here\r\n")
            raise OSError("this connection is done with")
        return self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""


@contextlib.contextmanager
def serving(teacher: Teacher, tls: bool = False) -> Iterator[str]:
    """The base URL of the running server."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"teacher": teacher}))
    server.teacher = teacher
    if tls:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(CERTIFICATE)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        teacher.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def faulty(share: float, seed: int) -> Script:
    """Faults that pass, in a share of the attempts; never three for one input."""
    rng = random.Random(seed)
    return lambda asked, before: rng.choice(PASSING) if before < 2 and rng.random() < share else "answer"


if __name__ == "__main__":
    log_file, share, seed, latency_s, *role = sys.argv[1:]
    script = faulty(float(share), int(seed))
    reply = verdict_on if role == ["judge"] else answer_to
    with serving(
        Teacher(script, log_file=Path(log_file), latency_s=float(latency_s), reply=reply)
    ) as address:
        print(address, flush=True)
        sys.stdin.read()
