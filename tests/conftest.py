"""Fixtures that tests of several parts share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no limit on the time of one: a busy machine fails no test.
settings.register_profile("promptdial", derandomize=True, deadline=None)
settings.load_profile("promptdial")

# A shell has its background jobs ignore Ctrl-C; what the tests start, and interrupt, would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """A bundle of a tiny random model; torch, which makes it, is loaded only where it is used."""
    from tests.tiny import tiny_bundle as make  # noqa: PLC0415

    return make()
