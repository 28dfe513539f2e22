"""How many threads this process may keep busy: the smaller of its CPU affinity and its cgroup's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = CGROUP) -> int:
    """At least 1. A quota of 1.5 CPUs counts as 1: a second thread would be throttled half of the time."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(affinity, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    try:
        if (version_2 := cgroup / "cpu.max").is_file():
            quota, period = version_2.read_text(encoding="ascii").split()
            return math.inf if quota == "max" else int(quota) / int(period)
        quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        return math.inf if int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf
