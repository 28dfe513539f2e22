"""Options of every command that asks an endpoint, and the endpoint that they describe."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    from training.teacher.endpoint import Endpoint


def add_endpoint(group: argparse._ArgumentGroup, concurrency: int = 32) -> None:
    """How to ask, and how stubbornly."""
    group.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the key")
    group.add_argument(
        "--concurrency", type=positive, default=concurrency, help="requests at a time; default %(default)s"
    )
    group.add_argument("--requests-per-minute", type=float)
    group.add_argument("--tokens-per-minute", type=float)
    group.add_argument("--attempts", type=positive, default=6, help="per request; default %(default)s")
    group.add_argument(
        "--backoff", type=float, default=1.0, help="first wait in seconds; default %(default)s"
    )
    group.add_argument(
        "--timeout", type=float, default=120.0, help="of an attempt in seconds; default %(default)s"
    )


def endpoint(url: str, args: argparse.Namespace) -> Endpoint:
    """The endpoint at a base URL. Raises TrainingError when the environment lacks the key."""
    from training.teacher.endpoint import Endpoint  # noqa: PLC0415  (--help doesn't wait for aiohttp)
    from training.teacher.pace import Pace  # noqa: PLC0415

    key = os.environ.get(args.api_key_env) if args.api_key_env else None
    if args.api_key_env and not key:
        raise TrainingError(f"the environment has no {args.api_key_env}, which --api-key-env names")
    return Endpoint(
        url,
        key,
        Pace(args.requests_per_minute, args.tokens_per_minute),
        timeout_s=args.timeout,
        attempts=args.attempts,
        backoff_s=args.backoff,
    )


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
