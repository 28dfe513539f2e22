"""What README.md promises is there: its request works as pasted, its settings and links are right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.schemas import GenerateRequest, GenerateResponse
from service.settings import Settings
from tests.make_serve import ROOT, make
from tests.service_live import live

README = (ROOT / "README.md").read_text()


def test_the_first_request_is_answered_with_the_fields_that_are_shown(tiny_bundle: Path) -> None:
    """The quick start's curl command and the answer under it."""
    request = re.findall(r"-d '(\{.*?\})'", README, re.DOTALL)[0]
    shown = json.loads(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    with live(create_app(Settings(bundle=tiny_bundle, threads=1))) as client:
        answer = client.post("/generate", content=request, headers={"Content-Type": "application/json"})
    assert answer.status_code == httpx.codes.OK
    assert answer.json().keys() == shown.keys() == GenerateResponse.model_fields.keys()
    for part in ("target", "usage", "timing"):
        assert answer.json()[part].keys() == shown[part].keys()
    assert answer.json()["candidates"][0].keys() == shown["candidates"][0].keys()


@pytest.mark.parametrize("field", GenerateRequest.model_fields)
def test_every_field_of_a_request_is_explained(field: str) -> None:
    assert f"`{field}`" in README


def test_settings_are_listed_with_their_real_defaults(tiny_bundle: Path) -> None:
    defaults = Settings(bundle=tiny_bundle)
    rows = re.findall(r"^\| (`PROMPTDIAL_.*?) \| (.*?) \|", README, re.MULTILINE)
    assert len(rows) >= 8
    for names, values in rows:
        listed = [name.lower() for name in re.findall(r"`PROMPTDIAL_(\w+)`", names)]
        assert set(listed) <= Settings.model_fields.keys()
        for name, value in zip(listed, re.findall(r"`([^`]+)`", values), strict=False):
            if name != "bundle":
                assert str(getattr(defaults, name)).lower() == value.lower(), name


@pytest.mark.small_bundle
def test_links_into_the_repository_lead_somewhere() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    assert links
    assert {link for link in links if not (ROOT / link).exists()} == set()


def test_commands_exist() -> None:
    # Where a command stands: first in a code span, first on a line of a code block. A prompt may say "make", too.
    commands = set(re.findall(r"(?:^|`)make ([a-z]+(?:-[a-z]+)*)", README, re.MULTILINE))
    assert {"serve", "train-small", "export-small"} <= commands
    assert commands <= set(re.findall(r"^  make (\S+)", make().stdout, re.MULTILINE))
