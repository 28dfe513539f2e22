"""Rising numbers of users for Locust, each for as long: `-f loadtest/locustfile.py,loadtest/stages.py`."""

from __future__ import annotations

from typing import Any

from locust import LoadTestShape

PARTS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)  # of the peak
SPAWN_S = 1.0  # in which a stage's users come


class Stages(LoadTestShape):
    """`--peak-users` in the last stage, `--test-seconds` for all of them."""

    runner: Any = None
    over = False

    def tick(self) -> tuple[int, float] | None:
        """Users now and how many of them come in a second; None at the end."""
        options = self.runner.environment.parsed_options
        run_s = self.get_run_time()  # type: ignore[no-untyped-call]  # locust has no annotation there
        place = int(run_s / (options.test_seconds / len(PARTS)))
        if place >= len(PARTS):
            self.over = True
            return None
        users = max(1, round(PARTS[place] * options.peak_users))
        return users, max(1.0, users / SPAWN_S)
