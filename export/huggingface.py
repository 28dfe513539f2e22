"""A folder that transformers loads by itself: `python -m export SOURCE --hf-export DIR`.

`AutoTokenizer` and `AutoModelForCausalLM` read it without Promptdial and without a network; training (`--init`) and
export read it too. A prompt for it is `CommandFormat.as_text` of `promptdial/command.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from export.checkpoint import METADATA_FILE, Checkpoint, read_checkpoint, write_json
from export.replacing import replaced
from export.restore import restored
from promptdial.bundle import MANIFEST, PHRASES_FILE, TOKENIZER_FILE, load_bundle
from promptdial.command import END, OUT, PAD
from promptdial.errors import ExportError

OURS = (METADATA_FILE, "tokenizer_config.json")  # checkpoints of training lack the second


def export_folder(source: Path, out: Path) -> None:
    """Write the fp32 weights of a checkpoint or bundle, with all that belongs to them, into ``out``.

    Of a bundle with `checkpoint/` they are those; of another, the weights that it serves, dequantized. Raises
    ExportError or BundleError.
    """
    if out.exists() and not all((out / name).is_file() for name in OURS) and not _is_empty(out):
        raise ExportError(
            f"{out} exists and is no folder of an earlier --hf-export: it will not be overwritten"
        )
    checkpoint = _read(source)
    with replaced(out) as folder:
        write_folder(checkpoint, folder, torch.float32)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _read(source: Path) -> Checkpoint:
    if not (source / MANIFEST).is_file():
        return read_checkpoint(source)
    inside = source / "checkpoint"
    return read_checkpoint(inside) if inside.is_dir() else restored(load_bundle(source))


def write_folder(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Weights, tokenizer, phrases, sampling defaults and ``promptdial.json``, without validation rows."""
    state = {name: value.to(dtype) for name, value in checkpoint.model.state_dict().items()}
    del state["lm_head.weight"]  # tied to the embedding
    checkpoint.model.save_pretrained(folder, state_dict=state)
    _generation_config(checkpoint).save_pretrained(folder)
    special = checkpoint.format.special_tokens()
    PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint.path / TOKENIZER_FILE),
        **{"pad_token": PAD, "bos_token": OUT, "eos_token": END},
        additional_special_tokens=[token for token in special if token not in (PAD, OUT, END)],
        model_max_length=checkpoint.architecture.positions,
        add_prefix_space=True,  # before the first word, as training had it; transformers would turn it off
        padding_side="left",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    shutil.copyfile(
        checkpoint.path / TOKENIZER_FILE, folder / TOKENIZER_FILE
    )  # not as transformers rewrote it
    if (checkpoint.path / PHRASES_FILE).is_file():
        shutil.copyfile(checkpoint.path / PHRASES_FILE, folder / PHRASES_FILE)
    metadata = {key: value for key, value in checkpoint.metadata.items() if key != "validation"}
    write_json(folder / METADATA_FILE, metadata)


def _generation_config(checkpoint: Checkpoint) -> GenerationConfig:
    """The bundle's sampling, less what transformers doesn't know; its `no_repeat` would count the input's runs too."""
    sampling, tokenizer = checkpoint.sampling, checkpoint.tokenizer
    drawn = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    return GenerationConfig(
        do_sample=sampling.temperature > 0,
        **(drawn if sampling.temperature > 0 else {}),
        max_new_tokens=checkpoint.limits.max_tokens,
        suppress_tokens=checkpoint.forbidden,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=tokenizer.out_id,
        eos_token_id=tokenizer.end_id,
    )
