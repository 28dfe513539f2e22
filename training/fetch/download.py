"""Files over HTTP: gone on with where they broke off, checked, and pinned by their SHA-256 when first seen.

What is under way lies beside its file as `.part`, with the server's ETag: the rest of another version is never added to
it. A file gets its name only when it is whole and its sum is right. `sources.lock.json` has the sums.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from training.errors import TrainingError
from training.teacher.pace import LONGEST_WAIT_S, backoff, retry_after

log = logging.getLogger(__name__)

RETRIED = {408, 425, 429}
RANGE_REFUSED = 416
OFFLINE = (
    "Without a network, copy a data folder here and name it with --data-dir or PROMPTDIAL_DATA_DIR; "
    "behind a proxy set HTTPS_PROXY; a mirror of the files is named with --mirror"
)


class _Again(Exception):
    """An attempt failed in a way that may pass; `wait_s` if the server said how long."""

    def __init__(self, how: str, wait_s: float | None = None) -> None:
        super().__init__(how)
        self.wait_s = wait_s


class Lock:
    """SHA-256 by URL, in a file that is written after every new one."""

    def __init__(self, path: Path) -> None:
        """Raises TrainingError if the file is damaged."""
        self.path = path
        self._pinned: dict[str, dict[str, str | int]] = {}
        if path.is_file():
            try:
                self._pinned = {
                    str(url): dict(entry) for url, entry in json.loads(path.read_text("utf-8")).items()
                }
            except (ValueError, TypeError, AttributeError) as error:
                raise TrainingError(
                    f"{path} is damaged ({error}): remove it to pin the files anew"
                ) from error

    def sha256(self, url: str) -> str:
        """The sum of a URL's content, or nothing."""
        return str(self._pinned.get(url, {}).get("sha256", ""))

    def pin(self, url: str, sha256: str, size: int) -> None:
        """Remember a content; whole or not at all."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._pinned[url] = {"sha256": sha256, "bytes": size, "first_seen": now}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self._pinned, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


@dataclass
class Downloader:
    """Fetches files with one client; `attempts` in a row without a new byte give up."""

    client: httpx.Client
    lock: Lock
    attempts: int = 6
    backoff_s: float = 1.0
    progress: Callable[[str, int, int | None], None] = lambda url, done, total: None
    rng: random.Random = field(default_factory=random.Random)

    def fetch(self, url: str, target: Path, sha256: str = "") -> bool:
        """Have the content of a URL at `target`; whether it had to be downloaded.

        Raises TrainingError: gone, unreachable, or not what was pinned (by the table, or at the first download).
        """
        pinned = sha256 or self.lock.sha256(url)
        if target.is_file() and pinned and _sum(target) == pinned:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        failures = 0
        while True:
            before = part.stat().st_size if part.is_file() else 0
            try:
                self._go_on(url, part)
                break
            except _Again as failure:
                grown = (part.stat().st_size if part.is_file() else 0) > before
                failures = 1 if grown else failures + 1
                if failures >= self.attempts:
                    raise TrainingError(
                        f"{url}: {failure}, {failures} times in a row. {OFFLINE}"
                    ) from failure
                wait_s = failure.wait_s
                if wait_s is None:
                    wait_s = backoff(failures, self.backoff_s, 30.0, self.rng)
                time.sleep(min(wait_s, LONGEST_WAIT_S))
        self._accept(url, part, target, pinned)
        return True

    def _go_on(self, url: str, part: Path) -> None:
        """The rest of a file, or all of it if the server sends that."""
        tag = _tag_of(part)
        have = part.stat().st_size if part.is_file() and tag.is_file() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
        try:
            with self.client.stream("GET", url, headers=headers) as response:
                self._check(url, response, part)
                self._write(url, response, part, have)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise TrainingError(f"{url} is no URL: {error}") from error
        except httpx.HTTPError as error:
            raise _Again(f"{type(error).__name__} ({error})") from error

    def _check(self, url: str, response: httpx.Response, part: Path) -> None:
        status = response.status_code
        if status == RANGE_REFUSED:  # what lies here is longer than the file
            part.unlink()
            raise _Again("the part that was here did not fit", wait_s=0.0)
        if status in RETRIED or status >= 500:
            raise _Again(f"status {status}", retry_after(response.headers.get("Retry-After")))
        if status not in (200, 206):
            raise TrainingError(
                f"{url} answered {status}: the file is not there any more, or not for everyone"
            )
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise TrainingError(
                f"{url} comes as {encoding}, though identity was asked for: sums would not compare"
            )

    def _write(self, url: str, response: httpx.Response, part: Path, have: int) -> None:
        resumed = response.status_code == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Again("the server sent another range than asked for", wait_s=0.0)
        done = have if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else None
        tag = response.headers.get("ETag", "")
        if not resumed:
            _tag_of(part).unlink(missing_ok=True)
            if tag and not tag.startswith(
                "W/"
            ):  # a weak one promises no equal bytes (RFC 9110, section 13.1.5)
                _tag_of(part).write_text(tag, encoding="utf-8")
        with part.open("ab" if resumed else "wb") as file:
            for piece in response.iter_raw():
                file.write(piece)
                done += len(piece)
                self.progress(url, done, total)

    def _accept(self, url: str, part: Path, target: Path, pinned: str) -> None:
        found = _sum(part)
        if pinned and found != pinned:
            part.unlink()
            _tag_of(part).unlink(missing_ok=True)
            raise TrainingError(
                f"{url}: its SHA-256 is {found}, pinned is {pinned}: the content was changed, or damaged on its way; "
                f"it was not kept. If the change is right, remove its entry from {self.lock.path}"
            )
        size = part.stat().st_size
        part.replace(target)
        _tag_of(part).unlink(missing_ok=True)
        if self.lock.sha256(url) != found:
            self.lock.pin(url, found, size)


def _tag_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
