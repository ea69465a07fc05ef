"""Database URLs, and what of them may be told."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(?<=://)([^:/@]*):.*@")
_PARAMETER = re.compile(r"(?<=[?&])(password|sslpassword)=[^&]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """Return a URL with `***` in the place of its password: for the log, for messages, for all that is shown."""
    return _PARAMETER.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", url))
