"""Set up each peer's environment: `.venv-peers/NAME` from `requirements/NAME.txt`, once.

A file lists everything at a fixed version, and pip adds nothing to it (--no-deps): torch in particular stays
the pinned one, whose other versions bring gigabytes of CUDA.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loadtest.peers.catalogue import REQUIREMENTS


def set_up(name: str, environments: Path, requirements: Path = REQUIREMENTS) -> str | None:
    """Make one environment. None when it stands, otherwise why it doesn't: the last line that pip said."""
    folder, wanted = environments / name, requirements / f"{name}.txt"
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_bytes() == wanted.read_bytes():
        return None
    print(f"setting up {folder}; this takes minutes once", file=sys.stderr)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
    ]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "install", "--no-deps", "-r", str(wanted)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            return f"its environment can't be set up: {said[-1] if said else command[-1]}"
    stamp.write_bytes(wanted.read_bytes())
    return None
