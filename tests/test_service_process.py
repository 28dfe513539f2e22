"""`python -m service` as a process: what it imports, how it starts, what it says when it can't, its end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from service.health import Health
from service.server import SAME_WISH_S, Server
from tests.service_live import WAIT_S, http_post

ROOT = Path(__file__).parents[1]
START_S = 60.0
LISTENING = re.compile(r"Uvicorn running on (http://[\w.:\[\]]+)")


def environment(**variables: str) -> dict[str, str]:
    """This process's variables without Promptdial's own, plus `variables`, on a free port."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTDIAL_")}
    return kept | {"PROMPTDIAL_PORT": "0", "PROMPTDIAL_THREADS": "1"} | variables


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    """Run the service to its own end."""
    return subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


class Running:
    """A service in a process of its own; its log is read as it comes."""

    def __init__(self, variables: dict[str, str], wrapper: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "service"],
            cwd=ROOT,
            env=environment(**variables),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._address: Future[str] = Future()
        self.begun = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log.append(line)
                self.begun.set()
                if (found := LISTENING.search(line)) and not self._address.done():
                    self._address.set_result(found[1])
        if not self._address.done():
            self._address.set_exception(AssertionError("".join(self.log)))

    def address(self) -> str:
        """Where it listens, once it does."""
        return self._address.result(START_S)

    def signal(self, *numbers: signal.Signals) -> None:
        """Send signals, one right after the other."""
        for number in numbers:
            self.process.send_signal(number)

    def exit_code(self) -> int:
        """How it ended, and all of its log read."""
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code


@contextmanager
def running(wrapper: Sequence[str] = (), **variables: str) -> Iterator[Running]:
    """A service, run by the command `wrapper` if there is one, that is ended whatever happens."""
    service = Running(variables, wrapper)
    try:
        yield service
    finally:
        service.process.kill()
        service.exit_code()


@dataclass
class Seen:
    """What the clients of one service saw."""

    answered: list[str] = field(default_factory=list)  # request ids
    refused: list[str] = field(default_factory=list)  # codes
    many: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


def entries(log: str) -> list[dict[str, Any]]:
    """The log's lines, each of which must be JSON."""
    return [json.loads(line) for line in log.splitlines()]


def test_importing_the_application_loads_neither_torch_nor_transformers() -> None:
    unwanted = "{'torch', 'transformers', 'onnx'}"
    code = f"import sys, service.app, service.server; print(*{unwanted} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM],
        [signal.SIGINT],
        [signal.SIGTERM, signal.SIGTERM],
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGINT, signal.SIGTERM],
    ],
)
def test_the_process_ends_with_0_however_often_it_is_told(
    tiny_bundle: Path, numbers: list[signal.Signals]
) -> None:
    """make and the server both get a terminal's Ctrl-C; uvicorn alone forces the exit at the second."""
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service:
        assert httpx.get(f"{service.address()}/readyz").status_code == 200
        service.signal(*numbers)
        assert service.exit_code() == 0
    log = "".join(service.log)
    assert "Traceback" not in log
    assert "Finished server process" in log
    entries(log)


def test_a_request_in_flight_is_answered_before_the_process_ends(tiny_bundle: Path) -> None:
    work = {"task": "expand", "input": "a fox", "n": 16, "max_tokens": 100, "temperature": 2}
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service:
        url = httpx.URL(service.address())
        with socket.create_connection((url.host, url.port or 80), WAIT_S) as connection:
            connection.sendall(http_post(work))
            assert httpx.get(url.join("/livez")).status_code == 200  # the server has read what came before
            service.signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert service.exit_code() == 0


def client_until_refused(address: str, place: int, streamed: bool, seen: Seen) -> None:
    """Ask again and again; note whole answers, and stop at the first refusal."""
    body = {
        "task": "expand",
        "input": "a fox",
        "n": 2,
        "max_tokens": 60,
        "temperature": 2,
        "stream": streamed,
    }
    for turn in itertools.count():
        try:
            answer = httpx.post(f"{address}/generate", json=body | {"seed": place + turn}, timeout=WAIT_S)
        except httpx.TransportError:  # the listener has closed; that nothing was lost, the log tells
            return
        if answer.status_code == 503:
            seen.refused.append(answer.json()["code"])
            return
        assert answer.status_code == 200, answer.text
        assert "event: done" in answer.text if streamed else len(answer.json()["candidates"]) == 2
        seen.answered.append(answer.headers["x-request-id"])
        seen.many.release()


