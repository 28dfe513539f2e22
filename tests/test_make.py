"""The Makefile as a person meets it: through a shell, with its messages and exit statuses."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.make_serve import ROOT, make, make_serve

# GNU make ends by the signal it was sent; without one it takes the service's own status, 0.
TERMINATED = {0, -signal.SIGTERM}
INTERRUPTED = {0, -signal.SIGINT}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port: int = probe.getsockname()[1]
        return port


def fake_python(folder: Path, version: str) -> Path:
    """A program that says it is Python `version` and fails every check."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "Python {version}" && exit 0\nexit 1\n')
    program.chmod(0o755)
    return program


def test_make_alone_lists_every_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^\.PHONY: (help .*)$", makefile, re.MULTILINE)[0].split()
    listed = re.findall(r"^  make (\S+) +\S", make().stdout, re.MULTILINE)
    assert sorted(listed) == sorted(commands)
    assert {"serve", "test", "test-system", "check", "train-small", "export-small"} <= set(listed)
    assert make("help").stdout == make().stdout


def test_serve_honours_host_port_and_bundle(tiny_bundle: Path) -> None:
    port = free_port()
    with make_serve(
        PROMPTDIAL_HOST="127.0.0.2", PROMPTDIAL_PORT=str(port), PROMPTDIAL_BUNDLE=str(tiny_bundle)
    ) as running:
        assert running.address() == f"http://127.0.0.2:{port}"
        answer = httpx.post(
            f"{running.address()}/generate", json={"task": "expand", "input": "a fox"}, timeout=30
        )
        assert answer.status_code == httpx.codes.OK
        assert answer.json()["model"].startswith("tiny@")
        assert running.process.poll() is None, "make serve stays in the foreground"


@pytest.mark.small_bundle
def test_serve_without_settings_serves_the_bundle_of_the_repository() -> None:
    with make_serve() as running:
        answer = httpx.post(
            f"{running.address()}/generate", json={"task": "expand", "input": "a fox in the snow"}, timeout=30
        ).json()
        assert answer["model"].startswith("small@")
        assert answer["candidates"][0]["text"]


def test_a_second_serve_installs_nothing(tiny_bundle: Path) -> None:
    with make_serve(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as running:
        running.address()
    assert make("-n", "serve").stdout.splitlines() == ["exec .venv/bin/python -m service"]


@pytest.mark.parametrize(
    ("receiver", "number", "statuses"),
    [
        ("group", signal.SIGTERM, TERMINATED),
        ("group", signal.SIGINT, INTERRUPTED),
        ("make", signal.SIGTERM, TERMINATED),
        ("service", signal.SIGTERM, {0}),
        ("service", signal.SIGINT, {0}),
    ],
)
def test_serve_ends_cleanly(
    receiver: str, number: signal.Signals, statuses: set[int], tiny_bundle: Path
) -> None:
    """A terminal signals the whole group, an init system often make alone, which passes SIGTERM on."""
    with make_serve(PROMPTDIAL_BUNDLE=str(tiny_bundle)) as running:
        address = running.address()
        if receiver == "group":
            os.killpg(running.process.pid, number)
        else:
            os.kill(running.process.pid if receiver == "make" else running.server_pid(), number)
        assert running.wait() in statuses
        assert "Traceback" not in running.output
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/livez")


def test_serve_names_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    ended = make("serve", PROMPTDIAL_BUNDLE=str(tmp_path / "nothing"), PROMPTDIAL_PORT="0")
    assert ended.returncode != 0
    assert str(tmp_path / "nothing") in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_old_python_is_refused_with_the_version_that_is_needed(tmp_path: Path) -> None:
    ended = make("serve", f"VENV={tmp_path}/.venv", f"PYTHON={fake_python(tmp_path, '3.9.2')}")
    assert ended.returncode != 0
    assert "needs Python 3.11 or newer" in ended.stderr
    assert "Python 3.9.2" in ended.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    ended = make("serve", f"VENV={tmp_path}/.venv", "PYTHON=no-such-python")
    assert ended.returncode != 0
    assert "no-such-python was not found" in ended.stderr
