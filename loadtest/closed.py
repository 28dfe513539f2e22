"""Locust without its web UI, in stages, over a service of its own or the one at `--url`; then the report.

    python -m loadtest.closed                       # two minutes
    python -m loadtest.closed --url http://127.0.0.1:8000 --seconds 60 --peak-users 40

Exit codes: 0; 1 the service can't be measured; 2 wrong options; 3 an `--slo` was missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.context import described
from loadtest.latency import LoadError
from loadtest.launch import ROOT, service_at
from loadtest.openloop import condition

FILES = "loadtest/locustfile.py,loadtest/stages.py"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.closed", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--url", help="of a running service; left out, one is started, as PROMPTDIAL_* variables say")
    add("--out", type=Path, default=Path("runs/loadtest/locust"), help="folder of the report")
    add("--seed", type=int, default=0, help="of the requests")
    add("--seconds", type=float, default=120.0, help="of all stages together")
    add("--peak-users", type=int, default=96, help="of the last stage; 13 users send 10 requests a second")
    add("--good-ms", type=float, default=1000.0, help="an answer is good up to this time")
    add(
        "--slo",
        type=condition,
        action="append",
        default=[],
        help="for stages up to the knee: p99<=500ms; repeatable",
    )
    options = parser.parse_args(argv)
    if min(options.seconds, options.peak_users, options.good_ms) <= 0:
        parser.error("--seconds, --peak-users and --good-ms must be above 0")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run Locust to its end; its exit code."""
    options = parse(argv)
    try:
        with service_at(options.url) as url:
            described(url, started_here=not options.url)
            return run(url, options)
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1


def run(url: str, options: argparse.Namespace) -> int:
    """One run of Locust. A Ctrl-C reaches it as well; it is waited for, since it writes the report."""
    command = [sys.executable, "-m", "locust", "-f", FILES, "--host", url, "--headless", "--only-summary"]
    command += [
        "--stop-timeout",
        "15",
        "--report-dir",
        str(options.out.absolute()),
        "--seed",
        str(options.seed),
    ]
    command += ["--test-seconds", str(options.seconds), "--peak-users", str(options.peak_users)]
    command += ["--good-ms", str(options.good_ms), *([] if options.url else ["--own-service"])]
    for each in options.slo:
        command += ["--slo", each.text]
    locust = subprocess.Popen(command, cwd=ROOT)
    while True:
        try:
            return locust.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main())
