"""What is installed where: the wheel, the extras and the locked requirements."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pathspec import PathSpec

from promptdial import __version__

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
# The extras that each lock was resolved from.
EXTRAS = {"serve": ["serve"], "gpu": ["gpu"], "dev": ["serve", "train", "export", "loadtest", "dev"]}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    section: dict[str, Any] = configuration["project"]
    return section


def locked(name: str) -> dict[str, str]:
    """Package → version of one lock, whatever its marker says."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def required(project: dict[str, Any], extras: list[str]) -> Iterator[Requirement]:
    for group in [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]:
        yield from (Requirement(line) for line in group)


def test_the_wheel_holds_promptdial_and_service_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"promptdial", "service"}
    assert {"promptdial/engine/__init__.py", "service/__main__.py"} <= set(names)
    assert not [name for name in names if name.endswith((".onnx", ".safetensors"))]


def test_no_package_index_takes_an_upload(project: dict[str, Any]) -> None:
    assert "Private :: Do Not Upload" in project["classifiers"]


@pytest.mark.parametrize("package", ["torch", "transformers", "onnx", "pyarrow", "matplotlib", "locust"])
@pytest.mark.parametrize("lock", ["serve", "gpu"])
def test_serving_installs_nothing_of_training(lock: str, package: str) -> None:
    assert package not in locked(lock)


def test_serve_and_gpu_never_install_two_onnx_runtimes() -> None:
    assert "onnxruntime-gpu" not in locked("serve")
    assert "onnxruntime" not in locked("gpu")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_requirements_name_no_host_no_index_and_no_folder(lock: Path) -> None:
    suspicious = re.compile(
        r"://|--index|--extra-index|--find-links|--trusted-host| @ |^-f|^-i|file:", re.MULTILINE
    )
    assert not suspicious.findall(lock.read_text())


@pytest.mark.parametrize("name", EXTRAS)
def test_every_locked_package_has_hashes(name: str) -> None:
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements" / f"{name}.txt").read_text().strip())
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_holds_a_fitting_version_of_all_that_its_extras_ask_for(
    name: str, project: dict[str, Any]
) -> None:
    versions = locked(name) | locked("torch")
    for requirement in required(project, EXTRAS[name]):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_locks_agree_so_that_serve_and_test_can_share_an_environment() -> None:
    everything = locked("dev")
    assert {name: everything.get(name) for name in locked("serve")} == locked("serve")


def test_torch_is_pinned_alone() -> None:
    assert locked("torch").keys() == {"torch"}
    assert "torch" not in locked("dev")


@pytest.fixture(scope="module")
def build_context() -> list[str]:
    """The repository's files that `docker build` sends: what .dockerignore leaves over."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    ignored = PathSpec.from_lines("gitignore", (ROOT / ".dockerignore").read_text().splitlines())
    return [name for name in listed.stdout.splitlines() if not ignored.match_file(name)]


def test_the_build_context_holds_what_the_dockerfile_copies_and_little_else(build_context: list[str]) -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    sources = {line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line}
    assert {"promptdial", "service", "models/small", "requirements/serve.txt"} <= sources
    taken = {
        source: {name for name in build_context if Path(name).is_relative_to(source)} for source in sources
    }
    assert [source for source in sources if not taken[source]] == []
    assert set().union(*taken.values()) == set(build_context)


def test_the_build_context_holds_no_training_checkpoint(build_context: list[str]) -> None:
    assert "models/small/bundle.json" in build_context
    assert [name for name in build_context if "checkpoint" in name or name.endswith(".safetensors")] == []


def test_the_image_is_labelled_with_the_version_of_the_package() -> None:
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
