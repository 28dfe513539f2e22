"""Folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A new folder that becomes ``target`` when the block ends well, and vanishes when it doesn't.

    A target that is there is replaced by two renames: for an instant there is none, and a process killed in
    it leaves the old one beside as ``.NAME.xxx.old`` and the new one as ``.NAME.xxx``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        folder.chmod(0o755)
        yield folder
        if target.exists():
            old = folder.with_name(f"{folder.name}.old")
            os.replace(target, old)
            os.replace(folder, target)
            shutil.rmtree(old)
        else:
            os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
