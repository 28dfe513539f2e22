"""Options of `compare`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

from training.judge.options import add_cache
from training.teacher.options import add_endpoint, positive

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Value = TypeVar("Value")


def add_compare(commands: Commands) -> None:
    """`python -m training compare`."""
    parser = commands.add_parser("compare", help="a student beside large models behind endpoints -> report")
    parser.add_argument(
        "--baseline", type=named(str), action="append", required=True, metavar="NAME=URL",
        help="base URL of an endpoint, ending with /v1; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=named(str), action="append", default=[], metavar="NAME=MODEL",
        help="of a baseline, as its endpoint calls it; default the first that it lists",
    )  # fmt: skip
    parser.add_argument(
        "--parameters", type=named(count), action="append", default=[], metavar="NAME=COUNT",
        help="of a baseline, such as 8e9; default what its endpoint tells",
    )  # fmt: skip
    parser.add_argument(
        "--student", required=True, metavar="BUNDLE", help="bundle folder, or URL of a running service"
    )
    parser.add_argument("--episodes", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE",
        help="JSONL of input, output (the reference), modality (and task) instead of the episodes",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="default %(default)s")
    parser.add_argument(
        "--inputs", type=positive, default=60, help="of each task and modality; default %(default)s"
    )
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument(
        "--threads", type=positive, default=2, help="of engine and scorer; default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0)
    group = parser.add_argument_group("asking the baselines")
    group.add_argument(
        "--templates", type=Path, help="folder of task templates; default training/teacher/tasks"
    )
    group.add_argument("--examples", action="store_true", help="show the templates' worked examples as well")
    group.add_argument("--temperature", type=float, default=0.7, help="default %(default)s")
    group.add_argument("--top-p", type=float, default=0.95, help="default %(default)s")
    add_endpoint(group, concurrency=1)
    _add_judge(parser)
    parser.set_defaults(run=_compare)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge", metavar="URL", help="a language model judges relevance, besides the scorer"
    )
    parser.add_argument("--judge-model", metavar="MODEL", help="default the first that the endpoint lists")
    parser.add_argument("--judge-api-key-env", metavar="NAME", help="environment variable that holds the key")
    parser.add_argument(
        "--judge-concurrency", type=positive, default=8, help="requests at a time; default %(default)s"
    )
    add_cache(parser)


def named(of: Callable[[str], Value]) -> Callable[[str], tuple[str, Value]]:
    """NAME=VALUE."""

    def read(text: str) -> tuple[str, Value]:
        name, mark, value = text.partition("=")
        if not (name and mark and value):
            raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
        return name, of(value)

    return read


def count(text: str) -> float:
    """A number over 0, such as 8e9."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number over 0, such as 8e9, got {text!r}")
    return value


def _compare(args: argparse.Namespace) -> None:
    from training.compare.run import run  # noqa: PLC0415

    run(args)
