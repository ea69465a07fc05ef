"""A share of a GPU, as torch's CUDA allocator is told to keep to it.

The allocator takes no more of the device than a fraction of its memory. What is not allocated by torch is not counted:
the CUDA context (some hundred MB a process), NCCL's buffers, memory that bitsandbytes pages. Ray itself limits nothing.

Source: `c10/cuda/CUDAAllocatorConfig.h` of torch 2.13 for the names of the variables, and which of them is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Torch reads the first one that is set; the last one is today's name."""
_WHOLE = 1000
_FRACTION = re.compile(r"(^|,)\s*per_process_memory_fraction\s*:\s*([^,\s]*)\s*")


def allocator_settings(environment: Mapping[str, str], gpu_thousandths: int) -> dict[str, str]:
    """Return the variables to change so that a process takes no more than its share of a GPU: one, or none."""
    if not 0 < gpu_thousandths < _WHOLE:
        return {}
    name = next((variable for variable in VARIABLES if variable in environment), VARIABLES[-1])
    return {name: allocator_conf(environment.get(name), gpu_thousandths)}


def allocator_conf(existing: str | None, gpu_thousandths: int) -> str:
    """Return the allocator's settings with the share merged in, unless they ask for less; of a whole GPU, as they are.

    Args:
        existing: What the user has set, such as `expandable_segments:True`.
        gpu_thousandths: The share.
    """
    settings = (existing or "").strip(" ,")
    if not 0 < gpu_thousandths < _WHOLE:
        return settings
    share = gpu_thousandths / _WHOLE
    asked = [_number(found[2]) for found in _FRACTION.finditer(settings)]
    others = _FRACTION.sub("", settings).strip(" ,")
    fraction = f"per_process_memory_fraction:{min([share, *filter(None, asked)]):g}"
    return f"{others},{fraction}" if others else fraction


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
