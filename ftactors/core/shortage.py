"""Whether an error means that memory ran out, of a GPU or of the machine."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

_OF_THE_MACHINE = ("can't allocate memory", "Cannot allocate memory")
_OF_A_GPU = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_ASKED = re.compile(r"tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", re.IGNORECASE)
_GIB_OF = {"bytes": 2.0**-30, "kib": 2.0**-20, "mib": 2.0**-10, "gib": 1.0}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what it was raised from, says that memory could not be had."""
    return any(_says_so(link) for link in causes(error))


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether it is the machine's memory that ran out, rather than a GPU's."""
    return any(_is_of_the_machine(link) for link in causes(error))


def asked_gib(error: BaseException) -> float | None:
    """Return what could not be had, in GiB; None where the error does not say."""
    for link in causes(error):
        if found := _ASKED.search(str(link)):
            return float(found[1]) * _GIB_OF[found[2].lower()]
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, the last one first."""
    while error is not None:
        yield error
        error = error.__cause__


def _says_so(error: BaseException) -> bool:
    """Tell by name and text: torch is not imported here, and some of its allocators raise a plain RuntimeError."""
    if _is_of_the_machine(error):
        return True
    if any(kind.__name__ == "OutOfMemoryError" and kind.__module__ == "torch" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_A_GPU)


def _is_of_the_machine(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_THE_MACHINE)
