"""Work spread over processes or machines with Ray Data: `--ray local` here, or `--ray ADDRESS` on a cluster that is up.

Each worker is an actor that holds what is slow to load. A worker that dies is replaced by Ray, and what it was at is
done again. Rows carry their number or key, so that none is missing or there twice.

A Ray of our own listens on 127.0.0.1 only, behind a token that nobody else knows, writes below a folder that goes with
it, waits longer for its parts than Ray does by default, and gives its workers the priority of the command.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
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
LOCAL = "local"
LOCAL_WORKERS = 2
LOCAL_STARTS = 3
OBJECT_STORE_BYTES = 1 << 28  # of a local Ray; rows are short
LARGEST_BLOCK = 1 << 20  # bytes; so much Ray Data sets aside for a task until it has seen what one returns
# Of src/ray/common/ray_config_def.h, for a Ray of our own on a machine that has other things to do.
SETTINGS = {
    "agent_register_timeout_ms": 300_000,
    "worker_register_timeout_seconds": 300,
    "health_check_timeout_ms": 60_000,  # for an answer to the question whether a process is alive
    "worker_niceness": 0,  # as this process; Ray's 15 leaves workers next to nothing beside others
}
BATCH_TEXTS = 128
PROGRESS_EVERY = 20_000  # texts


@contextmanager
def connected(address: str, workers: int | None) -> Iterator[int]:
    """A connection to the cluster, or for `local` a Ray of its own on this machine, and how many workers to start.

    `workers` are of one CPU each; None for as many as the cluster has, or LOCAL_WORKERS here. Raises TrainingError
    where there is no Ray, and for what Ray raises while the connection is in use.
    """
    os.environ |= _environment(address)
    try:
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise TrainingError(
            f"--ray needs Ray ({error}): install the extra, promptdial[ray], or leave the option out"
        ) from error
    _quiet(ray.data.DataContext.get_current())
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            if address == LOCAL:
                _start(workers or LOCAL_WORKERS, folder)
            else:
                _join(address)
            yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        except ray.exceptions.RayError as error:
            raise TrainingError(f"Ray: {str(error).strip().splitlines()[-1]}") from error
        finally:
            ray.shutdown()


def _environment(address: str) -> dict[str, str]:
    """What Ray reads when it is imported."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    settings |= {"RAY_ENABLE_AUTO_CONNECT": "0"}  # no other Ray once this one is left
    if address == LOCAL:
        # Without "clusters", which is about macOS, Ray takes 127.0.0.1 for the machine's address.
        settings |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return settings


def _quiet(context: Any) -> None:
    context.enable_progress_bars = False
    context.target_max_block_size = LARGEST_BLOCK
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns of bars that are off


def _start(workers: int, folder: str) -> None:
    """Start a Ray here: several times, since Ray waits no longer than 15 s for each of its agents to come up.

    (https://github.com/ray-project/ray/issues/65983.) The second time, their files are in memory already.
    """
    import ray  # noqa: PLC0415

    for attempt in range(1, LOCAL_STARTS + 1):
        try:
            ray.init(
                LOCAL,
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
                log_to_driver=False,
                _temp_dir=folder,
                _system_config=dict(SETTINGS),  # it is written to
            )
        except Exception as error:  # a bare one says that time was up
            ray.shutdown()
            if attempt == LOCAL_STARTS:
                raise TrainingError(
                    f"no Ray came up in {LOCAL_STARTS} tries; is the machine too busy? {error}{_last_words(folder)}"
                ) from error
            log.warning("starting Ray failed (%s), trying again", error)
        else:
            return


def _last_words(folder: str) -> str:
    """What Ray's node process ended with, as its exception names no cause."""
    failed = [
        line.partition("Check failed: ")[2]
        for path in sorted(Path(folder).glob("session_*/logs/raylet.err"))
        for line in path.read_text(errors="replace").splitlines()
        if "Check failed: " in line
    ]
    return f" ({failed[-1]})" if failed else ""


def _join(address: str) -> None:
    import ray  # noqa: PLC0415

    code = [str(ROOT / "promptdial"), str(ROOT / "training")]
    try:
        ray.init(
            address, runtime_env={"py_modules": code}, logging_level=logging.WARNING, log_to_driver=False
        )
    except Exception as error:  # ray raises bare ones
        raise TrainingError(f"no Ray at {address}: {error}") from error


@contextmanager
def mapped(
    batches: Sequence[pa.Table], worker: type, arguments: dict[str, Any], workers: int, at_once: int = 1
) -> Iterator[Iterator[pa.Table]]:
    """What `worker(**arguments)`, called with each table, makes of them; in the order in which they are done.

    An asynchronous worker has `at_once` tables in work; one that dies has at most these done again. What is not done
    when the block ends is dropped: Ray Data must have stopped before the connection does.
    """
    import ray  # noqa: PLC0415

    data = ray.data.from_arrow(list(batches)).map_batches(
        worker,
        batch_size=None,  # a table is a batch
        batch_format="pyarrow",
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=workers, max_concurrent_calls_per_actor=at_once),
        num_cpus=1,
    )
    with closing(_tables(data)) as tables:
        yield tables


def _tables(data: Any) -> Generator[pa.Table, None, None]:
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

    def __init__(self, bundle: Path | None, workers: int) -> None:
        """`workers` of one CPU each."""
        folder = default_bundle() if bundle is None else bundle
        load_scorer(folder)  # names what is missing
        super().__init__(folder / SCORER_FILE, folder / SCORER_TOKENIZER_FILE)
        self._files = {name: (folder / name).read_bytes() for name in (SCORER_FILE, SCORER_TOKENIZER_FILE)}
        self._workers = workers

    def embed(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Unit vectors (texts, width), in the order of the texts."""
        if len(texts) <= BATCH_TEXTS:
            return super().embed(texts, batch_size)
        embeddings = np.empty((len(texts), self.width), np.float32)
        done = np.zeros(len(texts), bool)
        with mapped(_numbered(texts), EmbeddingWorker, {"files": self._files}, self._workers) as tables:
            for table in tables:
                rows = table["row"].to_numpy()
                assert not done[rows].any()
                embeddings[rows] = [np.frombuffer(row, np.float32) for row in table["embedding"].to_pylist()]
                done[rows] = True
                if int(done.sum()) // PROGRESS_EVERY > int(done.sum() - len(rows)) // PROGRESS_EVERY:
                    log.info("embedded %d of %d texts over Ray", done.sum(), len(texts))
        if not done.all():
            raise TrainingError(f"Ray returned {done.sum()} of {len(texts)} texts")
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
