"""Settings: from the environment, checked, frozen, logged without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import Settings, describe_invalid, unknown_variables


def test_settings_come_from_prefixed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTDIAL_PORT", "9000")
    monkeypatch.setenv("PROMPTDIAL_BUNDLE", "/bundles/mine")
    monkeypatch.setenv("PORT", "1")
    settings = Settings()
    assert (settings.port, settings.bundle) == (9000, Path("/bundles/mine"))


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1


def test_a_wrong_setting_is_named_by_its_variable_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTDIAL_PORT", "hunter2")
    monkeypatch.setenv("PROMPTDIAL_DEVICE", "abacus")
    with pytest.raises(ValidationError) as caught:
        Settings()
    text = describe_invalid(caught.value)
    assert "PROMPTDIAL_PORT: " in text
    assert "PROMPTDIAL_DEVICE: Input should be 'cpu' or 'cuda'" in text
    assert "hunter2" not in text


def test_a_default_timeout_past_the_longest_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTDIAL_MAX_REQUEST_TIMEOUT_MS", "5000")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert describe_invalid(caught.value) == (
        "PROMPTDIAL_REQUEST_TIMEOUT_MS is 10000, more than PROMPTDIAL_MAX_REQUEST_TIMEOUT_MS, 5000"
    )


def test_more_candidates_than_can_be_decoded_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTDIAL_SLOTS", "8")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert describe_invalid(caught.value) == "PROMPTDIAL_MAX_N is 16, more than PROMPTDIAL_SLOTS, 8"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    unset = Settings()
    for name in ("BUNDLE", "PORT", "THREADS"):
        monkeypatch.setenv(f"PROMPTDIAL_{name}", "")
    assert Settings() == unset


def test_a_variable_that_sets_nothing_is_found_unless_training_reads_it() -> None:
    environment = {
        "PROMPTDIAL_PORT": "1",
        "PROMPTDIAL_PROT": "1",
        "PROMPTDIAL_DATA_DIR": "/data",
        "PATH": "/bin",
    }
    assert unknown_variables(environment) == ["PROMPTDIAL_PROT"]


def test_a_secret_is_hidden_where_settings_are_logged() -> None:
    class WithSecret(Settings):
        api_key: SecretStr = SecretStr("hunter2")

    assert "hunter2" not in str(WithSecret().model_dump(mode="json"))