def test_a_sigterm_under_16_clients_loses_no_admitted_request(tiny_bundle: Path) -> None:
    seen = Seen()
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service, ThreadPoolExecutor(16) as pool:
        address = service.address()
        clients = [
            pool.submit(client_until_refused, address, place, place % 2 == 0, seen) for place in range(16)
        ]
        for _ in range(32):
            assert seen.many.acquire(timeout=WAIT_S)
        service.signal(signal.SIGTERM)
        for client in clients:
            client.result(WAIT_S)
        assert service.exit_code() == 0
    log = entries("".join(service.log))
    generated = [entry for entry in log if entry.get("path") == "/generate"]
    assert sorted(entry["request_id"] for entry in generated if entry["status"] == 200) == sorted(
        seen.answered
    )
    assert {entry["status"] for entry in generated} <= {200, 503}
    assert set(seen.refused) <= {"unavailable"}
    assert "Traceback" not in "".join(service.log)


def test_new_requests_are_refused_while_admitted_ones_end(tiny_bundle: Path) -> None:
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service:
        url = httpx.URL(service.address())
        with busy(url, 8) as connections:
            service.signal(signal.SIGTERM)
            while httpx.get(url.join("/readyz")).status_code == 200:  # the signal is on its way
                pass
            refused = httpx.post(url.join("/generate"), json={"task": "expand", "input": "a fox"})
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            statuses = [read_all(connection).split()[1] for connection in connections]
        assert statuses.count(b"200") >= 4
        assert set(statuses) <= {b"200", b"503"}
        assert service.exit_code() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_2_s_later_ends_at_once(tiny_bundle: Path, second: signal.Signals) -> None:
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle), PROMPTDIAL_DRAIN_DELAY_MS="3600000") as service:
        url = httpx.URL(service.address())
        with busy(url, 60) as connections:
            service.signal(signal.SIGTERM)
            time.sleep(SAME_WISH_S + 0.1)  # what is tested is a time
            service.signal(second)
            assert service.exit_code() == 0
            ends = [read_all(connection) for connection in connections]
    assert any(b'"code":"unavailable"' in end for end in ends)
    assert "Traceback" not in "".join(service.log)
    entries("".join(service.log))


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def busy(url: httpx.URL, requests: int) -> Iterator[list[socket.socket]]:
    """Connections whose requests keep the engine busy for seconds, whole and streamed."""
    work = {
        "task": "expand",
        "input": "a fox",
        "n": 16,
        "max_tokens": 120,
        "temperature": 2,
        "timeout_ms": 120_000,
    }
    with ExitStack() as stack:
        connections = []
        for place in range(requests):
            connection = stack.enter_context(socket.create_connection((url.host, url.port or 80), START_S))
            connection.sendall(http_post(work | {"stream": place % 2 == 0}))
            connections.append(connection)
        waiting = re.compile(r"^promptdial_waiting_requests ([\d.]+)", re.MULTILINE)
        running = re.compile(r"^promptdial_running_sequences ([\d.]+)", re.MULTILINE)
        while True:  # until enough of them are in the engine
            page = httpx.get(url.join("/metrics")).text
            if float(waiting.findall(page)[0]) + float(running.findall(page)[0]) / 16 >= requests / 2:
                break
        yield connections


def test_readiness_is_red_before_the_listener_closes(tiny_bundle: Path) -> None:
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle), PROMPTDIAL_DRAIN_DELAY_MS="3600000") as service:
        address = service.address()
        assert httpx.get(f"{address}/readyz").status_code == 200
        service.signal(signal.SIGTERM)
        answers = [httpx.get(f"{address}/readyz")]
        while answers[-1].status_code == 200:  # the signal is on its way
            answers.append(httpx.get(f"{address}/readyz"))
        assert answers[-1].json() == {"status": "unavailable", "reason": "the server is shutting down"}
        refused = httpx.post(f"{address}/generate", json={"task": "expand", "input": "a fox"})
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")


