"""Episodes -> checkpoint: `python -m training train --episodes DIR --out RUN [--init BUNDLE|HF_DIR]`.

A GPT-2 of transformers under its Trainer: bf16 where the machine has it, batches counted in tokens, loss on outputs
only, commands in hindsight with a share of fields left out. The run folder holds checkpoints, each of which
`python -m export` takes, the whole configuration, `history.jsonl`, and the same curves for TensorBoard. A run found in
the folder goes on where it was. Under `torchrun` the processes share the batch of a step: the recipe's `batch_tokens`
are those of all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import logging
import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from promptdial.command import FRAMING_TOKENS
from promptdial.engine.spelling import words_of
from promptdial.relevance import RelevanceScorer, load_scorer
from promptdial.tasks import TASK_INFO
from promptdial.tokenizer import PromptTokenizer
from training import (
    batches,
    card,
    checkpoint,
    init,
    lineage,
    muon,
    own,
    phrases,
    recipe,
    replay,
    rules,
    support,
    vocabulary,
)
from training.episodes import Episode, read_episodes
from training.errors import TrainingError
from training.precision import has_bf16
from training.probe import Probe, probe_inputs

log = logging.getLogger(__name__)

PARITY_ROWS = 300
VALIDATION_ROWS = 1500
KNOWN_FROM, KNOWN_LETTER_FROM = (
    3,
    80,
)  # rows with a word or a single letter, from which on an answer may have it
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
HISTORY = "history.jsonl"
CURVES = "tensorboard"
NOTES = """
Episodes are `real` (input and output as found), `derived` (one side made from the other by rule; also rows in which a
thing or colour was replaced by its like on both sides), `generated` (both composed by rule from word lists),
`distilled` (outputs by a language model) or `rollout` (outputs by an earlier checkpoint of this model). Every row is
labelled in hindsight with the relevance and length that it has. Answers that `refine` judged sentence by sentence are
no episodes; `judged` counts them. Sources that only the weights it started from were trained on come last in the list.
"""


def run(args: argparse.Namespace, judged: Sequence[batches.Row] = ()) -> None:
    """Train as the command line says. The last checkpoint is `OUT/final`.

    With `judged` rows, whose tokens have gains, as many of the episodes' rows are trained on, drawn anew from the seed.
    """
    chosen = _recipe(args)
    keep_memory()
    transformers_logging.set_verbosity_error()
    set_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(args, chosen.optimizer)
    if arguments.process_index:
        logging.getLogger().setLevel(logging.WARNING)  # the first process tells
    train, held_out = read_episodes(args.episodes, "train"), read_episodes(args.episodes, "validation")
    scorer = load_scorer(args.scorer)
    tokenizer, model = _start(args, chosen, scorer)
    if not judged:  # which have been spelt already
        outputs = [episode.output for episode in train if batches.is_wanted(episode, chosen.data)]
        tokenizer = vocabulary.without_seldom(
            tokenizer, outputs, int(chosen.data.seldom * len(outputs) / 1e5)
        )
    chosen = replace(chosen, model=checkpoint.sizes(model, chosen.model.dropout))
    started = _started(args, arguments, chosen, tokenizer)
    fitting, rows, validation = _rows(train, held_out, tokenizer, chosen, args.episodes)
    if judged:
        rows = [*judged, *random.Random(args.seed).sample(rows, min(len(judged), len(rows)))]
    log.info(
        "%d rows, %.1fM tokens an epoch, of which %.1fM outputs; %.1fM parameters",
        *(len(rows), sum(row.length for row in rows) / 1e6, sum(len(row.output) for row in rows) / 1e6),
        model.num_parameters() / 1e6,
    )
    given = [episode for episode in fitting if episode.origin != replay.ORIGIN]
    details = _details(args, chosen, tokenizer, train, validation, support.of(given))
    details["words"] = " ".join(sorted(known_words(given, args.init, earlier=chosen.data.earlier_words)))
    details["training"]["processes"] = arguments.world_size
    if judged:
        details["training"]["judged"] = len(judged)  # and as many of the episodes
    probe = _probe(held_out, tokenizer, scorer, chosen.sampling) if args.probe_every else None
    batch_tokens = chosen.optimizer.batch_tokens // (arguments.world_size * args.accumulate)
    data = batches.BatchDataset(rows, tokenizer, batch_tokens, chosen.data.any_share, args.seed)
    trainer = OutputTrainer(
        with_muon=chosen.optimizer.kind == "muon",
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=_only,
        callbacks=[Epochs(data), Progress(args.out, tokenizer, details, probe, args.probe_every)],
    )
    trainer.remove_callback(PrinterCallback)  # type: ignore[no-untyped-call]  # Progress says it
    trainer.train(resume_from_checkpoint=str(started) if started else None)
    final = args.out / "final"
    trainer.save_model(str(final))
    if not trainer.is_world_process_zero():
        return
    details["training"] |= effort(args.out, trainer.state.global_step, chosen.optimizer)
    details["metrics"] = {"validation_loss": mean_loss(model, validation, tokenizer)}
    phrases.write(final, given)
    checkpoint.write_details(final, tokenizer, details)
    log.info("validation loss %.4f; wrote %s", details["metrics"]["validation_loss"], final)


def _started(
    args: argparse.Namespace,
    arguments: TrainingArguments,
    chosen: recipe.Recipe,
    tokenizer: PromptTokenizer,
) -> Path | None:
    """The checkpoint to go on from, if the run folder has one; TrainingError where that can't be done."""
    started = checkpoint.last_whole(args.out)
    if started and arguments.world_size > 1 and not torch.cuda.is_available():
        raise TrainingError(
            f"{started} can't be gone on from by several processes on CPUs (transformers reads its optimizer for a "
            f"device that torch doesn't know): go on with one process and --accumulate {arguments.world_size}"
        )
    if started:
        _check_same_run(started, chosen, tokenizer, args.episodes)
    return started


