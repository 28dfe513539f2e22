"""Wait until a starting service is ready, then ask it for one prompt: ``python .ci/ask.py URL PID``.

Standard library only: when this runs first, nothing has been installed but the service itself. Fails at
once where the process PID is gone, and after five minutes (the bar for a first start) otherwise.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request

FIRST_START_S = 300
POLL_S = 0.1


def wait_ready(url: str, pid: int) -> float:
    """Seconds until ``/readyz`` answered 200."""
    started = time.monotonic()
    while time.monotonic() - started < FIRST_START_S:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            sys.exit("make serve ended before the service was ready")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return time.monotonic() - started
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    sys.exit(f"{url}/readyz was not ready within {FIRST_START_S} s")


def ask(url: str) -> str:
    """The text that the service writes for one input."""
    body = json.dumps({"task": "expand", "input": "a fox in the snow", "seed": 7}).encode()
    request = urllib.request.Request(
        f"{url}/generate", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["candidates"][0]["text"])


def main() -> None:
    """Print how long readiness took and what was answered; an empty answer is a failure."""
    url, pid = sys.argv[1], int(sys.argv[2])
    print(f"ready after {wait_ready(url, pid):.1f} s")
    text = ask(url)
    print(text)
    if not text:
        sys.exit("the service answered with an empty prompt")


if __name__ == "__main__":
    main()
