"""Memory that ran out is known by what libraries say of it, a GPU's from the machine's."""

from __future__ import annotations

import errno

import pytest

from ftactors.core.shortage import asked_gib, is_of_the_machine, is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """torch's, by its name and module."""


OutOfMemoryError.__module__ = "torch"
ON_CUDA = OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 79.1 GiB")
ON_CPU = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes."
)


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "of_the_machine"),
    [
        (ON_CUDA, False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (ON_CPU, True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (raised_from(ValueError("the model does not load"), ON_CPU), True),
        (raised_from(ValueError("the model does not load"), ON_CUDA), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_memory_that_ran_out_is_known(error: Exception, of_the_machine: bool):  # noqa: FBT001
    assert is_out_of_memory(error)
    assert is_of_the_machine(error) is of_the_machine


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(errno.ENOSPC, "No space")]
)
def test_other_errors_are_not_taken_for_it(error: Exception):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "gib"),
    [
        (ON_CUDA, 0.5),
        (ON_CPU, 2.0),
        (raised_from(ValueError("no"), ON_CPU), 2.0),
        (RuntimeError("Tried to allocate 1.25 GiB"), 1.25),
        (MemoryError(), None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_was_asked_for_is_read_from_the_message(error: Exception, gib: float | None):
    assert asked_gib(error) == gib
