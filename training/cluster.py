"""Work spread over machines with Ray Data: `--ray local` here, or `--ray ADDRESS` on a cluster that is up.

Each worker is an actor that holds what is slow to load. A worker that dies is replaced by Ray, and its batch is done
again by another. Rows carry their number, so that they are put back in order and none is missing or there twice.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from promptdial.relevance import (
    SCORER_FILE,
    SCORER_TOKENIZER_FILE,
    RelevanceScorer,
    cosine,
    default_bundle,
    load_scorer,
)
from training.errors import TrainingError

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
LOCAL_STARTS = 3
OBJECT_STORE_BYTES = 1 << 29  # of a local Ray; rows are short
BATCH_TEXTS = 128
PROGRESS_EVERY = 20_000  # texts


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster, or for `local` a Ray of its own on this machine. Raises TrainingError for none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
    try:
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise TrainingError("Ray is not installed: it is in the extra `ray`") from error
    try:
        _start(ray.init, address)
    except Exception as error:  # ray raises bare ones
        raise TrainingError(f"no Ray at {address}: {error}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _start(init: Callable[..., object], address: str) -> None:
    """Connect, or start a Ray here: several times, since one on a busy machine takes longer than Ray waits for it."""
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address != "local":
        code = [str(ROOT / "promptdial"), str(ROOT / "training")]
        init(address, runtime_env={"py_modules": code}, **quiet)
        return
    for attempt in range(1, LOCAL_STARTS + 1):
        try:
            init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
            return
        except Exception as error:  # a bare one says that time was up
            if attempt == LOCAL_STARTS:
                raise
            log.warning("starting Ray failed (%s), trying again", error)


def processors() -> int:
    """CPUs of the cluster."""
    import ray  # noqa: PLC0415

    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


def mapped(
    batches: Sequence[pa.Table], worker: type, arguments: dict[str, Any], workers: int
) -> Iterator[pa.Table]:
    """What `worker(**arguments)`, called with each table, makes of them; in the order in which they are done."""
    import ray  # noqa: PLC0415

    data = ray.data.from_arrow(list(batches)).map_batches(
        worker,
        batch_size=None,  # a table is a batch
        batch_format="pyarrow",
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    yield from data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


class EmbeddingWorker:
    """Embeds tables of `row` and `text`."""

    def __init__(self, files: dict[str, bytes]) -> None:
        """`files`: those of the scorer, by name; the machine need not have them."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self._scorer = load_scorer(Path(folder))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`row`, and `embedding` as the bytes of float32."""
        rows = self._scorer.embed(batch["text"].to_pylist())
        return pa.table(
            {"row": batch["row"], "embedding": pa.array([row.tobytes() for row in rows], pa.binary())}
        )


class ClusterScorer(RelevanceScorer):
    """The relevance scorer whose embeddings are computed by a cluster; a few texts are done here."""

    def __init__(self, bundle: Path | None, workers: int | None) -> None:
        """`workers` of one CPU each; None for as many as the cluster has."""
        folder = default_bundle() if bundle is None else bundle
        load_scorer(folder)  # names what is missing
        super().__init__(folder / SCORER_FILE, folder / SCORER_TOKENIZER_FILE)
        self._files = {name: (folder / name).read_bytes() for name in (SCORER_FILE, SCORER_TOKENIZER_FILE)}
        self._workers = workers or processors()

    def embed(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Unit vectors (texts, width), in the order of the texts."""
        if len(texts) <= BATCH_TEXTS:
            return super().embed(texts, batch_size)
        embeddings = np.empty((len(texts), self.width), np.float32)
        done = np.zeros(len(texts), bool)
        for table in mapped(_numbered(texts), EmbeddingWorker, {"files": self._files}, self._workers):
            rows = table["row"].to_numpy()
            assert not done[rows].any()
            embeddings[rows] = [np.frombuffer(row, np.float32) for row in table["embedding"].to_pylist()]
            done[rows] = True
            if int(done.sum()) // PROGRESS_EVERY > int(done.sum() - len(rows)) // PROGRESS_EVERY:
                log.info("embedded %d of %d texts on the cluster", done.sum(), len(texts))
        if not done.all():
            raise TrainingError(f"the cluster returned {done.sum()} of {len(texts)} texts")
        return embeddings

    def score(self, inputs: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """Relevance of each output to the input at the same place, 0 to 1."""
        embeddings = self.embed([*inputs, *outputs])
        return cosine(embeddings[: len(inputs)], embeddings[len(inputs) :])


def _numbered(texts: Sequence[str]) -> list[pa.Table]:
    starts = range(0, len(texts), BATCH_TEXTS)
    return [
        pa.table(
            {
                "row": range(start, min(start + BATCH_TEXTS, len(texts))),
                "text": texts[start : start + BATCH_TEXTS],
            }
        )
        for start in starts
    ]
