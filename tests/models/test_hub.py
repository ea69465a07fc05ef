"""Models of a hub: from its cache, from a server on this machine, and not at all."""

import socket
import time

import pytest
from huggingface_hub import constants

from ftactors.core.errors import (
    ModelNotFoundError,
)
from ftactors.models import hub, inspect_model
from tests.hub_server import COMMIT, serving, use_hub
from tests.model_dirs import write_model

HUB_ID = "someone/tiny-gpt2"


def test_a_model_that_is_nowhere_is_not_found_within_seconds_and_the_error_says_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = time.monotonic()

    with pytest.raises(ModelNotFoundError) as missing:
        inspect_model("gtp2", known=["gpt2", "llama"])

    assert time.monotonic() - before < 2
    assert str(missing.value) == (
        "there is no model 'gtp2': it is no registered model (did you mean 'gpt2'?); "
        f"the directory {tmp_path}/gtp2 does not exist; it is not in the local cache, "
        "and http://127.0.0.1:9 does not answer: [Errno 111] Connection refused"
    )


def test_a_hub_that_is_silent_is_not_waited_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_hub(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        monkeypatch.setattr(hub, "PROBE_TIMEOUT_S", 0.1)

        with pytest.raises(ModelNotFoundError, match="does not answer: timed out"):
            inspect_model(HUB_ID)


def test_the_hub_is_not_asked_where_the_user_forbids_it(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        inspect_model(HUB_ID)


@pytest.mark.parametrize("path", ["./gpt2", "../gpt2", "/models/gpt2", "a/b/c", "two words"])
def test_a_path_is_not_looked_for_on_the_hub(path):
    with pytest.raises(ModelNotFoundError) as missing:
        inspect_model(path)

    assert "does not answer" not in str(missing.value)


def test_a_cached_model_needs_no_hub(hub_cache):
    repository = hub_cache / "models--someone--tiny-gpt2"
    write_model(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)

    inspected = inspect_model(HUB_ID)

    assert (inspected.path, inspected.source, inspected.revision) == (HUB_ID, "hub", COMMIT)


def test_a_model_of_the_hub_is_downloaded_without_what_is_not_used(tmp_path, hub_cache, monkeypatch):
    source = write_model(tmp_path / "hub" / HUB_ID)
    (source / "pytorch_model.bin").write_bytes(b"pickle")

    with serving(tmp_path / "hub") as endpoint:
        use_hub(endpoint, monkeypatch)
        inspected = inspect_model(HUB_ID)

    assert (inspected.source, inspected.revision, inspected.facts.model_type) == ("hub", COMMIT, "gpt2")
    snapshot = hub_cache / "models--someone--tiny-gpt2" / "snapshots" / COMMIT
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_that_the_hub_lacks_is_not_found(tmp_path, monkeypatch):
    with serving(tmp_path) as endpoint:
        use_hub(endpoint, monkeypatch)
        with pytest.raises(ModelNotFoundError, match="it is not on the hub, or is private"):
            inspect_model(HUB_ID)
