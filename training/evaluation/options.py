"""Options of `evaluate` and `fluency`; what they run is imported only when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_evaluate(commands: Commands) -> None:
    """`python -m training evaluate`."""
    parser = commands.add_parser(
        "evaluate", help="bundle -> report (HTML and Markdown), verdicts, calibration"
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--episodes", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE",
        help="JSONL of input, output, modality (and task): evaluate on these instead of the episodes",
    )  # fmt: skip
    parser.add_argument(
        "--against", type=Path, metavar="BUNDLE", help="a second bundle, compared input by input"
    )
    parser.add_argument("--out", type=Path, help="folder of the report; default runs/evaluation/NAME")
    parser.add_argument(
        "--inputs",
        type=_positive,
        default=60,
        help="inputs with references per modality; default %(default)s",
    )
    parser.add_argument(
        "--cell-inputs", type=_positive, default=18, help="inputs per task and length; default %(default)s"
    )
    parser.add_argument("--seeds", type=_positive, default=3, help="default %(default)s")
    parser.add_argument("--threads", type=_positive, default=2, help="default %(default)s")
    parser.add_argument("--write", action="store_true", help="write calibration and metrics into the bundle")
    parser.add_argument(
        "--blind", type=Path, metavar="SHEET.csv",
        help="also write 100 answers and 50 references in random order for a reader, and the key beside them",
    )  # fmt: skip
    parser.set_defaults(run=_evaluate)


def add_fluency(commands: Commands) -> None:
    """`python -m training fluency`."""
    parser = commands.add_parser(
        "fluency", help="a reader's verdicts on a blind sheet -> shares with intervals"
    )
    parser.add_argument("sheet", type=Path, help="the filled-in CSV that `evaluate --blind` wrote")
    parser.add_argument("key", type=Path, help="its .key.json")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there as well")
    parser.set_defaults(run=_fluency)


def _evaluate(args: argparse.Namespace) -> None:
    from training.evaluation.run import run  # noqa: PLC0415

    run(args)


def _fluency(args: argparse.Namespace) -> None:
    from training.evaluation.fluency import run  # noqa: PLC0415

    run(args)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
