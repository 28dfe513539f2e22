"""`python -m training fetch --data-dir DIR`: shows what would come from where; `--yes` gets and converts it."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from training import sources
from training.errors import TrainingError
from training.fetch import convert, table
from training.fetch.download import Downloader, Lock
from training.fetch.table import Source, Table

log = logging.getLogger(__name__)

LOCK = "sources.lock.json"
DOWNLOADS = "downloads"
SAID_EVERY_S = 5.0


def run(args: argparse.Namespace) -> None:
    """What the command does."""
    known = table.load(args.sources or table.TABLE)
    if args.mirror:
        known = replace(known, base=args.mirror)
    chosen = known.only(args.source)
    if args.list:
        print(listed(known, chosen, Lock(_folder(args, must=False) / LOCK)))
        return
    folder = _folder(args)
    lock = Lock(folder / LOCK)
    print(listed(known, chosen, lock))
    if not args.yes:
        raise TrainingError(f"nothing was downloaded: --yes goes on, into {folder}")
    _fetch(args, known, chosen, folder, lock)


def _fetch(
    args: argparse.Namespace, known: Table, chosen: Sequence[Source], folder: Path, lock: Lock
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with httpx.Client(follow_redirects=True, timeout=args.timeout) as client:
        downloader = Downloader(client, lock, args.attempts, args.backoff, _Progress())
        for source in chosen:
            for file in source.files:
                target = folder / DOWNLOADS / source.name / file.path
                new = downloader.fetch(known.url(source, file), target, file.sha256)
                log.info("%s %s", "got" if new else "have", target)
    rows = convert.convert(chosen, folder / DOWNLOADS)
    rows.write(folder)
    sources.load(folder)
    log.info(
        "wrote %s: %d pairs, %d texts, %d styles, %d lists",
        folder, len(rows.pairs), len(rows.texts), len(rows.styles), len(rows.lists),
    )  # fmt: skip


def _folder(args: argparse.Namespace, must: bool = True) -> Path:
    """Where to put it all: never into a folder whose files came from elsewhere."""
    given = args.data_dir or os.environ.get("PROMPTDIAL_DATA_DIR")
    if not given:
        if must:
            raise TrainingError("no folder: give --data-dir or set PROMPTDIAL_DATA_DIR")
        return Path("data")
    folder = Path(given)
    own = [name for name in sources.FILES if (folder / name).is_file()]
    if must and own and not (folder / LOCK).is_file():
        raise TrainingError(f"{folder} holds {own[0]}, which is not from here: give another --data-dir")
    return folder


def listed(known: Table, chosen: Sequence[Source], lock: Lock) -> str:
    """The sources as text: what, from where, licence, size, and what the files' SHA-256 is known to be."""
    parts = []
    for source in chosen:
        parts.append(
            f"{source.name}: {source.what}\n  {known.base.rstrip('/')}/{source.repository}, licence {source.licence}, "
            f"{len(source.files)} files, about {_size(source.size)}"
            + (f"\n  {source.note}" if source.note else "")
        )
        for file in source.files:
            pinned = file.sha256 or lock.sha256(known.url(source, file))
            told = f"sha256 {pinned}" if pinned else "sha256 not known yet, pinned at the first download"
            parts.append(f"    {file.path} at {file.commit[:12]}, about {_size(file.size)}, {told}")
    return "\n".join([*parts, f"all: about {_size(sum(source.size for source in chosen))}"])


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


class _Progress:
    """A line now and then, for files that take long."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, url: str, done: int, total: int | None) -> None:
        if (now := time.monotonic()) - self._said > SAID_EVERY_S:
            self._said = now
            log.info("%s: %s%s", url, _size(done), f" of {_size(total)}" if total else "")
