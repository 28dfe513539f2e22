"""Options of `judge`, and those of `compare` and `prepare` that are about a judge."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from training.teacher.options import add_endpoint, positive

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
CACHE = Path("runs/judge/answers.jsonl")


def add_judge(commands: Commands) -> None:
    """`python -m training judge`."""
    parser = commands.add_parser(
        "judge", help="a language model's verdicts on rows, for `prepare --verdicts`"
    )
    parser.add_argument("rows", type=Path, help="episodes folder, Parquet file of episodes, or file of pairs")
    parser.add_argument(
        "--judge", required=True, metavar="URL", help="base URL of the endpoint, ending with /v1"
    )
    parser.add_argument("--model", help="as the endpoint calls it; default the first that it lists")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="verdicts as Parquet; the report beside it"
    )
    parser.add_argument("--count", type=positive, help="pairs, by hash; default all")
    add_cache(parser)
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument("--threads", type=positive, default=1, help="of the scorer; default %(default)s")
    add_endpoint(parser.add_argument_group("asking"))
    parser.set_defaults(run=_judge)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Where answers are kept, and how JSON is asked for."""
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="FILE",
        help="the judge's answers by content, shared by runs; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--json-mode", action="store_true", help="ask the endpoint to let the judge write JSON only"
    )


def add_verdicts(parser: argparse.ArgumentParser) -> None:
    """Of `prepare`."""
    parser.add_argument(
        "--verdicts", type=Path, metavar="FILE", help="what `judge` wrote: labels for the rows that it holds"
    )
    parser.add_argument(
        "--judge-share", type=share, default=0.5, metavar="SHARE",
        help="of the judge in a label, 0-1; the embedding scorer has the rest; default %(default)s",
    )  # fmt: skip


def share(text: str) -> float:
    """A number of 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0-1, got {value:g}")
    return value


def _judge(args: argparse.Namespace) -> None:
    from training.judge.run import run  # noqa: PLC0415

    run(args)
