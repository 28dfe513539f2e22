"""The commands of docs/api.md and of the OpenAPI page work as they are."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.metrics import Metrics
from service.schemas import GenerateRequest
from service.settings import Settings
from tests.service_live import live

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
BASE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[httpx.Client]:
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        yield client


def commands(text: str) -> list[str]:
    """The shell blocks of a Markdown text."""
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def send(client: httpx.Client, command: str) -> httpx.Response:
    """Do what a curl command does, with the client's address in place of the default one."""
    words = iter(shlex.split(command.replace("\\\n", " ")))
    assert next(words) == "curl"
    url, data, headers = "", None, {}
    for word in words:
        match word:
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d":
                data = next(words)
            case "-D":
                assert next(words) == "-"
            case "-sS" | "-sSN":
                pass
            case _:
                assert word.startswith(f"{BASE}/")
                url = word.removeprefix(BASE)
    return client.request("GET" if data is None else "POST", url, content=data, headers=headers)


@pytest.mark.parametrize("command", commands(PAGE))
def test_every_command_of_the_page_works(client: httpx.Client, command: str) -> None:
    response = send(client, command)
    expected = 422 if '"reject"' in command else 200
    assert response.status_code == expected, response.text


def test_every_command_of_the_openapi_page_works(client: httpx.Client) -> None:
    page = client.get("/openapi.json").json()
    found = commands(page["paths"]["/generate"]["post"]["description"])
    assert len(found) >= 2
    for command in found:
        response = send(client, command)
        assert "event: done" in response.text if "-sSN" in command else response.json()["candidates"]


def test_the_page_lists_every_field_of_a_request() -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE))
    assert set(GenerateRequest.model_fields) <= documented


def test_the_page_lists_every_metric() -> None:
    documented = set(re.findall(r"`(promptdial_\w+)`", PAGE))
    exposed = re.findall(r"^# TYPE (promptdial_\w+) ", Metrics().render().decode(), re.MULTILINE)
    assert set(exposed) == documented


def test_the_pages_answers_are_json() -> None:
    for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        json.loads(block)
