"""Our engine alone, in under a minute: prefill, steps by batch size, their share of the floor, time by operator.

    python -m loadtest.bench > bench.json                    # the random 104.3M model of loadtest.peers
    python -m loadtest.bench --bundle models/small

The floor of a step is the time in which as many threads read its weights and scales once, measured in the same
rounds. Steps run at ``PAST`` tokens in the cache, and the figures are those of the decoder: sampling and delivery
come on top (about 0.1 ms a step). A table goes to stderr, JSON to stdout. The first run without ``--bundle`` makes
the model, which takes longer and needs the packages of `make test`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.latency import commit, hardware, versions
from loadtest.peers.bandwidth import BandwidthProbe
from loadtest.peers.catalogue import ROOT
from loadtest.peers.comparison import cpu_flags
from loadtest.peers.engines.promptdial import convert, read_model
from loadtest.peers.floor import bytes_per_step
from loadtest.peers.workload import Shape, Workload
from promptdial.bundle import Architecture, load_bundle
from promptdial.engine import available_cpus
from promptdial.engine.decoder import Decoder

PROMPTS = (16, 48, 64)
BATCHES = (1, 2, 4, 8, 16)
PROFILED = (("prefill", 48), ("step", 1), ("step", 16))
PAST = 80
REPEATS = 8  # of one shape in a round
SETTLE = 2  # runs of a shape before it is timed
MEGA = 1_000_000


@dataclass(frozen=True)
class Model:
    """A decoder's graphs and its sizes."""

    name: str
    path: Path
    prefill: Path | None
    architecture: Architecture

    def open(self, threads: int, profile: Path | None = None) -> Decoder:
        """A decoder with room for the largest batch."""
        slots = BATCHES[-1]
        return Decoder(
            self.path, self.architecture, threads=threads, slots=slots, prefill=self.prefill, profile=profile
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="Time the decoder alone.")
    parser.add_argument("--bundle", type=Path, help="a bundle's decoder (default: the random 104.3M model)")
    parser.add_argument("--precisions", default="int8,int4", help="of the random model (default: int8,int4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cpus())
    options = parser.parse_args(arguments)
    models = [from_bundle(options.bundle)] if options.bundle else random_models(options.precisions.split(","))
    result = {
        "hardware": hardware(),
        "cpu_flags": cpu_flags(),
        "versions": versions(),
        "commit": commit(),
        "threads": options.threads,
        "past": PAST,
        "rounds": options.rounds,
        "models": measure(models, options.threads, options.rounds),
    }
    print(json.dumps(result, indent=1))
    return 0


def from_bundle(folder: Path) -> Model:
    """A bundle's decoder."""
    bundle = load_bundle(folder)
    name = f"{bundle.name} {bundle.precision}"
    return Model(name, bundle.decoder_path, bundle.prefill_path, bundle.architecture)


def random_models(precisions: Sequence[str]) -> list[Model]:
    """The models that `loadtest.peers` runs, made if they aren't there."""
    from loadtest.peers.checkpoint import make_checkpoint  # noqa: PLC0415  (needs torch, a bundle doesn't)

    folder = ROOT / "runs" / "peers"
    if not (folder / "checkpoint" / "reference.json").is_file():
        print("making a random checkpoint", file=sys.stderr)
        make_checkpoint(folder / "checkpoint", Shape(), Workload().prompt_tokens)
    models = []
    for precision in precisions:
        model = folder / f"promptdial-{precision}"
        if not model.is_dir():
            print(f"exporting {precision}", file=sys.stderr)
            convert(folder / "checkpoint", model, precision)
        paths, architecture, _ = read_model(model)
        models.append(Model(f"104.3M {precision}", *paths, architecture))
    return models


def measure(models: Sequence[Model], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Every model and the bandwidth in turns, then the profiles."""
    read = [bytes_per_step(model.path) for model in models]
    probe = BandwidthProbe([max(1, count // MEGA) for count in read], threads)
    decoders = [model.open(threads) for model in models]
    times: list[dict[str, list[float]]] = [{} for _ in models]
    speeds: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for index, decoder in enumerate(decoders):
            speeds[index].append(probe.measure()[max(1, read[index] // MEGA)])
            for name, run in shapes(decoder).items():
                times[index].setdefault(name, []).extend(timed(run))
    probe.close()
    results = []
    for model, count, speed, found in zip(models, read, speeds, times, strict=True):
        floor_ms = count / statistics.median(speed) / MEGA
        result = {
            "model": model.name,
            "bytes_per_step": count,
            "bandwidth_gb_s": spread(speed),
            "floor_ms": round(floor_ms, 3),
            **{name: spread(values) for name, values in found.items()},
            "step_1_of_floor": round(statistics.median(found["step_1_ms"]) / floor_ms, 2),
            "tokens_per_second_16": round(16_000 / statistics.median(found["step_16_ms"])),
            "operators_ms": profile(model, threads),
        }
        show(result)
        results.append(result)
    return results


def shapes(decoder: Decoder) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    tokens = [5 + index for index in range(max(PROMPTS))]
    runs: dict[str, Callable[[], object]] = {}
    for count in PROMPTS:
        runs[f"prefill_{count}_ms"] = lambda count=count: decoder.prefill(0, tokens[:count])  # type: ignore[misc]
    for rows in BATCHES:
        runs[f"step_{rows}_ms"] = lambda rows=rows: decoder.decode(tokens[:rows], [PAST] * rows)  # type: ignore[misc]
    return runs


def timed(run: Callable[[], object]) -> list[float]:
    """Milliseconds of each repeat, the first ones left out."""
    found = []
    for _ in range(SETTLE + REPEATS):
        started = time.perf_counter()
        run()
        found.append((time.perf_counter() - started) * 1000)
    return found[SETTLE:]


def profile(model: Model, threads: int) -> dict[str, dict[str, float]]:
    """Milliseconds by operator; noting them slows every node down a little."""
    found = {}
    for kind, size in PROFILED:
        with tempfile.TemporaryDirectory() as folder:
            decoder = model.open(threads, Path(folder) / "profile")
            timed(shapes(decoder)[f"{kind}_{size}_ms"])
            prompts, *steps = decoder.end_profiling()
            noted = prompts if kind == "prefill" or not steps else steps[0]
            events = json.loads(noted.read_text(encoding="utf-8"))
        found[f"{kind}_{size}"] = by_operator(events)
    return found


def by_operator(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean of the last ``REPEATS`` runs: milliseconds by operator, the largest first."""
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")[-REPEATS:]
    totals: Counter[str] = Counter()
    for event in events:
        if (
            event.get("cat") == "Node"
            and event["name"].endswith("_kernel_time")
            and event["ts"] >= runs[0][0]
        ):
            totals[event["args"]["op_name"]] += event["dur"]
    return {name: round(total / len(runs) / 1000, 3) for name, total in totals.most_common()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def show(result: dict[str, Any]) -> None:
    """One model's figures for a person."""
    lines = [f"{result['model']}: floor {result['floor_ms']} ms at {result['bandwidth_gb_s']['median']} GB/s"]
    for name, found in result.items():
        if name.endswith("_ms") and isinstance(found, dict) and "median" in found:
            label = name.removesuffix("_ms").replace("_", " ")
            lines.append(f"  {label:12} {found['median']:8.2f} ms  ({found['min']:.2f}-{found['max']:.2f})")
    lines.append(
        f"  one row takes {result['step_1_of_floor']} x the floor; 16 rows {result['tokens_per_second_16']} tokens/s"
    )
    for name, operators in result["operators_ms"].items():
        parts = ", ".join(f"{operator} {ms:.2f}" for operator, ms in list(operators.items())[:6])
        lines.append(f"  {name.replace('_', ' ')}: {parts}")
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