def test_the_drain_delay_ends_when_the_exit_is_forced() -> None:
    server = Server(uvicorn.Config(FastAPI()), Health(), drain_delay_s=3600, shutdown_timeout_s=3600)
    server.force_exit = True
    asyncio.run(asyncio.wait_for(server.linger(), WAIT_S))


def test_settings_are_logged_at_the_start_and_mistyped_variables_named(tiny_bundle: Path) -> None:
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle), PROMPTDIAL_TREADS="hunter2") as service:
        service.address()
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0
    log = entries("".join(service.log))
    (settings,) = [entry for entry in log if entry["message"] == "settings"]
    assert settings["bundle"] == str(tiny_bundle)
    assert settings["request_timeout_ms"] == 10_000
    assert any("PROMPTDIAL_TREADS" in entry["message"] for entry in log)
    assert "hunter2" not in "".join(service.log)


def test_a_log_line_has_the_request_id_and_no_prompt_text(tiny_bundle: Path) -> None:
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service:
        httpx.post(
            f"{service.address()}/generate",
            json={"task": "expand", "input": "my secret idea", "max_tokens": 4},
            headers={"X-Request-ID": "order-66"},
        )
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0
    log = "".join(service.log)
    (line,) = [entry for entry in entries(log) if entry.get("request_id") == "order-66"]
    assert (line["path"], line["status"], line["completion_tokens"] <= 4) == ("/generate", 200, True)
    assert "secret idea" not in log


def test_a_missing_bundle_ends_the_process_with_what_to_do(tmp_path: Path) -> None:
    ended = run(PROMPTDIAL_BUNDLE=str(tmp_path / "nothing"))
    assert ended.returncode == 1
    last = entries(ended.stderr)[-1]
    assert last["code"] == "bundle_invalid"
    assert str(tmp_path / "nothing") in last["message"]
    assert "PROMPTDIAL_BUNDLE" in last["message"]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["bundle.json", "tokenizer.json", "scorer.onnx", "decoder"])
def test_a_damaged_bundle_ends_the_process_with_the_files_name(
    tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    if name == "decoder":
        name = json.loads((copy / "bundle.json").read_text())["decoder"]["file"]
    damaged = bytearray((copy / name).read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (copy / name).write_bytes(damaged)
    ended = run(PROMPTDIAL_BUNDLE=str(copy))
    assert ended.returncode == 1
    assert name in entries(ended.stderr)[-1]["message"]
    assert "Traceback" not in ended.stderr


def test_a_bundle_without_a_file_ends_the_process_with_the_files_name(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    (copy / "scorer.onnx").unlink()
    ended = run(PROMPTDIAL_BUNDLE=str(copy))
    assert ended.returncode == 1
    assert "scorer.onnx" in entries(ended.stderr)[-1]["message"]


@pytest.mark.parametrize(
    ("name", "value"), [("PROMPTDIAL_PORT", "eighty"), ("PROMPTDIAL_MAX_REQUEST_TIMEOUT_MS", "5000")]
)
def test_a_wrong_setting_ends_the_process_with_the_variables_name(name: str, value: str) -> None:
    ended = run(**{name: value})
    assert ended.returncode == 2
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_address_ends_the_process_with_the_reason(tiny_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run(PROMPTDIAL_BUNDLE=str(tiny_bundle), PROMPTDIAL_PORT=str(taken.getsockname()[1]))
    assert ended.returncode == 3
    assert "address already in use" in ended.stderr


def test_a_signal_while_the_service_starts_ends_it_with_0(tiny_bundle: Path) -> None:
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as service:
        assert service.begun.wait(START_S)  # its first line is written before the bundle is read
        service.signal(signal.SIGINT, signal.SIGTERM)
        assert service.exit_code() == 0
    assert "Traceback" not in "".join(service.log)
