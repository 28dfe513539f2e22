"""What figures belong to: hardware, versions, commit, the bundle and its settings; and who used the CPU meanwhile."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from typing import Any

import httpx

from loadtest.latency import LoadError, build, commit, described_model, hardware, versions
from loadtest.peers.comparison import busy_s

CPU_SECONDS = re.compile(r"^process_cpu_seconds_total (\S+)", re.MULTILINE)
RESIDENT_BYTES = re.compile(r"^process_resident_memory_bytes (\S+)", re.MULTILINE)


def described(url: str, started_here: bool) -> dict[str, Any]:
    """Of the service at `url`, before the load. Raises LoadError where it can't be had."""
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            served = {"model": described_model(client), "build": build(client)}
    except httpx.TransportError as error:
        raise LoadError(
            f"{url} does not answer ({error}). Is it running? Start it with: make serve"
        ) from None
    settings = {name: value for name, value in os.environ.items() if name.startswith("PROMPTDIAL_")}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
        "served": served,
        "bundle": served["model"].get("id"),
        "threads": served["model"].get("threads"),
        "settings": settings if started_here else "of a service that ran already: its log has them",
        "shared": "the generator ran on the same machine as the service and took its share of the cores"
        if started_here or "127.0.0.1" in url
        else "the generator may have run on another machine than the service",
    }


class CpuWatch:
    """Cores that the service, this process and all others used since the watch was made."""

    def __init__(self, page: str) -> None:
        """`page`: the service's metrics, as they are now."""
        self._begun, self._own, self._busy = time.perf_counter(), time.process_time(), busy_s()
        self._service = _first(CPU_SECONDS, page)

    def cores(self, page: str) -> dict[str, float | None]:
        """By whom; None where the service doesn't say. `page`: its metrics, as they are now."""
        seconds = time.perf_counter() - self._begun
        own, busy = time.process_time() - self._own, busy_s() - self._busy
        service = _first(CPU_SECONDS, page) - self._service
        memory = _first(RESIDENT_BYTES, page)
        return {
            "service": round(service / seconds, 3),
            "generator": round(own / seconds, 3),
            "others": round(max(0.0, busy - own - service) / seconds, 3),
            "service_rss_mb": round(memory / 1e6, 1),
        }


def _first(pattern: re.Pattern[str], page: str) -> float:
    found = pattern.search(page)
    return float(found[1]) if found else 0.0
