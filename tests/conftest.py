"""Fixtures that tests of several parts share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """A bundle of a tiny random model; torch, which makes it, is loaded only where it is used."""
    from tests.tiny import tiny_bundle as make  # noqa: PLC0415

    return make()
