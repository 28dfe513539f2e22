"""SIGTERM under load: is any request lost that the service had admitted?

    python -m loadtest.drain --rate 20

Starts a service, sends to it at a steady rate (open loop, a new connection for each request), sends SIGTERM in the
middle, goes on, and accounts for every request, with the service's own log as the witness: a request that its log knows
and that got no answer is lost. Prints JSON. Exit codes: 0; 1 the service can't be measured; 4 requests were lost, or
the service did not leave with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from loadtest import context, workload
from loadtest.latency import LoadError
from loadtest.launch import Service
from loadtest.peers.comparison import say
from loadtest.player import poisson
from loadtest.records import Record
from loadtest.sending import Sender
from loadtest.workload import Request

LOST = 4


async def load(service: Service, url: str, options: argparse.Namespace) -> dict[str, Record]:
    """Send for the whole time, with SIGTERM after half of it. By request id."""
    sender = Sender(url, options.timeout_ms, keep_alive=False)
    records: dict[str, Record] = {}
    tasks = []
    loop = asyncio.get_running_loop()
    sender.restart()
    loop.call_later(options.seconds / 2, service.process.terminate)
    schedule: Sequence[tuple[float, Request]] = list(
        zip(
            poisson(random.Random(options.seed), options.rate, options.seconds),
            workload.requests(options.seed, options.timeout_ms),
            strict=False,
        )
    )
    for number, (intended_s, request) in enumerate(schedule):
        await asyncio.sleep(intended_s - sender.now())
        record = records[f"drain-{number}"] = Record(intended_s, intended_s, request.streamed)
        tasks.append(asyncio.create_task(sender.send(request, record, f"drain-{number}")))
    await asyncio.gather(*tasks)
    await sender.close()
    return records


def account(records: dict[str, Record], log: Sequence[str], half_s: float) -> dict[str, Any]:
    """What became of each request. The log has one line for every request that the service read."""
    read: dict[str, int] = {}
    for line in log:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("message") == "request":
            read[str(entry.get("request_id"))] = int(entry["status"])
    counts: Counter[str] = Counter()
    lost = []
    for name, record in records.items():
        fate = _fate(record, name in read)
        counts[fate] += 1
        if fate == "lost":
            lost.append({"request": name, "seen": record.kind, "logged_status": read[name]})
    return {
        "sent": len(records),
        "sent_after_sigterm": sum(each.sent_s >= half_s for each in records.values()),
        "in_flight_at_sigterm": sum(each.sent_s < half_s <= each.ended_s for each in records.values()),
        "fates": dict(counts),
        "lost": lost,
    }


def _fate(record: Record, known: bool) -> str:
    """`known`: to the service's log."""
    if record.outcome == "ok":
        return "answered"
    if record.outcome == "refused":
        return f"refused ({record.kind})"
    if record.kind == "not connected":
        return "connection refused"
    if record.kind.startswith(("cut off", "no answer", "stream without")):
        return "lost" if known else "closed unread"
    return f"failed ({record.kind})"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.drain", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rate", type=float, default=20.0, help="requests per second")
    add("--seconds", type=float, default=10.0, help="of load; SIGTERM comes after half of it")
    add("--timeout-ms", type=int, default=5000, help="that each request gives the service")
    add("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if min(options.rate, options.seconds, options.timeout_ms) <= 0:
        parser.error("--rate, --seconds and --timeout-ms must be above 0")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = parse(argv)
    service = Service()
    try:
        url = service.address()
        described = context.described(url, started_here=True)
        records = asyncio.run(load(service, url, options))
        code = service.wait()
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        service.end()
    result = account(records, service.log, options.seconds / 2) | {
        "service_exit_code": code,
        "options": vars(options),
        "context": described,
    }
    print(json.dumps(result, indent=1))
    say(
        f"{result['sent']} requests: {result['fates']}; lost: {len(result['lost'])}; the service left with {code}"
    )
    return LOST if result["lost"] or code else 0


if __name__ == "__main__":
    sys.exit(main())
