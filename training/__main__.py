"""Command line of the training half: `python -m training prepare | tokenizer | train | evaluate | fluency`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TypeAlias

from promptdial.errors import PromptdialError
from training.errors import TrainingError
from training.evaluation import options

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 on an error a person can act on, 130 when interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except (TrainingError, PromptdialError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command, run again, keeps what was done", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    _add_tokenizer(commands)
    _add_train(commands)
    options.add_evaluate(commands)
    options.add_fluency(commands)
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _add_prepare(commands: Commands) -> None:
    parser = commands.add_parser("prepare", help="open data -> labelled episodes")
    parser.add_argument("--data-dir", type=Path, help="folder of the open data; default PROMPTDIAL_DATA_DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument("--generated", type=int, default=20_000, help="composed rows; default %(default)s")
    parser.add_argument("--threads", type=_positive, default=2, help="of the scorer; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_prepare)


def _prepare(args: argparse.Namespace) -> None:
    from promptdial.relevance import load_scorer
    from training import prepare, sources

    data = sources.load(sources.data_dir(args.data_dir))
    prepare.prepare(data, load_scorer(args.scorer, args.threads), args.out, args.generated, args.seed)


def _add_tokenizer(commands: Commands) -> None:
    parser = commands.add_parser("tokenizer", help="learn a tokenizer from the training episodes")
    parser.add_argument("--episodes", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument("--recipe", default="small", help="whose vocabulary size; default %(default)s")
    parser.set_defaults(run=_tokenizer)


def _tokenizer(args: argparse.Namespace) -> None:
    from promptdial.tokenizer import PromptTokenizer
    from training import recipe
    from training.episodes import read_episodes

    episodes = read_episodes(args.episodes, "train")
    texts = (text for episode in episodes for text in (episode.input, episode.output))
    path = args.episodes / "tokenizer.json"
    PromptTokenizer.train(texts, recipe.load(args.recipe).model.vocabulary).save(path)
    logging.info("wrote %s", path)


def _add_train(commands: Commands) -> None:
    parser = commands.add_parser("train", help="episodes -> checkpoint")
    parser.add_argument("--episodes", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="run folder; a run found there is resumed")
    parser.add_argument("--recipe", default="small", help="name or path of a TOML file; default %(default)s")
    parser.add_argument("--init", type=Path, help="bundle or Hugging Face GPT-2 folder to start from")
    parser.add_argument(
        "--steps", type=_positive, help="instead of the recipe's; may change when a run is resumed"
    )
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument(
        "--probe-every", type=int, default=1000, help="steps between looks at samples; 0 for none"
    )
    parser.add_argument(
        "--save-every", type=_positive, default=500, help="steps between checkpoints; default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    from training.train import run

    run(args)


if __name__ == "__main__":
    sys.exit(main())
