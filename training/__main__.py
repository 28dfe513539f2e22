"""Command line of the training half: `python -m training distill`, `prepare`, `train`, `evaluate` and others."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TypeAlias

from promptdial.errors import PromptdialError
from training.compare import options as comparing
from training.errors import TrainingError
from training.evaluation import options
from training.fetch import options as fetching
from training.judge import options as judging
from training.teacher import options as asking

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
    fetching.add_fetch(commands)
    _add_distill(commands)
    judging.add_judge(commands)
    _add_prepare(commands)
    _add_score(commands)
    _add_tokenizer(commands)
    _add_train(commands)
    _add_improve(commands)
    _add_refine(commands)
    _add_average(commands)
    _add_deepen(commands)
    options.add_evaluate(commands)
    options.add_fluency(commands)
    comparing.add_compare(commands)
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _add_distill(commands: Commands) -> None:
    parser = commands.add_parser("distill", help="a teacher model writes pairs for `prepare --pairs`")
    parser.add_argument(
        "--teacher", required=True, metavar="URL", help="base URL of the endpoint, ending with /v1"
    )
    parser.add_argument("--model", required=True, help="as the endpoint calls it")
    parser.add_argument("--licence", required=True, help="of what the teacher writes, such as Apache-2.0")
    parser.add_argument("--source", help="name of the rows' source; default MODEL-distilled")
    parser.add_argument("--out", type=Path, required=True, help="run folder; a run found there is resumed")
    parser.add_argument("--data-dir", type=Path, help="folder of the open data; default PROMPTDIAL_DATA_DIR")
    parser.add_argument("--inputs", type=Path, help="own inputs, one a line, instead of the open data's")
    parser.add_argument(
        "--templates", type=Path, help="folder of task templates; default training/teacher/tasks"
    )
    parser.add_argument("--count", type=_positive, default=1000, help="requests; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument("--threads", type=_positive, default=1, help="of the scorer; default %(default)s")
    _add_asking(parser.add_argument_group("asking"))
    _add_ray(parser)
    parser.set_defaults(run=_distill)


def _add_ray(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("past one machine", "needs the extra `ray`; docs/distill.md tells more")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="spread the work with Ray Data over the cluster at an address, such as 10.0.0.1:6379 or `auto`; "
        "`local` starts a Ray here, which ends with the command",
    )
    group.add_argument(
        "--ray-workers",
        type=_positive,
        help="of one CPU each; default as many as the cluster has, or 2 with `local`",
    )


def _add_asking(group: argparse._ArgumentGroup) -> None:
    asking.add_endpoint(group)
    group.add_argument("--temperature", type=float, default=0.7)
    group.add_argument("--top-p", type=float, default=0.95)
    group.add_argument("--frequency-penalty", type=float, default=0.0)
    group.add_argument("--minutes", type=float, help="stop asking after so long")
    group.add_argument(
        "--max-tokens", type=_positive, help="stop before prompts and answers take more tokens"
    )
    group.add_argument("--max-cost", type=float, help="stop before the prices add up to more")
    group.add_argument("--price-in", type=float, default=0.0, help="of a million prompt tokens")
    group.add_argument("--price-out", type=float, default=0.0, help="of a million completion tokens")


def _distill(args: argparse.Namespace) -> None:
    from training.teacher.run import run

    run(args)


def _add_prepare(commands: Commands) -> None:
    parser = commands.add_parser("prepare", help="open data, own pairs -> labelled episodes")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data-dir", type=Path, help="folder of the open data; default PROMPTDIAL_DATA_DIR")
    where.add_argument("--no-open-data", action="store_true", help="the rows of --pairs alone")
    parser.add_argument(
        "--pairs",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="more rows, such as your own or a teacher's: JSON lines of input, output, task; may be given again",
    )
    parser.add_argument("--tasks", type=Path, metavar="FILE", help="TOML that describes own tasks of --pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="texts that no row may hold, such as an evaluation set: lines, or JSON lines; may be given again",
    )
    judging.add_verdicts(parser)
    parser.add_argument("--generated", type=int, default=6_000, help="composed rows; default %(default)s")
    parser.add_argument(
        "--written", type=int, default=60_000, help="rows written by rule about captions; default %(default)s"
    )
    parser.add_argument(
        "--derived-share", type=float, default=1.0,
        help="share of the derived rows to keep for training, which saves labelling them; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--threads",
        type=_positive,
        default=2,
        help="of the scorer, and processes that write; default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0)
    _add_ray(parser)
    parser.set_defaults(run=_prepare)


def _prepare(args: argparse.Namespace) -> None:
    from training import exclude, own, prepare, score, sources

    folder = None if args.no_open_data else sources.data_dir(args.data_dir)
    data = sources.load(folder, args.pairs, own.read(args.tasks))
    excluded = exclude.read(args.exclude)
    mix = prepare.Mix(args.generated, args.written, args.derived_share)
    labels = prepare.Labels(args.verdicts, args.judge_share) if args.verdicts else None
    with score.scorer_for(args) as scorer:
        prepare.prepare(data, scorer, args.out, mix, args.seed, excluded, labels, args.threads)


def _add_score(commands: Commands) -> None:
    parser = commands.add_parser("score", help="label pairs with the relevance and length that they have")
    parser.add_argument("pairs", type=Path, help="JSON lines with `input` and `output`, such as pairs.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the same rows with `relevance` and `words`")
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument("--threads", type=_positive, default=2, help="of the scorer; default %(default)s")
    _add_ray(parser)
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> None:
    from training.score import run

    run(args)


def _add_tokenizer(commands: Commands) -> None:
    parser = commands.add_parser("tokenizer", help="learn a tokenizer from the training episodes")
    parser.add_argument("--episodes", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument("--recipe", default="small", help="whose vocabulary size; default %(default)s")
    parser.set_defaults(run=_tokenizer)


def _tokenizer(args: argparse.Namespace) -> None:
    from promptdial.tokenizer import PromptTokenizer
    from training import own, recipe
    from training.episodes import read_episodes

    episodes = read_episodes(args.episodes, "train")
    texts = (text for episode in episodes for text in (episode.input, episode.output))
    path = args.episodes / "tokenizer.json"
    vocabulary, trained = recipe.load(args.recipe).model.vocabulary, own.of_episodes(args.episodes)
    PromptTokenizer.train(texts, vocabulary, trained.format).save(path)
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
    parser.add_argument(
        "--accumulate",
        type=_positive,
        default=1,
        help="pieces that each process's share of a step's batch is computed in, for less memory; default %(default)s",
    )
    parser.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute activations again in the backward pass instead of keeping them: less memory, more time",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    from training.train import run

    run(args)


def _add_improve(commands: Commands) -> None:
    parser = commands.add_parser("improve", help="checkpoint -> rollouts -> better checkpoint")
    _add_rollouts(parser, 5000, "commands a round")
    parser.add_argument("--rounds", type=_positive, default=1, help="default %(default)s")
    parser.add_argument(
        "--inputs",
        type=Path,
        help="more inputs to answer: JSON lines of input, kind and modality; default none",
    )
    parser.add_argument(
        "--per-cell", type=_positive, default=40, help="rollouts kept of each command; default %(default)s"
    )
    parser.add_argument(
        "--steps", type=_positive, default=1000, help="of training a round; default %(default)s"
    )
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument("--save-every", type=_positive, default=250, help="steps; default %(default)s")
    parser.set_defaults(run=_improve)


def _add_refine(commands: Commands) -> None:
    parser = commands.add_parser(
        "refine", help="checkpoint -> own answers, sentence by sentence -> better one"
    )
    _add_rollouts(parser, 3000, "commands")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="default %(default)s")
    parser.add_argument("--save-every", type=_positive, default=100, help="steps; default %(default)s")
    parser.set_defaults(run=_refine)


def _add_rollouts(parser: argparse.ArgumentParser, count: int, unit: str) -> None:
    """What commands take that have a checkpoint answer, and train it on that."""
    parser.add_argument("start", type=Path, help="checkpoint, or bundle with its checkpoint, to start from")
    parser.add_argument("--episodes", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder; what is found there is gone on with")
    parser.add_argument("--recipe", default="small", help="of the training; default %(default)s")
    parser.add_argument("--rollouts", type=_positive, default=count, help=f"{unit}; default %(default)s")
    parser.add_argument("--n", type=_positive, default=4, help="answers to each command; default %(default)s")
    parser.add_argument(
        "--scorer", type=Path, help="folder with scorer.onnx; default the bundle in the repository"
    )
    parser.add_argument(
        "--threads", type=_positive, default=2, help="of engine and scorer; default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0)


def _refine(args: argparse.Namespace) -> None:
    from training.refine import run

    run(args)


def _add_average(commands: Commands) -> None:
    parser = commands.add_parser("average", help="checkpoints -> the mean of their weights")
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", help="of one start; all but weights is the first one's"
    )
    parser.add_argument("--share", type=float, nargs="+", help="of each checkpoint; default equal")
    parser.add_argument("--sampling", help="JSON: default sampling instead of the first one's")
    parser.add_argument("--episodes", type=Path, default=Path("runs/episodes"), help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint; replaced")
    parser.set_defaults(run=_average)


def _average(args: argparse.Namespace) -> None:
    from training.average import run

    run(args)


def _add_deepen(commands: Commands) -> None:
    parser = commands.add_parser("deepen", help="checkpoint -> one with more layers that answers alike")
    parser.add_argument("checkpoint", type=Path, help="or a bundle")
    parser.add_argument("--layers", type=_positive, required=True, help="that it is to have")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint; replaced")
    parser.set_defaults(run=_deepen)


def _deepen(args: argparse.Namespace) -> None:
    from training.deepen import run

    run(args)


def _improve(args: argparse.Namespace) -> None:
    from training.improve import run

    run(args)


if __name__ == "__main__":
    sys.exit(main())
