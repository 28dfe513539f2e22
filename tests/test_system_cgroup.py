"""A service in a real cgroup with a quota of one CPU uses one thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from promptdial.engine import available_cpus
from tests.test_service_process import running

pytestmark = pytest.mark.system

CGROUP = Path("/sys/fs/cgroup")
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
PERIOD_US = 100_000
JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


def make_group(cpus: int) -> Path:
    """A group with a quota, in whichever version has the CPU controller here."""
    if (CGROUP / "cpu").is_dir():  # version 1
        group = CGROUP / "cpu" / f"promptdial-test-{os.getpid()}"
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(cpus * PERIOD_US))
    else:
        (CGROUP / "cgroup.subtree_control").write_text("+cpu")
        group = CGROUP / f"promptdial-test-{os.getpid()}"
        group.mkdir()
        (group / "cpu.max").write_text(f"{cpus * PERIOD_US} {PERIOD_US}")
    return group


@pytest.fixture
def group() -> Iterator[Path]:
    """A group with one CPU; skipped only where the kernel lets this user make none."""
    try:
        made = make_group(1)
    except OSError as error:
        if error.errno not in DENIED:
            raise
        pytest.skip(f"no cgroup can be made here: {error}")
    yield made
    made.rmdir()


@pytest.mark.skipif(
    available_cpus() < 2, reason="one CPU is all that there is: a quota of one changes nothing"
)
def test_a_service_in_a_group_with_one_cpu_decodes_on_one_thread(group: Path, tiny_bundle: Path) -> None:
    variables = {"PROMPTDIAL_BUNDLE": str(tiny_bundle), "PROMPTDIAL_THREADS": ""}  # an empty one is unset
    with running(("sh", "-c", JOIN, str(group)), **variables) as service:
        page = httpx.get(f"{service.address()}/metrics").text
    assert "\npromptdial_engine_threads 1.0\n" in page


def test_a_service_outside_uses_what_there_is(tiny_bundle: Path) -> None:
    with running(PROMPTDIAL_BUNDLE=str(tiny_bundle), PROMPTDIAL_THREADS="") as service:
        page = httpx.get(f"{service.address()}/metrics").text
    assert f"\npromptdial_engine_threads {available_cpus()}.0\n" in page
