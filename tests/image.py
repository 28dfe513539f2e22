"""A real build and real containers for tests/test_image.py: podman, and a base that is made here.

Where no registry can be reached, the Dockerfile's base is replaced by a minimal Debian with Python and pip, which
mmdebstrap makes; pip inside the build asks the same index as pip outside. Everything lies in one folder, which
goes at the end, with the containers, also after a failure or Ctrl-C. `make image-check` shows the progress.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.make_serve import ROOT

SUITE = "bookworm"
PACKAGES = "python3,python3-pip,ca-certificates"
BUILD_S = 1500.0
COMMAND_S = 120.0
POLL_S = 0.1


def step(text: str) -> None:
    """Say what is being done, for whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Podman:
    """podman with its storage in `folder`, beside which the machine's own containers are untouched."""

    def __init__(self, folder: Path) -> None:
        self.prefix = [
            "podman",
            *("--root", str(folder / "storage"), "--runroot", str(folder / "run")),
            *("--tmpdir", str(folder / "libpod"), "--runtime", "runc", "--cgroup-manager", "cgroupfs"),
        ]

    def __call__(self, *arguments: str, timeout_s: float = COMMAND_S, check: bool = True) -> str:
        """Standard output of one command; with `check`, a failure carries what the command said."""
        done = subprocess.run(
            [*self.prefix, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        said = f"podman {shlex.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, said
        return done.stdout.strip()

    def status(self, *arguments: str) -> int:
        """The exit status of one command."""
        return subprocess.run(
            [*self.prefix, *arguments], capture_output=True, timeout=COMMAND_S, check=False
        ).returncode

    def inspect(self, image: str) -> dict[str, Any]:
        """What podman knows of an image; sizes are in bytes."""
        (found,) = json.loads(self("image", "inspect", image))
        assert isinstance(found, dict)
        return found


@contextmanager
def podman_in_a_folder() -> Iterator[tuple[Podman, Path]]:
    """podman and a folder to work in; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="promptdial-image-", dir="/var/tmp"))
    folder.chmod(0o755)  # apt downloads as a user of its own
    podman = Podman(folder)
    try:
        yield podman, folder
    finally:
        podman("rm", "--all", "--force", "--time", "0", check=False)
        step("removing what was built")
        unmount_under(folder)
        shutil.rmtree(folder)


def unmount_under(folder: Path) -> None:
    """What a build that was interrupted left mounted, the last one first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if Path(point).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", point], check=True)


def make_base(podman: Podman, folder: Path) -> str:
    """An image with Python and pip and nothing else of use; returns its name."""
    archive = folder / "base.tar"
    step(f"making a base of Debian {SUITE} and its python3 (about 2 minutes)")
    options = ("--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", f"--include={PACKAGES}")
    inside = {**os.environ, "TMPDIR": str(folder)}  # so that nothing is left elsewhere when it is interrupted
    subprocess.run(["mmdebstrap", *options, SUITE, str(archive)], env=inside, timeout=BUILD_S, check=True)
    podman("import", "--quiet", str(archive), "base", timeout_s=BUILD_S)
    archive.unlink()
    return "localhost/base:latest"


def pip_settings() -> dict[str, dict[str, str]]:
    """Section → option → value of pip on this machine, its `PIP_*` variables in the section `global`."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    sections: dict[str, dict[str, str]] = {}
    for section, option, value in re.findall(r"^(:env:|[\w-]+)\.([\w-]+)=(.+)$", listed, re.MULTILINE):
        name = "global" if section == ":env:" else section
        sections.setdefault(name, {})[option] = ast.literal_eval(value)
    return sections


def pip_for_the_build(folder: Path) -> list[str]:
    """Arguments of a build that let its pip work as pip here does: a secret, and the paths that it names."""
    sections = pip_settings()
    secret = folder / "pip.conf"
    secret.write_text(
        "".join(
            f"[{section}]\n"
            + "".join(f"{option} = {continued(value)}\n" for option, value in options.items())
            for section, options in sections.items()
        )
    )
    words = [word for options in sections.values() for value in options.values() for word in value.split()]
    paths = {word.removeprefix("file://") for word in words}
    mounted = sorted(path for path in paths if path.startswith("/") and Path(path).exists())
    volumes = [f"--volume={path}:{path}:ro" for path in map(real_parent, mounted)]
    return [f"--secret=id=pip,src={secret}", *dict.fromkeys(volumes)]


def continued(value: str) -> str:
    """A value of several lines as a configuration file wants it."""
    return value.strip().replace("\n", "\n    ")


def real_parent(path: str) -> str:
    """A `simple` index on the disk links to files beside it: then the folder above is what pip needs."""
    return str(Path(path).parent) if Path(path).name == "simple" else path


def build(podman: Podman, folder: Path, base: str, target: str, **arguments: str) -> str:
    """Build one target of the Dockerfile over `base`; returns the image's name."""
    step(f"building the target {target} (pip installs the service)")
    name = f"localhost/promptdial:{target}"
    given = [f"--build-arg={key}={value}" for key, value in {"PYTHON_IMAGE": base, **arguments}.items()]
    podman(
        *("build", "--isolation", "chroot", "--format", "docker", "--network", "host", "--pull=never"),
        *(*pip_for_the_build(folder), *given, "--target", target, "--tag", name, str(ROOT)),
        timeout_s=BUILD_S,
    )
    return name


class Container:
    """A running container of the service, with the limits that docs/operating.md recommends."""

    def __init__(self, podman: Podman, image: str, *options: str, **variables: str) -> None:
        self.podman = podman
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{port}"
        settings = {"PROMPTDIAL_HOST": "127.0.0.1", "PROMPTDIAL_PORT": port, **variables}
        self.id = podman(
            *("run", "--detach", "--network", "host", "--read-only", "--read-only-tmpfs=false"),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "512m"),
            # What the machine allows: podman's own limits are higher than some machines' hard ones.
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--no-healthcheck"),
            *(f"--env={name}={value}" for name, value in settings.items()),
            *(*options, image),
        )

    def execute(self, *command: str) -> str:
        """Standard output of a command inside."""
        return self.podman("exec", self.id, *command)

    def running(self) -> bool:
        """Whether its process is there."""
        return self.podman("inspect", "--format", "{{.State.Running}}", self.id) == "true"

    def logs(self) -> str:
        """What the service wrote, on both streams."""
        done = subprocess.run(
            [*self.podman.prefix, "logs", self.id],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=True,
        )
        return done.stdout

    def wait_ready(self) -> float:
        """Seconds until `/readyz` said yes."""
        begun = time.monotonic()
        while time.monotonic() - begun < COMMAND_S:
            try:
                if httpx.get(f"{self.address}/readyz", timeout=5).is_success:
                    return time.monotonic() - begun
            except httpx.TransportError:
                assert self.running(), f"the container ended:\n{self.logs()}"
            time.sleep(POLL_S)
        raise AssertionError(f"the container was not ready within {COMMAND_S:.0f} s:\n{self.logs()}")

    def signal(self, name: str) -> None:
        """Send a signal to the container's first process, as `docker stop` does."""
        self.podman("kill", "--signal", name, self.id)

    def wait(self) -> int:
        """Its exit status."""
        return int(self.podman("wait", self.id))

    def remove(self) -> None:
        """End it now."""
        self.podman("rm", "--force", "--time", "0", self.id)


def write_report(figures: dict[str, Any]) -> None:
    """Print the figures, and write them to the file that `IMAGE_REPORT` names."""
    text = json.dumps(figures, indent=2)
    step(text)
    if target := os.environ.get("IMAGE_REPORT"):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(text + "\n")
