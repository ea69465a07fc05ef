"""Errors of torch.distributed are told from others by their names and texts."""

from __future__ import annotations

import pytest
from torch.distributed import DistNetworkError  # type: ignore[attr-defined]  # the stub does not re-export it

from ftactors.core.peers import is_lost_rank
from ftactors.runtime.failure import last_word_for

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] "


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"{GLOO}Connection closed by peer [127.0.0.1]:13211. This is typically caused by a crash."),
        RuntimeError(f"{GLOO}Read error [192.0.2.2]:15528: Connection reset by peer."),
        DistNetworkError("The client socket has timed out after 1000ms while trying to connect to (10.0.0.1, 1)."),
    ],
)
def test_an_exchange_that_nobody_answers_means_that_a_rank_is_lost(error: RuntimeError):
    word = last_word_for(error, stage="training", dataset=None)

    assert (word.type, word.error_type, word.retryable) == ("failed", "rank_lost", True)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("expected scalar type Float but found Half"),
        ConnectionResetError("Connection reset by peer"),
        RuntimeError(f"{GLOO}ring allreduce: invalid count"),
    ],
)
def test_other_errors_mean_something_else(error: Exception):
    assert not is_lost_rank(error)