def _rows(
    train: Sequence[Episode],
    held_out: Sequence[Episode],
    tokenizer: PromptTokenizer,
    chosen: recipe.Recipe,
    episodes: Path,
) -> tuple[list[Episode], list[batches.Row], list[batches.Row]]:
    """The episodes within the recipe's limits, their rows as often as it says, and rows to validate with."""
    fitting = batches.fitting(train, tokenizer, chosen.data)
    rows = batches.repeated(fitting, chosen.data)
    some = held_out[:: max(1, len(held_out) // VALIDATION_ROWS)]
    validation = batches.tokenize(some, tokenizer, replace(chosen.data, repeat={}, longest={}))
    if not rows or not validation:
        raise TrainingError(f"{episodes} holds no rows within the limits of recipe {chosen.name}")
    return [episode for episode, _ in fitting], rows, validation


def keep_memory() -> None:
    """Let glibc keep freed memory: given back, it comes as pages that are zeroed anew, a fifth of a step's time."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _recipe(args: argparse.Namespace) -> recipe.Recipe:
    chosen = recipe.load(args.recipe)
    changed: dict[str, Any] = {"steps": args.steps, "learning_rate": args.learning_rate}
    given = {name: value for name, value in changed.items() if value is not None}
    return replace(chosen, optimizer=replace(chosen.optimizer, **given))


def _start(
    args: argparse.Namespace, chosen: recipe.Recipe, scorer: RelevanceScorer
) -> tuple[PromptTokenizer, GPT2LMHeadModel]:
    """Tokenizer and model: from `--init`, or fresh with the recipe's start."""
    if args.init:
        tokenizer = checkpoint.load_tokenizer(args.init, own.of_episodes(args.episodes).format)
        model = checkpoint.load_model(args.init)
        checkpoint.fit_vocabulary(model, tokenizer.vocabulary)
        checkpoint.set_dropout(model, chosen.model.dropout)
        needed = FRAMING_TOKENS + chosen.data.max_input_tokens + chosen.data.max_tokens
        if model.config.n_positions < needed:
            raise TrainingError(
                f"{args.init} has {model.config.n_positions} positions, rows of recipe {chosen.name} need {needed}: "
                f"lower max_input_tokens or max_tokens in the recipe"
            )
        return tokenizer, model
    tokenizer = checkpoint.learnt_tokenizer(args.episodes)
    model = checkpoint.fresh(chosen.model, tokenizer.vocabulary)
    init.initialize(model, chosen.init, tokenizer, scorer)
    return tokenizer, model


def _probe(
    held_out: Sequence[Episode],
    tokenizer: PromptTokenizer,
    scorer: RelevanceScorer,
    sampling: recipe.SamplingRecipe,
) -> Probe | None:
    """What samples are looked at while training; nothing without held-out pairs."""
    inputs = [(e.modality, e.input) for e in held_out if e.task == "expand" and e.origin == "real"]
    if inputs:
        return Probe(probe_inputs(inputs, 32), tokenizer, scorer, sampling)
    log.warning("no held-out pairs for `expand`: samples are not looked at while training")
    return None


def _details(
    args: argparse.Namespace,
    chosen: recipe.Recipe,
    tokenizer: PromptTokenizer,
    train: Sequence[Episode],
    validation: Sequence[batches.Row],
    supported: dict[str, Any],
) -> dict[str, Any]:
    """All that export needs besides weights and tokenizer: see `training/checkpoint.py`.

    Of tasks that only the weights started from were trained on, support and description are theirs.
    """
    before = checkpoint.read_details(args.init) if args.init else {}
    start, earlier = lineage.start(args.init)
    tasks = {
        name: task.to_json() for name, task in {**TASK_INFO, **own.of_episodes(args.episodes).tasks}.items()
    }
    tasks = {**before.get("tasks", {}), **tasks}
    step = max(1, len(validation) // PARITY_ROWS)
    parity = [
        [tokenizer.frame(row.command, row.input), row.output] for row in validation[::step][:PARITY_ROWS]
    ]
    return {
        "command": tokenizer.format.to_json(),
        "tasks": {name: tasks[name] for name in tokenizer.format.tasks},
        "support": {**before.get("support", {}), **supported},
        "limits": {"max_input_tokens": chosen.data.max_input_tokens, "max_tokens": chosen.data.max_tokens},
        "sampling": chosen.to_json()["sampling"],
        "data": all_sources(args.init, train),
        "training": {
            "recipe": chosen.to_json(),
            "init": start,
            "seed": args.seed,
            "episodes": dict(Counter(episode.origin for episode in train)),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "data": _digest(args.episodes / "train.parquet"),
            "commit": _commit(),
            lineage.EARLIER: earlier,
        },
        "notes": NOTES,
        "metrics": {},
        "validation": parity,
    }


def known_words(episodes: Sequence[Episode], start: Path | None, *, earlier: bool) -> set[str]:
    """The words that a model may write besides its input's: those that several rows' outputs have and their inputs
    don't, and with `earlier` those of its start, less what isn't fit to be learnt and slipped in all the same.

    None if the start doesn't tell its own: what it has learnt is not to be barred.
    """
    learnt = checkpoint.read_words(start) if start else []
    if start and not learnt:
        return set()
    rows = Counter(
        word
        for episode in episodes
        if episode.method != "mismatched"
        for word in words_of(episode.output) - words_of(episode.input)
    )
    several = (
        word for word, count in rows.items() if count >= (KNOWN_FROM if len(word) > 1 else KNOWN_LETTER_FROM)
    )
    return {word for word in (*several, *(learnt if earlier else ())) if not rules.is_unfit(word)}


def all_sources(start: Path | None, train: Sequence[Episode]) -> list[dict[str, Any]]:
    """The sources of the episodes, then those that only the weights started from were trained on."""
    rows: list[dict[str, Any]] = card.source_rows(train)
    named = {row["source"] for row in rows}
    earlier = checkpoint.read_details(start).get("data", []) if start else []
    return [*rows, *(row for row in earlier if row["source"] not in named)]


def _check_same_run(started: Path, chosen: recipe.Recipe, tokenizer: PromptTokenizer, episodes: Path) -> None:
    """Refuse to go on with other data, tokenizer or recipe than a run began with; only `steps` may change."""
    before = checkpoint.read_details(started)["training"]
    then, now = before["recipe"], json.loads(json.dumps(chosen.to_json()))
    changed = [
        f"{part} {then[part]} -> {now[part]}" for part in now if _fixed(then[part]) != _fixed(now[part])
    ]
    digest = _digest(episodes / "train.parquet")
    if before.get("data", digest) != digest:
        changed.append(f"{episodes}/train.parquet")
    if (started / checkpoint.TOKENIZER).read_text(encoding="utf-8") != tokenizer.to_text():
        changed.append("tokenizer.json")
    if changed:
        raise TrainingError(
            f"{started.parent} began with something else ({'; '.join(changed)}): "
            f"undo that, or give another --out, with --init {started} to keep what was learnt"
        )


def _fixed(part: Any) -> Any:
    return (
        {name: value for name, value in part.items() if name != "steps"} if isinstance(part, dict) else part
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def effort(run_folder: Path, steps: int, order: recipe.OptimizerRecipe) -> dict[str, Any]:
    """What a run has cost so far: steps, at most so many tokens, and hours of training itself by its history."""
    seconds, before = 0.0, 0
    history = run_folder / HISTORY
    for line in history.read_text(encoding="utf-8").splitlines() if history.is_file() else ():
        entry = json.loads(line)
        if "loss" in entry and entry["step"] > before:  # a resumed run repeats a few steps
            seconds += (entry["step"] - before) * (entry["seconds_per_step"] or 0.0)
            before = entry["step"]
    return {"steps": steps, "tokens_at_most": steps * order.batch_tokens, "hours": round(seconds / 3600, 2)}


def _commit() -> str:
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _arguments(args: argparse.Namespace, order: recipe.OptimizerRecipe) -> TrainingArguments:
    decay = round(order.steps * order.decay_share)
    arguments = TrainingArguments(
        output_dir=str(args.out),
        max_steps=order.steps,
        per_device_train_batch_size=1,  # an item is a whole batch
        learning_rate=order.learning_rate,
        weight_decay=order.weight_decay,
        adam_beta2=0.98,
        optim="adamw_torch_fused",
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": decay, "decay_type": "linear", "min_lr_ratio": 0.0},
        warmup_steps=order.warmup_steps,
        max_grad_norm=1.0,
        bf16=has_bf16(),
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        gradient_accumulation_steps=args.accumulate,
        gradient_checkpointing=args.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_steps=args.save_every,
        save_total_limit=2,
        logging_steps=min(50, args.save_every),
        report_to=[],
        disable_tqdm=True,
        seed=args.seed,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    if arguments.n_gpu > 1:
        raise TrainingError(
            f"{arguments.n_gpu} GPUs and one process: start it with `torchrun --nproc-per-node {arguments.n_gpu} -m "
            "training train ...`, or choose a GPU with CUDA_VISIBLE_DEVICES"
        )
    return arguments


def _only(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return items[0]


def _forward(
    model: GPT2LMHeadModel,
    *args: Any,
    output_labels: torch.Tensor | None = None,
    output_tokens: torch.Tensor | None = None,
    output_gains: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """The model's own forward; with `output_labels`, the loss of `batches.output_loss` alone."""
    if output_labels is None:
        return type(model).forward(model, *args, **kwargs)
    batch = {"input_ids": kwargs["input_ids"], "labels": output_labels}
    if output_gains is not None:
        batch["gains"] = output_gains
    return batches.output_loss(model, batch, output_tokens)


class OutputTrainer(Trainer):
    """Trainer whose loss multiplies the vocabulary at output positions only."""

    def __init__(self, *, with_muon: bool, model: GPT2LMHeadModel, **kwargs: Any) -> None:
        blocks: Any = model.transformer.h
        if not torch.cuda.is_available():  # there the gradient of the fused one takes three times as long
            model.set_attn_implementation("eager")
        for block in blocks:
            # The same function as gelu_new in one kernel instead of eight.
            block.mlp.act = torch.nn.GELU(approximate="tanh")
        # The loss comes out of `forward`, since that is where autocast and the averaging of gradients are hooked in.
        model.forward = MethodType(_forward, model)
        super().__init__(model=model, **kwargs)
        self._muon = with_muon

    def create_optimizer(self) -> torch.optim.Optimizer:
        """AdamW as the arguments say, or Muon."""
        if not self._muon:
            made: torch.optim.Optimizer = super().create_optimizer()  # type: ignore[no-untyped-call]
            return made
        if self.optimizer is None:
            model: Any = self.model
            self.optimizer = muon.Muon(muon.groups(model), self.args.learning_rate, self.args.weight_decay)
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross entropy per output token, of all that the step takes together: all processes, all pieces."""
        loss = model(
            input_ids=inputs["input_ids"],
            output_labels=inputs["labels"],
            output_tokens=num_items_in_batch,
            output_gains=inputs.get("gains"),
        )
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # over which gradients are averaged
        return (loss, {"loss": loss}) if return_outputs else loss


class Epochs(TrainerCallback):
    """Tells the data which epoch it is in, also after a resume and in every process."""

    def __init__(self, data: batches.BatchDataset) -> None:
        self._data = data

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """`state.epoch` is a fraction where a run goes on."""
        self._data.set_epoch(int((state.epoch or 0.0) + 1e-6))


class Progress(TrainerCallback):
    """A line per logging step with speed and time left, curves, probes, and checkpoints that export can take.

    Of several processes the first does all of it.
    """

    def __init__(
        self, out: Path, tokenizer: PromptTokenizer, details: dict[str, Any], probe: Probe | None, every: int
    ) -> None:
        self._out = out
        self._tokenizer = tokenizer
        self._details = details
        self._probe = probe
        self._every = every
        self._mark = (0, time.monotonic())
        self._curves: SummaryWriter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Speed is measured from here."""
        self._mark = (state.global_step, time.monotonic())
        if state.is_world_process_zero:
            # Points past a checkpoint that is gone on from are drawn anew.
            self._curves = SummaryWriter(str(self._out / CURVES), purge_step=state.global_step + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The curves are whole."""
        if self._curves is not None:
            self._curves.close()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Print and keep one line of history."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        step, now = state.global_step, time.monotonic()
        rate = (step - self._mark[0]) / max(now - self._mark[1], 1e-9)
        self._mark = (step, now)
        tokens = rate * self._details["training"]["recipe"]["optimizer"]["batch_tokens"]
        left = (state.max_steps - step) / rate if rate else float("inf")
        log.info(
            "step %d/%d, loss %.3f, rate %.1e, up to %.0f tokens/s, %d:%02d left",
            *(
                step,
                state.max_steps,
                logs["loss"],
                logs["learning_rate"],
                tokens,
                left // 3600,
                left % 3600 // 60,
            ),
        )
        self._keep({"step": step, "loss": logs["loss"], "seconds_per_step": 1 / rate if rate else None})
        curves = {
            f"train/{name}": logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs
        }
        self._draw(step, curves | {"train/tokens_per_s_at_most": tokens})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Sample every so often."""
        if self._probe and state.global_step % self._every == 0 and state.is_world_process_zero:
            start = time.monotonic()
            result = self._probe(model)
            log.info("step %d, %s", state.global_step, result)
            for text, output in result.samples:
                log.info("   %s => %s", text[:60], output[:160])
            self._keep({"step": state.global_step, "probe": str(result)})
            self._draw(state.global_step, result.curves())
            # The speed is that of training.
            self._mark = (self._mark[0], self._mark[1] + time.monotonic() - start)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make the checkpoint one that export can take."""
        if not state.is_world_process_zero:
            return
        folder = self._out / f"checkpoint-{state.global_step}"
        order = recipe.OptimizerRecipe(**self._details["training"]["recipe"]["optimizer"])
        self._details["training"] |= effort(self._out, state.global_step, order)
        checkpoint.write_details(folder, self._tokenizer, self._details)

    def _draw(self, step: int, values: dict[str, float]) -> None:
        assert self._curves is not None
        for name, value in values.items():
            self._curves.add_scalar(name, float(value), step)
        self._curves.flush()

    def _keep(self, line: dict[str, Any]) -> None:
        with (self._out / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "time": round(time.time())}) + "\n")


def loss_of(start: Path, episodes: Sequence[Episode]) -> float:
    """Mean cross entropy per output token of a checkpoint, or of a bundle's weights, over episodes."""
    tokenizer, model = checkpoint.load_tokenizer(start), checkpoint.load_model(start)
    limits = recipe.DataRecipe(**checkpoint.read_details(start)["limits"])
    return mean_loss(model, batches.tokenize(episodes, tokenizer, limits), tokenizer)


def mean_loss(
    model: GPT2LMHeadModel, rows: Sequence[batches.Row], tokenizer: PromptTokenizer, batch_tokens: int = 4096
) -> float:
    """Mean cross entropy per output token over rows, no field left out."""
    model.eval()
    data = batches.BatchDataset(rows, tokenizer, batch_tokens, 0.0, 0)
    total = tokens = 0.0
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=has_bf16()):
        for index in range(len(data)):
            batch = {name: values.to(model.device) for name, values in data[index].items()}
            count = int((batch["labels"] != batches.IGNORED).sum())
            total += float(batches.output_loss(model, batch)) * count
            tokens += count
    return round(total / tokens, 4)
