"""Errors of torch.distributed that mean that another rank is gone; told by name and text, for torch is not imported."""

from __future__ import annotations

from ftactors.core.shortage import causes

_KINDS = ("DistBackendError", "DistNetworkError", "DistStoreError")
_TEXTS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")


def is_lost_rank(error: BaseException) -> bool:
    """Return whether an error, or what caused it, is that of a rank that no other rank answers."""
    return any(_is_lost_rank(link) for link in causes(error))


def _is_lost_rank(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    if any(kind.__module__.startswith("torch") and kind.__name__ in _KINDS for kind in type(error).__mro__):
        return True
    return "gloo" in str(error) and any(text in str(error) for text in _TEXTS)
