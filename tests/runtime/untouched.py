"""A template in which whoever asks for a CUDA device fails: `python -m tests.runtime.untouched AGENT NAME MODULES…`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from ftactors.runtime.template import main

ASKING = (
    "is_available",
    "device_count",
    "current_device",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "is_bf16_supported",
    "mem_get_info",
    "synchronize",
    "init",
    "_lazy_init",
)
TEMPLATE = os.getpid()


def _forbidden(ask: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(ask)
    def forbidden(*arguments: Any, **options: Any) -> Any:
        if os.getpid() == TEMPLATE:  # its children may
            raise AssertionError(f"torch.cuda.{ask.__name__} was called before a fork")
        return ask(*arguments, **options)

    return forbidden


if __name__ == "__main__":
    for name in ASKING:
        setattr(torch.cuda, name, _forbidden(getattr(torch.cuda, name)))
    main()
