"""What deploy/ and the Dockerfile say of the service: targets, settings, probes and ports that it really has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from service.app import create_app
from service.settings import Settings, unknown_variables
from tests.make_serve import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONFINED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


@pytest.fixture(scope="module")
def compose() -> dict[str, dict[str, Any]]:
    """Name → service of deploy/compose.yaml."""
    services: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())[
        "services"
    ]
    return services


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, dict[str, Any]]:
    """Kind → object of deploy/kubernetes."""
    objects = yaml.safe_load_all((ROOT / "deploy/kubernetes/promptdial.yaml").read_text())
    return {each["kind"]: each for each in objects}


def test_every_container_of_compose_is_confined_and_limited(compose: dict[str, dict[str, Any]]) -> None:
    for name, service in compose.items():
        assert {key: service[key] for key in CONFINED} == CONFINED, name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_compose_builds_targets_that_the_dockerfile_has(compose: dict[str, dict[str, Any]]) -> None:
    targets = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    built = [service["build"]["target"] for service in compose.values() if "build" in service]
    assert built == ["cpu", "cuda"]
    assert set(built) <= set(targets)
    assert targets[-1] == "cpu", "the last target is the one that a plain `docker build` makes"


def test_only_settings_that_exist_are_set(
    compose: dict[str, dict[str, Any]], kubernetes: dict[str, dict[str, Any]]
) -> None:
    (container,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    texts = [*compose["promptdial"]["environment"], *(each["name"] for each in container["env"])]
    texts += re.findall(r"\bPROMPTDIAL_[A-Z_]+(?==)", DOCKERFILE)
    assert len(texts) >= 4
    assert unknown_variables(dict.fromkeys(texts, "")) == []


def test_probes_ask_routes_and_ports_that_the_service_has(
    kubernetes: dict[str, dict[str, Any]], tiny_bundle: Path
) -> None:
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    paths = set(create_app(Settings(bundle=tiny_bundle)).openapi()["paths"])
    probes = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert set(probes) == {"startupProbe", "readinessProbe", "livenessProbe"}
    assert {probe["path"] for probe in probes.values()} <= paths
    assert container["ports"] == [{"name": "http", "containerPort": Settings(bundle=tiny_bundle).port}]
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_an_orchestrator_waits_longer_than_the_service_drains(
    compose: dict[str, dict[str, Any]], kubernetes: dict[str, dict[str, Any]], tiny_bundle: Path
) -> None:
    """Otherwise a request that was admitted is cut off by a SIGKILL."""
    drain_s = Settings(bundle=tiny_bundle).shutdown_timeout_ms / 1000
    assert float(compose["promptdial"]["stop_grace_period"].removesuffix("s")) > drain_s
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    pause_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > drain_s + pause_s


def test_kubernetes_gives_the_pod_no_variable_that_looks_like_a_setting(
    kubernetes: dict[str, dict[str, Any]],
) -> None:
    """For a Service named promptdial it sets PROMPTDIAL_PORT to an address, which is no port."""
    assert kubernetes["Service"]["metadata"]["name"] == "promptdial"
    assert kubernetes["Deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False
