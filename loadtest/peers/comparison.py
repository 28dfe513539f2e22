"""The measurement: engines take turns, round by round, and each sample is written down as it comes."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.latency import commit, hardware, versions
from loadtest.peers.bandwidth import BandwidthProbe
from loadtest.peers.catalogue import OURS, Engine
from loadtest.peers.floor import bytes_per_step
from loadtest.peers.protocol import Worker, WorkerError
from loadtest.peers.workload import Workload, prompts

WARM_TOKENS = 4


class Samples:
    """A file of JSON lines, appended to: whatever ends a run, what was measured is there."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def add(self, **fields: Any) -> None:
        """Write one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")

    def rounds(self) -> int:
        """Whole rounds that the file holds."""
        return sum(line["kind"] == "round" for line in self.read())

    def read(self) -> list[dict[str, Any]]:
        """All lines."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]


def compare(
    engines: tuple[Engine, ...],
    failures: dict[str, str],
    models: Path,
    environments: Path,
    workload: Workload,
    samples: Samples,
    rounds: int,
    seconds: float,
) -> None:
    """Measure until the file holds ``rounds`` rounds or ``seconds`` are over; a round that began is finished.

    ``failures`` are engines that couldn't be set up or converted, with the reason.
    """
    started = time.monotonic()
    reference = json.loads((models / "checkpoint" / "reference.json").read_text(encoding="utf-8"))
    samples.add(
        kind="session",
        hardware=hardware(),
        cpu_flags=cpu_flags(),
        versions=versions(),
        commit=commit(),
        workload=asdict(workload),
        parameters=reference["parameters"],
        vocabulary=reference["vocabulary"],
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    for name, why in failures.items():
        samples.add(kind="failure", engine=name, why=why)
    probe, workers = BandwidthProbe(threads=workload.threads), dict[Engine, Worker]()
    try:
        for engine in engines:
            if engine.name in failures:
                continue
            say(f"loading {engine.name}")
            try:
                workers[engine] = start(engine, models, environments, workload, samples, reference)
            except WorkerError as error:
                fail(samples, engine, error)
        while workers and samples.rounds() < rounds and time.monotonic() - started < seconds:
            number = samples.rounds() + 1
            say(f"round {number} of {rounds}")
            order = list(workers)
            for engine in order[number % len(order) :] + order[: number % len(order)]:
                try:
                    measure(engine, workers[engine], workload, samples, probe, reference, number)
                except WorkerError as error:
                    fail(samples, engine, error)
                    workers.pop(engine).close()
            samples.add(kind="round", round=number)
    finally:
        for worker in workers.values():
            worker.close()
        probe.close()


def start(
    engine: Engine,
    models: Path,
    environments: Path,
    workload: Workload,
    samples: Samples,
    reference: dict[str, Any],
) -> Worker:
    """A loaded worker whose first tokens were held against PyTorch's."""
    model, log = models / engine.model, models / f"{engine.name.replace(' ', '-')}.log"
    worker = Worker(engine, engine.python(environments), model, log, workload.threads)
    try:
        asked = len(reference["first_tokens"])
        first = worker.measure(_prompts(asked, workload, reference, 0), 1)["tokens"]
    except WorkerError:
        worker.close()
        raise
    agreed = sum(row[0] == wanted for row, wanted in zip(first, reference["first_tokens"], strict=True))
    read = bytes_per_step(model / f"decoder.{engine.precision}.onnx") if engine.module == OURS else None
    samples.add(
        kind="engine",
        engine=engine.name,
        bits=engine.bits,
        same_first_token=f"{agreed}/{asked}",
        model_mb=_megabytes(model),
        bytes_per_step=read,
        **worker.hello,
    )
    return worker


def measure(
    engine: Engine,
    worker: Worker,
    workload: Workload,
    samples: Samples,
    probe: BandwidthProbe,
    reference: dict[str, Any],
    number: int,
) -> None:
    """One sample for each number of sequences, each after a short warm-up and a probe."""
    for batch in workload.batches:
        # Prompts of their own, so that no cache of prefixes has seen them.
        seed = 1 + 2 * number
        worker.measure(_prompts(batch, workload, reference, seed), WARM_TOKENS)
        speed = probe.measure()
        before, began = busy_s(), time.monotonic()
        answer = worker.measure(_prompts(batch, workload, reference, seed + 1), workload.new_tokens)
        wall = time.monotonic() - began
        if any(len(row) != workload.new_tokens for row in answer.pop("tokens")):
            raise WorkerError(f"a sequence of {batch} didn't have {workload.new_tokens} new tokens")
        others = max(0.0, busy_s() - before - answer.pop("cpu_s")) / wall
        first, total = answer["first_ms"], answer["total_ms"]
        samples.add(
            kind="sample",
            engine=engine.name,
            round=number,
            sequences=batch,
            first_ms=first,
            token_ms=None if first is None else (total - first) / (workload.new_tokens - 1),
            tokens_per_s=batch * workload.new_tokens / total * 1000,
            peak_rss_mb=answer["peak_rss_mb"],
            bandwidth_gb_s=speed,
            other_cpus=others,
        )
        say(f"  {engine.name}, {batch}: {batch * workload.new_tokens / total * 1000:.0f} tokens/s")


def _prompts(count: int, workload: Workload, reference: dict[str, Any], seed: int) -> list[list[int]]:
    return prompts(count, workload.prompt_tokens, reference["vocabulary"], reference["control_tokens"], seed)


def _megabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 1)


def fail(samples: Samples, engine: Engine, error: WorkerError) -> None:
    """Note why an engine is left out; the others go on."""
    say(f"{engine.name} is left out: {error}")
    samples.add(kind="failure", engine=engine.name, why=str(error))


def busy_s() -> float:
    """Processor seconds that this machine was busy, all processes together, since it started."""
    user, nice, system, _idle, _wait, irq, soft, *_ = (
        int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft) / 100


def cpu_flags() -> list[str]:
    """The vector instructions that decide which kernels an engine picks."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma", "f16c")))


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
