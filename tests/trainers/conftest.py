"""Tiny models and prepared data, made once for all tests of trainers; nobody changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.trainers.attempts import prepare


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama that was pretrained, so that an adapter has something to adapt."""
    return tiny.pretrain(tiny.make_model_dir(tmp_path_factory.mktemp("llama") / "base", "llama"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny gpt2 that was pretrained: its weights are transposed, its layers have biases."""
    return tiny.pretrain(tiny.make_model_dir(tmp_path_factory.mktemp("gpt2") / "base", "gpt2"))


@pytest.fixture(scope="session")
def data(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 rows, and 30 held out: 12 steps an epoch with batches of 8."""
    return prepare(tmp_path_factory.mktemp("data") / "prepared", llama)


@pytest.fixture(scope="session")
def data_without_held_out(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("data") / "prepared", llama, held_out=0)
