"""How many threads this process may keep busy: the smaller of its CPU affinity and its cgroup's quota.

A quota may be set for any group that a process is in: its own and those above it, the smallest counts. In a
container the process mostly sees its own group as the root; under systemd, on Kubernetes nodes and in nested
containers it doesn't. Version 2 of cgroups keeps a quota in ``cpu.max``, version 1 in ``cpu.cfs_quota_us``;
where both are mounted, the CPU controller is in one of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """At least 1. A quota of 1.5 CPUs counts as 1: a second thread would be throttled half of the time.

    ``cgroup`` is where the hierarchies are mounted; ``membership`` tells where in them the process is.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(affinity, cpu_quota(cgroup, membership))))


def cpu_quota(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> float:
    """CPUs that the process' groups allow it; infinity where none of them says."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/", "0:cpu:/"]  # not Linux, or /proc is hidden: the root's limits are what can be known
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots = (cgroup, cgroup / "unified")  # alone, and beside version 1
            quotas += [_version_2(group) for root in roots for group in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            roots = (cgroup / controllers, cgroup / "cpu")  # by its full name, and by the usual link
            quotas += [_version_1(group) for root in roots for group in _upwards(root, path)]
    return min(quotas)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """The group's folder, and those above it up to the root.

    A path that isn't there belongs to the host: in a container without a cgroup namespace only the root is seen.
    """
    names = PurePosixPath(path).parts[1:]
    for depth in range(len(names), -1, -1):
        yield root.joinpath(*names[:depth])


def _version_2(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):  # no such file at the root of a machine
        return math.inf


def _version_1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
