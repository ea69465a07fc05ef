"""What a directory holds, and what is said of one that is not complete."""

import json

import pytest

from ftactors.core.errors import (
    ModelImportError,
)
from ftactors.models import inspect_model
from ftactors.models.files import digest_of
from tests.model_dirs import GPT2_CONFIG, LLAMA_SHAPES, write_adapter, write_model, write_safetensors


def test_a_directory_tells_what_it_holds(model):
    inspected = inspect_model(str(model))

    assert (inspected.path, inspected.source, inspected.kind, inspected.revision) == (
        str(model),
        "directory",
        "full",
        None,
    )
    assert (inspected.facts.model_type, inspected.facts.context_length) == ("gpt2", 1024)
    assert inspected.ref("gpt2").digest == digest_of(model)


def test_a_relative_directory_becomes_an_absolute_path(model, monkeypatch):
    monkeypatch.chdir(model.parent)

    assert inspect_model("gpt2").path == str(model)


def test_the_facts_of_a_sharded_model_are_those_of_all_shards(tmp_path):
    directory = write_model(tmp_path / "llama", shapes=LLAMA_SHAPES)
    names = sorted(LLAMA_SHAPES)
    shards = {"model-1.safetensors": names[:4], "model-2.safetensors": names[4:]}
    for file, part in shards.items():
        write_safetensors(directory / file, {name: LLAMA_SHAPES[name] for name in part})
    whole = inspect_model(str(directory)).facts
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    assert inspect_model(str(directory)).facts == whole


def test_an_adapter_has_its_bases_facts(tmp_path, model):
    adapter = inspect_model(str(write_adapter(tmp_path / "adapter", str(model))))

    assert (adapter.kind, adapter.facts.model_type) == ("adapter", "gpt2")
    assert adapter.ref("mine").base.path == str(model)


def test_the_digest_changes_with_any_small_file(model):
    before = digest_of(model)
    (model / "config.json").write_text(json.dumps({**GPT2_CONFIG, "n_head": 2}))

    assert digest_of(model) != before


def _cut(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _only(name):
    return lambda directory: (directory / "model.safetensors").rename(directory / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "is cut off: it has"),
        (
            lambda directory: (directory / "model.safetensors").write_bytes(b"PK\x03\x04" * 9),
            "is not a safetensors file",
        ),
        (
            lambda directory: (directory / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0[]"),
            "not a safetensors file",
        ),
        (lambda directory: (directory / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda directory: (directory / "config.json").write_text("[]"), "config.json must hold an object"),
        (_only("pytorch_model.bin"), "only pickles (pytorch_model.bin), which can run code when they are loaded"),
        (_only("model.Q4.gguf"), "only GGUF; import the file model.Q4.gguf itself"),
        (_only("weights"), "neither model.safetensors nor model.safetensors.index.json is there"),
        (
            lambda directory: (
                _only("weights")(directory)
                and (directory / "model.safetensors.index.json").write_text(
                    '{"weight_map": {"wte": "model-1.safetensors"}}'
                )
            ),
            "model-1.safetensors cannot be read: No such file",
        ),
    ],
)
def test_a_model_that_is_not_complete_is_refused_with_the_reason(model, damage, message):
    damage(model)

    with pytest.raises(ModelImportError) as refused:
        inspect_model(str(model))

    assert message in str(refused.value)


def test_an_adapter_that_names_no_base_is_refused(tmp_path):
    with pytest.raises(ModelImportError, match="names no base model"):
        inspect_model(str(write_adapter(tmp_path / "adapter", "")))


def test_an_adapter_on_itself_is_refused(tmp_path):
    with pytest.raises(ModelImportError, match="names itself as its base"):
        inspect_model(str(write_adapter(tmp_path / "adapter", str(tmp_path / "adapter"))))


def test_a_gguf_file_is_no_base_model_before_it_is_imported(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    with pytest.raises(ModelImportError, match="import it first, `ftactors models import ID"):
        inspect_model(str(tmp_path / "model.gguf"))
