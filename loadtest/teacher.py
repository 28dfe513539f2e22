"""What `distill` gets out of a teacher, beside what the same server gives a client that does nothing else: JSON.

A server in a process of its own answers every request after a fixed time, as many at once as are asked. In each round
a bare client (asyncio streams, no parsing of answers) and `python -m training distill` send it the same requests,
in turn. Both rates are the server's: answers by seconds from the first request's arrival to the last answer.
`distill` also judges what comes; that work shares the cores with everything else here, takes longer than asking, and is
ended with the last answer.

    python -m loadtest.teacher --rounds 5 > teacher.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.latency import commit, hardware, versions
from training.teacher import inputs, templates
from training.teacher.run import Teacher

MODEL = "fixed-latency"
SYLLABLES = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "vo")


def words(rng: random.Random, count: int) -> str:
    """Words that no two texts share by chance, so that none is a near-duplicate."""
    return " ".join("".join(rng.choices(SYLLABLES, k=3)) for _ in range(count))


# --- the server -------------------------------------------------------------------------------------------------------


async def serve(latency_s: float, log: Path) -> None:
    """Answer on a free port, printed first, until standard input ends; `log` gets (arrived, answered) of each."""
    with log.open("w", buffering=1) as times:

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    arrived = time.monotonic()
                    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                    body = json.loads(await reader.readexactly(length))
                    await asyncio.sleep(latency_s)
                    writer.write(response(body))
                    await writer.drain()
                    times.write(f"{arrived} {time.monotonic()}\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=256)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.close()


def response(body: dict[str, Any]) -> bytes:
    """An answer of about 40 words, the same for the same question."""
    asked = body["messages"][-1]["content"]
    rng = random.Random(asked)
    text = (
        f"{asked.capitalize()} with {words(rng, 16)} in the light. Behind it there is {words(rng, 12)} on the "
        f"{words(rng, 4)}."
    )
    content = json.dumps(
        {
            "model": body["model"],
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 700, "completion_tokens": 60},
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


# --- the clients ------------------------------------------------------------------------------------------------------


async def ask_bare(port: int, requests: Sequence[bytes], concurrency: int) -> None:
    """Send every request over `concurrency` connections, each after the answer to the one before."""
    left = iter(requests)

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


def run_distill(server: Served, folder: Path, arguments: argparse.Namespace) -> int:
    """One run of the command, killed once all is asked; the rows that it had by then."""
    command = [
        *(sys.executable, "-m", "training", "distill", "--teacher", f"http://127.0.0.1:{server.port}/v1"),
        *("--model", MODEL, "--licence", "none", "--out", folder / "run", "--inputs", folder / "inputs.txt"),
        *("--count", arguments.requests, "--concurrency", arguments.concurrency),
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    try:
        while server.answered() < arguments.requests:
            if process.poll() is not None:
                raise RuntimeError(f"distill ended with {process.returncode} before all was asked")
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    return (folder / "run" / "pairs.jsonl").read_bytes().count(b"\n")


def raw_requests(folder: Path, arguments: argparse.Namespace) -> list[bytes]:
    """The bytes of the requests that `distill` will send, but for its headers."""
    loaded = templates.load_all()
    by_name = {template.name: template for template in loaded}
    teacher = Teacher(MODEL, {"temperature": 0.7, "top_p": 0.95}, "", "")
    planned = inputs.from_file(folder / "inputs.txt", loaded, 0)[: arguments.requests]
    requests = []
    for request in planned:
        content = json.dumps(teacher.body(by_name[request.template], request)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        requests.append(head.encode() + content)
    return requests


# --- measuring --------------------------------------------------------------------------------------------------------


class Served:
    """The server process."""

    def __init__(self, latency_s: float, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen([sys.executable, "-m", "loadtest.teacher", "--serve", str(log), "--latency-s",
                                          str(latency_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True)  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._read = 0

    def answered(self) -> int:
        """Answers since the last call of `rate`."""
        return self._log.read_bytes().count(b"\n") - self._read

    def rate(self) -> float:
        """Answers a second since the last call, and by the server's clock."""
        lines = self._log.read_text().splitlines()[self._read :]
        self._read += len(lines)
        times = [tuple(map(float, line.split())) for line in lines]
        return len(times) / (max(done for _, done in times) - min(arrived for arrived, _ in times))

    def close(self) -> None:
        """End it."""
        self._process.communicate("")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds, and what they come to."""
    rounds = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rng = random.Random(number)
            asked = {f"a {words(rng, 3)}" for _ in range(arguments.requests)}
            (folder / "inputs.txt").write_text("\n".join(sorted(asked)))
            server = Served(arguments.latency_s, folder / "server.log")
            try:
                asyncio.run(ask_bare(server.port, raw_requests(folder, arguments), arguments.concurrency))
                bare = server.rate()
                rows = run_distill(server, folder, arguments)
                ours = server.rate()
            finally:
                server.close()
        rounds.append({"bare": bare, "distill": ours, "rows_meanwhile": rows, "share": ours / bare})
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
    return {
        "answers_per_s": {name: spread([each[name] for each in rounds]) for name in ("bare", "distill")},
        "rows_meanwhile": spread([each["rows_meanwhile"] for each in rounds]),
        "share_of_the_server": spread([each["share"] for each in rounds]),
        "requests": arguments.requests,
        "concurrency": arguments.concurrency,
        "latency_s": arguments.latency_s,
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes over rounds."""
    return {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4),
            "rounds": len(values)}  # fmt: skip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.teacher", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1280, help="of a round; default %(default)s")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency-s", type=float, default=0.2, help="of an answer; default %(default)s")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    if arguments.serve:
        asyncio.run(serve(arguments.latency_s, arguments.serve))
    else:
        print(json.dumps(measure(arguments), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
