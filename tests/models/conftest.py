"""What tests of models share: a model, and a hub's cache without a hub."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub_server import use_hub
from tests.model_dirs import write_model


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch) -> Path:
    """The hub's local cache, empty; and no hub that would answer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    use_hub("http://127.0.0.1:9", monkeypatch)
    return tmp_path / "hub-cache"


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "gpt2")
