"""Compare engines on one random GPT-2.

python -m loadtest.peers run [--only openvino,promptdial] [--rounds 5] [--minutes 7] [--quick] [--out DIR]
python -m loadtest.peers setup | make-checkpoint | convert | report

`run` does what is missing of the other steps, adds rounds to what was measured before, and writes the report.
Stop it with Ctrl-C, or let --minutes end it; started again, it goes on. --fresh forgets earlier rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.peers.catalogue import ROOT, Engine, chosen
from loadtest.peers.workload import Shape, Workload

COMMANDS = ("run", "setup", "make-checkpoint", "convert", "report")
QUICK = Workload(new_tokens=16, batches=(1, 8))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 130 after Ctrl-C, with what was measured in the report."""
    options = parse(arguments)
    from loadtest.peers.comparison import Samples
    from loadtest.peers.report import write_report

    samples_path = options.runs / ("samples-quick.jsonl" if options.quick else "samples.jsonl")
    status = 0
    try:
        if options.command != "report":
            engines = chosen(options.only)
            failures = prepare(options, engines)
            if options.command == "run":
                run(options, engines, failures, samples_path)
            for name, why in failures.items():
                print(f"{name}: {why}", file=sys.stderr)
    except ValueError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was measured is kept", file=sys.stderr)
        status = 130
    if options.command in ("run", "report"):
        try:
            write_report(Samples(samples_path).read(), options.out)
        except ValueError as error:
            print(f"peers: {error}", file=sys.stderr)
            return status or 1
        print(f"{options.out / 'peers.md'}", file=sys.stderr)
    return status


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.peers", description="Compare engines on one CPU."
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--only", help="engines with one of these comma-separated parts in their name")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that the samples hold in the end")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no round after this long")
    parser.add_argument("--quick", action="store_true", help="16 new tokens at 1 and 8 sequences, 1 round")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument(
        "--out", type=Path, help="folder of the report (default: docs/benchmarks; runs when quick)"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "peers", help="weights, models, samples")
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-peers")
    options = parser.parse_args(arguments)
    options.runs, options.environments = options.runs.resolve(), options.environments.absolute()
    options.out = options.out or (options.runs if options.quick else ROOT / "docs" / "benchmarks")
    return options


def prepare(options: argparse.Namespace, engines: tuple[Engine, ...]) -> dict[str, str]:
    """Environments, checkpoint and models, as far as the command needs them; why each missing one is."""
    checkpoint = options.runs / "checkpoint"
    if options.command != "setup" and not (checkpoint / "reference.json").is_file():
        from loadtest.peers.checkpoint import make_checkpoint

        print(f"making {checkpoint}", file=sys.stderr)
        make_checkpoint(checkpoint, Shape(), Workload().prompt_tokens)
    if options.command == "make-checkpoint":
        return {}
    from loadtest.peers.environments import set_up

    names = {engine.environment for engine in engines if engine.environment}
    missing = {name: why for name in sorted(names) if (why := set_up(name, options.environments))}
    failures = {
        engine.name: missing[engine.environment] for engine in engines if engine.environment in missing
    }
    if options.command != "setup":
        for engine in engines:
            if engine.name not in failures and (why := convert(engine, checkpoint, options)):
                failures[engine.name] = why
    return failures


def convert(engine: Engine, checkpoint: Path, options: argparse.Namespace) -> str | None:
    """Make the engine's model unless it is there, in the engine's own environment. None or why it failed."""
    model, temporary = options.runs / engine.model, options.runs / f"{engine.model}.part"
    if model.is_dir():
        return None
    print(f"converting {engine.model}", file=sys.stderr)
    shutil.rmtree(temporary, ignore_errors=True)
    done = subprocess.run(
        [
            *(
                str(engine.python(options.environments)),
                "-m",
                "loadtest.peers.worker",
                "convert",
                engine.module,
            ),
            *(str(checkpoint), str(temporary), "--precision", engine.precision),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not temporary.is_dir():
        said = done.stderr.strip().splitlines()
        return f"its model can't be made: {said[-1] if said else 'it said nothing'}"
    temporary.rename(model)
    return None


def run(
    options: argparse.Namespace, engines: tuple[Engine, ...], failures: dict[str, str], samples_path: Path
) -> None:
    """Measure, after what the file holds already."""
    from loadtest.peers.comparison import Samples, compare

    if options.fresh or options.quick:
        samples_path.unlink(missing_ok=True)
    samples = Samples(samples_path)
    workload, rounds = (QUICK, 1) if options.quick else (Workload(), options.rounds)
    arguments = (options.runs, options.environments, workload, samples, rounds, options.minutes * 60)
    compare(engines, failures, *arguments)


if __name__ == "__main__":
    raise SystemExit(main())
