"""Locust's users: whole answers, streams, bursts, readers that are slow, and clients that leave.

    make serve &
    .venv/bin/python -m locust -f loadtest/locustfile.py --host http://127.0.0.1:8000      # web UI on port 8089

`make loadtest` runs it without the UI, in stages (loadtest/stages.py). Every user keeps a pace of its own, so a number
of users stands for a rate; but each waits for its answer before it asks again, which hides stalls: loadtest/openloop.py
has latencies that don't. First tokens and the times between tokens are requests of type STREAM in Locust's statistics;
refusals (429, 503) are of type REFUSED and no failures.
"""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import gevent
from locust import FastHttpUser, constant_pacing, events, task

from loadtest import workload
from loadtest.locust_report import Log
from loadtest.records import Record
from loadtest.sending import DONE, ERROR, JSON_TYPE, conclude_stream
from loadtest.workload import Request

BURST = 5
LEAVES_AFTER = 3  # tokens
READ_PAUSE_S = 0.05  # of a slow reader, after each event
numbers = itertools.count()
log = Log()


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """What Locust doesn't know itself."""
    log.add_options(parser)


@events.test_start.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Note what is tested, before there is load on it."""
    log.begin(environment)


@events.spawning_complete.add_listener
def spawned(user_count: int, **_: Any) -> None:
    """From here on so many users are there."""
    log.stage(user_count)


@events.test_stop.add_listener
def end(environment: Any, **_: Any) -> None:
    """Write the report."""
    log.end(environment)


@events.quitting.add_listener
def leave(environment: Any, **_: Any) -> None:
    """Tell by the exit code whether the SLO was met; refusals under overload are no failure."""
    environment.process_exit_code = log.exit_code


class Asker(FastHttpUser):
    """What all users share. `rate`: requests per second of one user, if answers are fast enough."""

    abstract = True
    rate = 1.0
    network_timeout = connection_timeout = 30.0

    def on_start(self) -> None:
        """Each user draws requests of its own, the same in every run."""
        self.chance = random.Random(f"{log.seed}-{next(numbers)}")

    def request(self, *, streamed: bool) -> Request:
        """The next one."""
        return workload.one(self.chance, log.timeout_ms, streamed=streamed)

    def ask(self, request: Request, *, pause_s: float = 0.0, leave_after: int | None = None) -> None:
        """Send a request, read its answer, and tell Locust and the report."""
        sent_s = log.now()
        record = Record(sent_s, sent_s, request.streamed, timed=not pause_s)
        with self.client.post(
            "/generate",
            data=request.body.decode(),
            headers=JSON_TYPE,
            name=f"{request.task}{' (stream)' if request.streamed else ''}",
            catch_response=True,
            stream=request.streamed,
        ) as response:
            status = response.status_code or 0
            if status == 200 and request.streamed:
                self.read(response, record, pause_s, leave_after)
                response.request_meta["response_time"] = (log.now() - sent_s) * 1000
            else:
                self.take(response, status, record)
            record.ended_s = log.now()
            self.conclude(response, record)
        log.records.append(record)

    def take(self, response: Any, status: int, record: Record) -> None:
        """A whole answer or a problem."""
        if not status:
            record.kind = "not connected"
            return
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = {}
        record.answered(status, answer)
        record.tokens = answer.get("usage", {}).get("completion_tokens", 0)

    def read(self, response: Any, record: Record, pause_s: float, leave_after: int | None) -> None:
        """A stream's events as they come; `leave_after` so many tokens the connection is closed."""
        stream, tokens, last_s, answer = response.stream, 0, record.sent_s, b""
        while event := stream.readline(sep=b"\n\n"):
            now_s = log.now()
            if event.startswith(b"event: token"):
                tokens += 1
                if record.timed:
                    self.tell("between tokens" if tokens > 1 else "first token", (now_s - last_s) * 1000)
                if tokens == 1:
                    record.first_token_s = now_s
                else:
                    record.gaps_ms.append((now_s - last_s) * 1000)
                last_s = now_s
                if tokens == leave_after:
                    stream.release()
                    record.outcome, record.kind = "left", "left"
                    return
            elif event.startswith((DONE, ERROR)):
                answer = event
            if pause_s:
                gevent.sleep(pause_s)
        conclude_stream(answer, record)

    def tell(self, name: str, milliseconds: float) -> None:
        """A time of a stream, as a request of its own in Locust's statistics."""
        self.environment.events.request.fire(
            request_type="STREAM",
            name=name,
            response_time=milliseconds,
            response_length=0,
            exception=None,
            context={},
        )

    @staticmethod
    def conclude(response: Any, record: Record) -> None:
        """Refusals apart, faults as failures."""
        if record.outcome == "error":
            response.failure(record.kind)
            return
        if record.outcome != "ok":
            response.request_meta["request_type"] = record.outcome.upper()
        response.success()


class Whole(Asker):
    """Mixed tasks, whole answers."""

    weight = 6
    wait_time = constant_pacing(1.0)

    @task
    def generate(self) -> None:
        """One request."""
        self.ask(self.request(streamed=False))


class Streaming(Asker):
    """Reads its answers as they are written."""

    weight = 3
    rate = 0.5
    wait_time = constant_pacing(2.0)

    @task
    def generate(self) -> None:
        """One stream."""
        self.ask(self.request(streamed=True))


class Bursts(Asker):
    """Nothing for seconds, then several at once."""

    weight = 1
    wait_time = constant_pacing(float(BURST))

    @task
    def generate(self) -> None:
        """A burst."""
        asking = [gevent.spawn(self.ask, self.request(streamed=False)) for _ in range(BURST)]
        gevent.joinall(asking)


class SlowReader(Asker):
    """Takes its time with every event; its latency isn't counted, what it does to others shows in theirs."""

    weight = 1
    rate = 0.2
    wait_time = constant_pacing(5.0)

    @task
    def generate(self) -> None:
        """One stream, read slowly."""
        self.ask(self.request(streamed=True), pause_s=READ_PAUSE_S)


class Leaver(Asker):
    """Closes the connection in the middle of a stream."""

    weight = 1
    rate = 0.5
    wait_time = constant_pacing(2.0)

    @task
    def generate(self) -> None:
        """The beginning of a stream."""
        self.ask(self.request(streamed=True), leave_after=LEAVES_AFTER)
