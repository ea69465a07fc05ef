"""Who asks, for the log."""

from __future__ import annotations

import os


def whoami() -> str:
    """Return user, host and process."""
    return f"{os.environ.get('USER') or os.getuid()}@{os.uname().nodename}:{os.getpid()}"
