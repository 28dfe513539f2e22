"""Options of `fetch`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from training.teacher.options import positive

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_fetch(commands: Commands) -> None:
    """`python -m training fetch`."""
    parser = commands.add_parser("fetch", help="open data from its public homes -> a data folder")
    parser.add_argument("--data-dir", type=Path, help="folder to make; default PROMPTDIAL_DATA_DIR")
    parser.add_argument(
        "--yes", action="store_true", help="download; without it only what would come is shown"
    )
    parser.add_argument("--list", action="store_true", help="show the sources and end")
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME", help="only this one; may be given again"
    )
    parser.add_argument(
        "--sources", type=Path, metavar="FILE", help="another table; default training/fetch/sources.toml"
    )
    parser.add_argument("--mirror", metavar="URL", help="base URL instead of the table's")
    parser.add_argument(
        "--attempts", type=positive, default=6, help="in a row without a new byte; default %(default)s"
    )
    parser.add_argument(
        "--backoff", type=float, default=1.0, help="first wait in seconds; default %(default)s"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="of a silent connection in seconds; default %(default)s"
    )
    parser.set_defaults(run=_fetch)


def _fetch(args: argparse.Namespace) -> None:
    from training.fetch.run import run  # noqa: PLC0415

    run(args)
