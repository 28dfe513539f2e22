"""The image: built from the Dockerfile, run as a container with a read-only root, asked, and ended.

`make image-check` runs this file alone, with its progress; figures go to the file that `IMAGE_REPORT` names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from promptdial import __version__
from tests.image import (
    Container,
    Podman,
    build,
    make_base,
    pip_settings,
    podman_in_a_folder,
    step,
    write_report,
)
from tests.make_serve import ROOT

pytestmark = [pytest.mark.system, pytest.mark.small_bundle]

MIB = 1 << 20
ANSWER_S = 120.0
QUESTION = {"task": "expand", "input": "a fox in the snow", "target_length": 40, "seed": 2}
# Keeps the engine busy for seconds.
LONG = {
    "task": "expand",
    "input": "a fox",
    "n": 16,
    "max_tokens": 120,
    "temperature": 2,
    "timeout_ms": 120_000,
}


@dataclass
class Image:
    """The built target `cpu`, and what was measured of it."""

    podman: Podman
    name: str
    base: str
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with podman_in_a_folder() as (podman, folder):
        begun = time.monotonic()
        base = make_base(podman, folder)
        made = time.monotonic()
        name = build(podman, folder, base, "cpu", REVISION="0123abc")
        built = time.monotonic()
        sizes = {each: podman.inspect(each)["Size"] / MIB for each in (base, name)}
        figures = {
            "base_mib": round(sizes[base], 1),
            "image_mib": round(sizes[name], 1),
            "over_base_mib": round(sizes[name] - sizes[base], 1),
            "make_base_s": round(made - begun, 1),
            "build_s": round(built - made, 1),
        }
        yield Image(podman, name, base, figures)
        figures["seconds"] = round(time.monotonic() - begun, 1)
        write_report(figures)


@pytest.fixture(scope="module")
def container(image: Image) -> Iterator[Container]:
    step("starting a container")
    started = Container(image.podman, image.name)
    image.figures["ready_s"] = round(started.wait_ready(), 2)
    yield started
    image.figures["memory_peak_mib"] = round(memory_peak(started) / MIB, 1)
    started.remove()


def memory_peak(container: Container) -> int:
    """Bytes of memory that the service's process held at most."""
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB", container.execute("cat", "/proc/1/status"), re.MULTILINE)
    return int(kib) * 1024


def health_check(image: Image) -> list[str]:
    """The command that the image names."""
    kind, *command = image.podman.inspect(image.name)["Healthcheck"]["Test"]
    assert kind == "CMD", "a shell would stand between"
    return [str(word) for word in command]


def test_a_request_is_answered_from_a_read_only_root(container: Container) -> None:
    answer = httpx.post(f"{container.address}/generate", json=QUESTION, timeout=ANSWER_S)
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["model"].startswith("small@")
    assert answer.json()["candidates"][0]["text"]
    attempt = container.execute("sh", "-c", "touch /app/x /tmp/x /var/tmp/x 2>&1 || true")
    assert attempt.count("Read-only file system") == 3


def test_the_service_is_no_root_and_has_no_rights(container: Container) -> None:
    assert container.execute("id", "-u") == "10001"
    status = container.execute("cat", "/proc/1/status")
    assert re.findall(r"^Uid:\s+(\d+)", status, re.MULTILINE) == ["10001"]
    assert set(re.findall(r"^Cap(?:Prm|Eff|Bnd):\s+(\w+)", status, re.MULTILINE)) == {"0" * 16}


def test_the_health_check_tells_a_service_from_none(image: Image, container: Container) -> None:
    command = health_check(image)
    assert image.podman.status("exec", container.id, *command) == 0
    assert image.podman.status("exec", "--env", "PROMPTDIAL_PORT=1", container.id, *command) != 0


def test_torch_pip_and_the_checkpoint_stay_outside(container: Container) -> None:
    missing = (
        "import importlib.util as u; print([n for n in ('torch', 'pip', 'onnxruntime') if u.find_spec(n)])"
    )
    assert container.execute("python", "-c", missing) == "['onnxruntime']"
    files = container.execute("find", "/app", "-type", "f").split()
    assert "/app/models/small/bundle.json" in files
    assert [name for name in files if "checkpoint" in name or name.endswith((".safetensors", ".pyc"))] == []


