"""Embeddings of many texts, each computed once and kept on disk by content."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from promptdial.relevance import RelevanceScorer

log = logging.getLogger(__name__)

SHARD = 20_000
PROBE = "a fox in the snow"


class EmbeddingCache:
    """A scorer whose embeddings are stored in shards of a folder, as float16 with the hashes of their texts.

    Each scorer has a folder of its own below it, named by what it makes of a fixed text.
    """

    def __init__(self, folder: Path, scorer: RelevanceScorer) -> None:
        folder = folder / hashlib.sha256(scorer.embed([PROBE]).astype(np.float16).tobytes()).hexdigest()[:16]
        self._folder = folder
        self._scorer = scorer
        self._rows: dict[bytes, NDArray[np.float16]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as shard:
                self._rows.update(zip((bytes(key) for key in shard["keys"]), shard["rows"], strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows (texts, 384); those not known yet are computed, with progress in the log."""
        missing = list({_key(text): text for text in texts if _key(text) not in self._rows}.items())
        # Texts of one length share a batch without padding; long ones first shows the slowest rate at once.
        missing.sort(key=lambda entry: len(entry[1]), reverse=True)
        start = time.monotonic()
        for first in range(0, len(missing), SHARD):
            part = missing[first : first + SHARD]
            self._add(part)
            done, seconds = first + len(part), time.monotonic() - start
            log.info("embedded %d of %d texts, %.0f/s", done, len(missing), done / seconds)
        return self.rows(texts)

    def rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows (texts, 384) of texts embedded before. Raises KeyError for any other."""
        return np.stack([self._rows[_key(text)] for text in texts]).astype(np.float32)

    def _add(self, part: list[tuple[bytes, str]]) -> None:
        rows = self._scorer.embed([text for _, text in part]).astype(np.float16)
        keys = np.frombuffer(b"".join(key for key, _ in part), dtype=np.uint8).reshape(len(part), -1)
        path = self._folder / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, keys=keys, rows=rows)
        partial.replace(path)
        self._rows.update(zip((key for key, _ in part), rows, strict=True))


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
