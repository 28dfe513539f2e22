"""The service's configuration: read once from `PROMPTDIAL_*` variables, frozen, logged, passed down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from promptdial.relevance import default_bundle

PREFIX = "PROMPTDIAL_"
ELSEWHERE = frozenset({"PROMPTDIAL_DATA_DIR"})  # read by training, which may share the environment


class Settings(BaseSettings):
    """Every setting with its unit in its name. `PROMPTDIAL_PORT=9000` sets `port`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="for /metrics alone; left out: on the main port"
    )
    bundle: Path = Field(default_factory=default_bundle)

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = Field(
        default=None, ge=1, description="of the decoder; left out: what affinity and quota allow"
    )
    slots: int = Field(default=16, ge=1, le=256, description="sequences that are decoded at once, at most")
    kv_positions: int | None = Field(
        default=None, ge=32, description="tokens of a sequence, prompt included; left out: the model's most"
    )
    prefill_pause: float = Field(
        default=2.0,
        ge=1,
        le=1000,
        description="how long running sequences may wait for others' prompts, in steps",
    )
    queue_limit: int = Field(default=64, ge=0, description="requests that may wait; one more is answered 429")
    max_n: int = Field(default=16, ge=1, le=256, description="candidates that one request may ask for")

    request_timeout_ms: int = Field(
        default=10_000, ge=1, description="of a request that names no `timeout_ms`"
    )
    max_request_timeout_ms: int = Field(
        default=120_000, ge=1, description="the longest `timeout_ms` that is taken"
    )
    max_body_bytes: int = Field(default=65_536, ge=1)

    stall_limit_ms: int = Field(
        default=10_000, ge=1, description="an engine without a heartbeat this long counts as hung"
    )
    drain_delay_ms: int = Field(
        default=0, ge=0, description="red readiness before the listener closes, for load balancers"
    )
    shutdown_timeout_ms: int = Field(
        default=120_000, ge=1000, description="for admitted requests; then they are cancelled"
    )
    keep_alive_ms: int = Field(
        default=15_000, ge=1, description="a stream without news this long gets a comment"
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_prompts: bool = Field(default=False, description="inputs and texts into the log")

    @model_validator(mode="after")
    def _default_timeout_is_taken(self) -> Self:
        """Otherwise every request that names no timeout would be refused for one."""
        if self.request_timeout_ms > self.max_request_timeout_ms:
            raise ValueError(
                f"{PREFIX}REQUEST_TIMEOUT_MS is {self.request_timeout_ms}, "
                f"more than {PREFIX}MAX_REQUEST_TIMEOUT_MS, {self.max_request_timeout_ms}"
            )
        return self

    @model_validator(mode="after")
    def _largest_n_fits(self) -> Self:
        """All candidates of a request are decoded at once."""
        if self.max_n > self.slots:
            raise ValueError(f"{PREFIX}MAX_N is {self.max_n}, more than {PREFIX}SLOTS, {self.slots}")
        return self


def describe_invalid(error: ValidationError) -> str:
    """What is wrong with the environment, a line for each thing, without bad values (one may be a secret)."""
    return "\n".join(
        f"{PREFIX}{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
        if item["loc"]
        else item["msg"].removeprefix("Value error, ")  # of variables that don't fit together; it names them
        for item in error.errors()
    )


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names of `PROMPTDIAL_*` variables that set nothing: most likely typed wrong."""
    known = ELSEWHERE | {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known
    )
