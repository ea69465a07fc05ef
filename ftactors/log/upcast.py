"""How events that an older version of ftactors wrote are read by this one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

Name = tuple[str, int]
"""An event's type and version."""
Document = dict[str, Any]
"""An event as it is stored, `type` and `v` included."""
Upcasters = Mapping[Name, Callable[[Document], Document]]

UPCASTERS: Upcasters = MappingProxyType({})
"""From an event that is no longer known to the one that took its place. None is needed yet.

Each is pure, and stays for ever: what is stored does not change.
"""


def upcast(name: Name, payload: str, known: Collection[Name], upcasters: Upcasters = UPCASTERS) -> str | None:
    """Return the payload of an event as one that is known, step by step; None where no way leads there.

    Args:
        name: Of the event as it is stored.
        payload: The event as it is stored, in JSON.
        known: The events that this version knows.
        upcasters: The steps.
    """
    left = dict(upcasters)
    while name not in known:
        step = left.pop(name, None)  # each is taken once: a circle leads nowhere
        if step is None:
            return None
        document = step(json.loads(payload))
        name, payload = (document["type"], document["v"]), json.dumps(document)
    return payload