def test_the_image_says_what_it_is(image: Image) -> None:
    labels = image.podman.inspect(image.name)["Labels"]
    prefix = "org.opencontainers.image."
    found = {key.removeprefix(prefix): labels[key] for key in labels if key.startswith(prefix)}
    assert found["version"] == __version__
    assert (found["revision"], found["licenses"]) == ("0123abc", "Apache-2.0")


def test_the_image_adds_the_packages_and_the_code_to_its_base_and_nothing_else(image: Image) -> None:
    """No pip configuration, no cache, no folder that only the build saw."""
    lines = image.podman("diff", image.name, image.base).splitlines()
    added = {line.split(maxsplit=1)[1] for line in lines if not line.startswith("C ")}
    roots = {path for path in added if str(Path(path).parent) not in added}
    assert roots == {"/app", "/opt/venv"}


def test_the_image_does_not_tell_pips_settings(image: Image) -> None:
    told = image.podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.name)
    told += str(image.podman.inspect(image.name)["Config"])
    values = {value for options in pip_settings().values() for value in options.values()}
    places = {word for value in values for word in value.split() if "/" in word}
    assert [place for place in places if place in told] == []


def test_a_mounted_bundle_is_served_as_the_environment_says(
    image: Image, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for path in (bundle, *bundle.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    other = Container(image.podman, image.name, f"--volume={bundle}:/bundle:ro", PROMPTDIAL_BUNDLE="/bundle")
    other.wait_ready()
    assert httpx.get(f"{other.address}/model").json()["name"] == "tiny"
    other.remove()


def test_cuda_without_cuda_ends_with_the_reason(image: Image) -> None:
    other = Container(image.podman, image.name, PROMPTDIAL_DEVICE="cuda")
    assert other.wait() == 1
    assert "device 'cuda' was asked for" in other.logs()
    other.remove()


def test_sigterm_lets_requests_in_flight_be_answered(image: Image) -> None:
    """Half a processor, so that they are still in flight when the signal has arrived."""
    step("ending a container with requests in flight")
    other = Container(image.podman, image.name, "--cpus=0.5")
    other.wait_ready()
    with ThreadPoolExecutor(4) as threads:
        answers = [
            threads.submit(httpx.post, f"{other.address}/generate", json=LONG, timeout=ANSWER_S)
            for _ in range(4)
        ]
        wait_admitted(other, answers)
        other.signal("TERM")
        readiness = httpx.get(f"{other.address}/readyz", timeout=ANSWER_S)
        while readiness.is_success:  # the signal is on its way
            readiness = httpx.get(f"{other.address}/readyz", timeout=ANSWER_S)
        assert readiness.json()["reason"] == "the server is shutting down"
        assert [answer.result(ANSWER_S).status_code for answer in answers] == [200] * 4
    assert other.wait() == 0
    assert "Traceback" not in other.logs()
    other.remove()


def wait_admitted(container: Container, answers: list[Future[httpx.Response]]) -> None:
    """Until the engine holds every request: 16 candidates of one are decoded, the other requests wait."""
    while not any(answer.done() for answer in answers):
        page = httpx.get(f"{container.address}/metrics", timeout=ANSWER_S).text
        if re.search(r"^promptdial_waiting_requests 3", page, re.MULTILINE):
            return
    raise AssertionError("a request was answered before the last one was admitted")


def test_docker_compose_takes_the_compose_file() -> None:
    """Its own parser and schema; no engine is asked."""
    checked = subprocess.run(
        ["docker-compose", "--file", "deploy/compose.yaml", "--profile", "gpu", "config"],
        cwd=ROOT,
        env={**os.environ, "REVISION": "0123abc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    for service in ("promptdial", "promptdial-gpu", "prometheus", "grafana"):
        assert re.search(rf"^  {service}:$", checked.stdout, re.MULTILINE)
