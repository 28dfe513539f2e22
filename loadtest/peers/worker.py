"""The child process of one engine: load once, then generate whenever a line on stdin asks for it.

    python -m loadtest.peers.worker convert MODULE CHECKPOINT MODEL --precision int8
    python -m loadtest.peers.worker serve MODULE MODEL --variant continuous --precision int8 --threads 2

`serve` answers each JSON line with one JSON line: first ``{"versions": …, "load_peak_rss_mb": …}``, then a
measurement or ``{"error": …}``. It imports the standard library and its engine only, since it runs in
environments that hold nothing else. Whatever the engine prints goes to stderr.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

ENGINES = "loadtest.peers.engines"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Generated:
    """New tokens of each sequence, and seconds from the request to the first token of all and to the end.

    ``first_s`` is None where an engine doesn't say when it had the first tokens.
    """

    tokens: list[list[int]]
    first_s: float | None
    total_s: float


class Runner(Protocol):
    """An engine with its model loaded."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated: ...


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone: a stopped one wouldn't see stdin end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(runner: Runner, hello: dict[str, Any], requests: TextIO, answers: TextIO) -> None:
    """Answer requests until stdin ends. An engine's failure is an answer, and the next request is taken."""
    _answer(answers, hello | {"load_peak_rss_mb": peak_rss_mb()})
    gc.collect()
    gc.freeze()
    for line in requests:
        request = json.loads(line)
        reset_peak_rss()
        try:
            generated = runner.generate(request["prompts"], request["new_tokens"])
        except Exception as error:  # every engine has exceptions of its own
            _answer(answers, {"error": f"{type(error).__name__}: {error}"})
            continue
        _answer(
            answers,
            {
                "first_ms": None if generated.first_s is None else generated.first_s * 1000,
                "total_ms": generated.total_s * 1000,
                "peak_rss_mb": peak_rss_mb(),
                "tokens": generated.tokens,
            },
        )


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def reset_peak_rss() -> None:
    """Start a new peak, where the kernel lets a process do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_rss_mb() -> float | None:
    """Largest resident memory since the last reset, in MB (10^6 bytes)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    return None if kib is None else round(kib * 1024 / 1e6, 1)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions of the packages that are there, and of Python."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a checkpoint, or serve a model on stdin and stdout."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.worker")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert")
    serving = commands.add_parser("serve")
    for command in (convert, serving):
        command.add_argument("module")
        if command is convert:
            command.add_argument("checkpoint", type=Path)
        command.add_argument("model", type=Path)
        command.add_argument("--precision", required=True)
    serving.add_argument("--variant", default="")
    serving.add_argument("--threads", type=int, required=True)
    options = parser.parse_args(arguments)
    engine = importlib.import_module(f"{ENGINES}.{options.module}")
    if options.command == "convert":
        engine.convert(options.checkpoint, options.model, options.precision)
        return 0
    end_with_parent()
    # The answers are ours alone: engines print to file descriptor 1 as they like.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        runner = engine.load(options.model, options.variant, options.precision, options.threads)
        serve(runner, {"versions": versions(engine.PACKAGES)}, sys.stdin, answers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
