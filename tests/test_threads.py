"""Threads follow affinity and the quota of the process' own cgroup and of those above it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from promptdial.engine.threads import available_cpus, cpu_quota

AFFINITY = len(os.sched_getaffinity(0))
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


def tree(root: Path, files: dict[str, str]) -> Path:
    """Files with their contents, as a kernel would show them."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def quota(tmp_path: Path, membership: str, files: dict[str, str]) -> float:
    """What a process with this /proc/self/cgroup may use in this tree."""
    cgroup = tree(tmp_path / "cgroup", files)
    told = tmp_path / "membership"
    told.write_text(membership)
    return cpu_quota(cgroup, told)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"a/b/cpu.max": "150000 100000"}, 1.5),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"}, 3.0),
        ({"a/b/cpu.max": "max 100000", "a/other/cpu.max": "50000 100000"}, math.inf),
        ({"cpu.max": "100000 50000"}, 2.0),  # a container that sees its own group as the root
        ({}, math.inf),
        ({"a/b/cpu.max": "what is this"}, math.inf),
    ],
)
def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path, files: dict[str, str], cpus: float) -> None:
    assert quota(tmp_path, "0::/a/b\n", files) == cpus


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({f"cpu,cpuacct/a/b/{QUOTA}": "50000", f"cpu,cpuacct/a/b/{PERIOD}": "100000"}, 0.5),
        ({f"cpu,cpuacct/a/b/{QUOTA}": "-1", f"cpu,cpuacct/a/b/{PERIOD}": "100000"}, math.inf),
        ({f"cpu/a/{QUOTA}": "300000", f"cpu/a/{PERIOD}": "100000"}, 3.0),
        ({f"cpu/{QUOTA}": "100000", f"cpu/{PERIOD}": "100000"}, 1.0),
        ({"memory/a/b/cpu.max": "100000 100000"}, math.inf),
    ],
)
def test_version_1_has_its_quota_in_a_hierarchy_of_its_own(
    tmp_path: Path, files: dict[str, str], cpus: float
) -> None:
    membership = "5:memory:/a/b\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a/b\n"
    assert quota(tmp_path, membership, files) == cpus


def test_both_versions_may_be_mounted_together(tmp_path: Path) -> None:
    files = {f"cpu/a/{QUOTA}": "400000", f"cpu/a/{PERIOD}": "100000", "unified/b/cpu.max": "200000 100000"}
    assert quota(tmp_path, "1:cpu:/a\n0::/b\n", files) == 2.0


def test_a_path_with_a_colon_is_taken_whole(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/a:b/c\n", {"a:b/c/cpu.max": "100000 100000"}) == 1.0


def test_where_membership_is_not_told_the_roots_limit_counts(tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, {"cpu.max": "100000 100000"}), tmp_path / "nothing") == 1.0


@pytest.mark.parametrize(
    ("quota_us", "cpus"),
    [("1000", 1), ("100000", 1), ("100000000", AFFINITY), ("max", AFFINITY)],
)
def test_there_is_at_least_one_thread_and_no_more_than_affinity(
    tmp_path: Path, quota_us: str, cpus: int
) -> None:
    cgroup = tree(tmp_path / "cgroup", {"a/cpu.max": f"{quota_us} 100000"})
    told = tmp_path / "membership"
    told.write_text("0::/a\n")
    assert available_cpus(cgroup, told) == cpus
