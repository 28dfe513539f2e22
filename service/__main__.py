"""Run the service: `python -m service`, configured by `PROMPTDIAL_*` variables (see `service/settings.py`).

The signal handlers come before the imports: loading the libraries takes longer than an impatient Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave(signum: int, frame: FrameType | None) -> NoReturn:
    """End the process at once: until the server takes over the signals, nothing is in flight.

    No clean-up, during which a second signal would be reported as a crash.
    """
    os._exit(0)


if __name__ == "__main__":
    for each in SIGNALS:
        signal.signal(each, leave)
    from service.server import main

    sys.exit(main())
