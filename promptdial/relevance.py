"""How well an output fits its input: the cosine of their sentence embeddings, as a number from 0 to 1.

One scorer serves training labels, evaluation and the service's ``achieved_relevance``, so that they can't
drift: all-MiniLM-L6-v2 as int8 ONNX (``export.scorer`` builds it), run with onnxruntime and tokenizers.
Unrelated pairs come to about 0.14, good expansions to 0.6-0.85, a copy of the input to 1.0.

A text's embedding depends on that text alone: batches hold texts of equal length only, so there is no
padding, and the graph quantizes activations per token.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from promptdial.errors import BundleError

SCORER_FILE = "scorer.onnx"
SCORER_TOKENIZER_FILE = "scorer_tokenizer.json"
MAX_WORDPIECES = 256
BATCH_TOKENS = 2048  # a batch of long texts is cut smaller: past this, activations fall out of the cache
Floats = NDArray[np.float32]


class RelevanceScorer:
    """Sentence embeddings and their cosines; safe to call from several threads."""

    def __init__(self, model_path: Path, tokenizer_path: Path, *, threads: int = 1) -> None:
        """``threads`` is ONNX Runtime's for one call."""
        for path in (model_path, tokenizer_path):
            if not path.is_file():
                raise BundleError(
                    f"{path} is missing: make it with `python -m export scorer --out {path.parent}`"
                )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(model_path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise BundleError(f"{model_path} is no readable ONNX model ({error}); export it again") from error
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_path))
        except Exception as error:  # tokenizers raises a bare Exception
            raise BundleError(f"{tokenizer_path} is not a tokenizer ({error}); export it again") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_WORDPIECES)
        self.width = int(self._session.get_outputs()[0].shape[1])

    def embed(self, texts: Sequence[str], batch_size: int = 64) -> Floats:
        """Unit vectors (texts, width); what lies past 256 wordpieces is left out."""
        embeddings = np.empty((len(texts), self.width), np.float32)
        by_length: dict[int, list[int]] = defaultdict(list)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        for index, row in enumerate(ids):
            by_length[len(row)].append(index)
        for length, indices in sorted(by_length.items()):
            step = max(1, min(batch_size, BATCH_TOKENS // length))
            for start in range(0, len(indices), step):
                batch = indices[start : start + step]
                rows = np.array([ids[index] for index in batch], np.int64)  # (batch, length)
                embeddings[batch] = self._session.run(None, {"input_ids": rows})[0]
        return embeddings

    def score(self, inputs: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """Relevance of each output to the input at the same place, 0 to 1."""
        if len(inputs) != len(outputs):
            raise ValueError(f"{len(inputs)} inputs but {len(outputs)} outputs: they are scored in pairs")
        unique = {text: index for index, text in enumerate(dict.fromkeys([*inputs, *outputs]))}
        embeddings = self.embed(list(unique))
        left = embeddings[[unique[text] for text in inputs]]
        right = embeddings[[unique[text] for text in outputs]]
        return cosine(left, right)


def cosine(left: Floats, right: Floats) -> list[float]:
    """Cosine of paired unit rows, clipped to 0-1."""
    return [float(value) for value in np.clip(np.einsum("ij,ij->i", left, right), 0.0, 1.0)]


def default_bundle() -> Path:
    """``PROMPTDIAL_BUNDLE``, else ``models/small`` under the working folder or beside the package."""
    if named := os.environ.get("PROMPTDIAL_BUNDLE"):
        return Path(named)
    here = Path("models/small")
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / here


def load_scorer(bundle: Path | None = None, threads: int = 1) -> RelevanceScorer:
    """The scorer of a bundle folder (or of any folder that ``python -m export scorer`` wrote)."""
    folder = default_bundle() if bundle is None else Path(bundle)
    if not folder.is_dir():
        raise BundleError(
            f"no bundle at {folder}: set PROMPTDIAL_BUNDLE, or make a scorer with "
            f"`python -m export scorer --out DIR` and pass DIR"
        )
    return RelevanceScorer(folder / SCORER_FILE, folder / SCORER_TOKENIZER_FILE, threads=threads)
