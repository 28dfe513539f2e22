"""Checkpoints -> one whose weights are their mean: `python -m training average A B --share 0.7 0.3 --out DIR`.

Weights that went apart from one start by different data or rates often lie in one valley, and their mean is then better
than each (Wortsman et al., "Model soups", arXiv 2203.05482). It costs nothing but a look at the held-out loss.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil

from promptdial.tokenizer import PromptTokenizer
from training import checkpoint, lineage, phrases
from training.episodes import read_episodes
from training.errors import TrainingError
from training.train import loss_of

log = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> None:
    """Write the mean of checkpoints with the same tokens and one shape; all else is the first one's."""
    shares = args.share or [1 / len(args.checkpoints)] * len(args.checkpoints)
    if len(shares) != len(args.checkpoints) or abs(sum(shares) - 1) > 1e-6:
        raise TrainingError(f"--share needs {len(args.checkpoints)} numbers that add up to 1, got {shares}")
    first, *others = args.checkpoints
    tokenizer, model = checkpoint.load_tokenizer(first), checkpoint.load_model(first)
    mean = {name: weight * shares[0] for name, weight in model.state_dict().items()}
    for path, share in zip(others, shares[1:], strict=True):
        weights, other = checkpoint.load_model(path).state_dict(), checkpoint.load_tokenizer(path)
        if _tokens(other) != _tokens(tokenizer) or any(
            name not in weights or weights[name].shape != weight.shape for name, weight in mean.items()
        ):
            raise TrainingError(f"{path} has other tokens or another shape than {first}")
        mean = {name: weight + weights[name] * share for name, weight in mean.items()}
    model.load_state_dict(mean)
    details = checkpoint.read_details(first)
    details["training"] = lineage.mean(zip(args.checkpoints, shares, strict=True))
    if args.sampling:
        details["sampling"] = json.loads(args.sampling)
    if args.out.exists():
        shutil.rmtree(args.out)
    model.save_pretrained(args.out)
    checkpoint.write_details(args.out, tokenizer, details)
    phrases.write(args.out, read_episodes(args.episodes, "train"))
    loss = loss_of(args.out, read_episodes(args.episodes, "validation"))
    details["metrics"] = {"validation_loss": loss}
    checkpoint.write_details(args.out, tokenizer, details)
    log.info("validation loss %.4f; wrote %s", loss, args.out)


def _tokens(tokenizer: PromptTokenizer) -> list[object]:
    """What each id stands for, and the ids of the control tokens."""
    control = tokenizer.format.special_tokens()
    return [*tokenizer.token_bytes(), *((token, tokenizer.token_id(token)) for token in control)]
