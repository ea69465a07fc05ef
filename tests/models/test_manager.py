"""Base models registered once, and found again by id."""

import os
from pathlib import Path

import pytest

from ftactors.core import requests
from ftactors.core.errors import (
    ModelConflictError,
    ModelImportError,
    ModelNotFoundError,
    ServiceNotStartedError,
)
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State
from ftactors.models import LLMModelManager
from ftactors.models import manager as manager_module
from ftactors.runtime.whoami import whoami
from tests.core import histories as h
from tests.model_dirs import GPT2_CONFIG, write_adapter, write_model


class Scheduler:
    """The scheduler's registry in this process, by the rules of the core."""

    def __init__(self):
        self.state = State()
        self.deleted_by = []

    async def ask(self, method, *args):
        match method, args:
            case "models", ():
                return list(self.state.models.values())
            case "import_model", (event,):
                self._record(requests.import_model(self.state, event))
                return self.state.models[event.model_id]
            case "delete_model", (model_id, seq, by):
                self.deleted_by.append(by)
                self._record(requests.delete_model(self.state, model_id, seq, by=by))
                return None
        raise AssertionError(method)

    def _record(self, event):
        if event is not None:
            self.state.apply(self.state.recorded(event, at=0.0))


@pytest.fixture
def rules(tmp_path) -> ServiceConfig:
    return ServiceConfig(state_dir=str(tmp_path / "state"))


async def attached(rules, base_models=None) -> LLMModelManager:
    manager = LLMModelManager(base_models)
    await manager.attach(Scheduler(), rules)
    return manager


async def test_base_models_are_registered_when_the_service_starts(rules, model):
    manager = await attached(rules, {"gpt2": str(model)})

    (registered,) = await manager.list_models()
    assert (registered.model_id, registered.path, registered.owned) == ("gpt2", str(model), False)
    assert await manager.get_model("gpt2") == registered


async def test_base_models_of_the_services_configuration_are_registered_too(rules, model):
    manager = await attached(rules.model_copy(update={"base_models": {"theirs": str(model)}}), {"ours": str(model)})

    assert {registered.model_id for registered in await manager.list_models()} == {"ours", "theirs"}


async def test_the_same_source_again_changes_nothing(rules, model):
    manager = await attached(rules, {"gpt2": model})
    first = await manager.get_model("gpt2")

    assert await manager.import_model("gpt2", str(model)) == first
    manager.detach()
    scheduler = Scheduler()
    await manager.attach(scheduler, rules)
    await manager.attach(scheduler, rules)
    assert len(await manager.list_models()) == 1


async def test_another_source_for_an_id_is_refused(rules, model, tmp_path):
    manager = await attached(rules, {"gpt2": model})
    other = write_model(tmp_path / "other")

    with pytest.raises(ModelConflictError, match="is registered for"):
        await manager.import_model("gpt2", other)


async def test_another_source_for_a_held_id_is_refused_before_the_service_starts(tmp_path):
    manager = LLMModelManager({"gpt2": tmp_path / "one"})

    with pytest.raises(ModelConflictError, match="so it cannot be"):
        await manager.import_model("gpt2", tmp_path / "two")


async def test_an_import_before_the_service_starts_is_held(rules, model):
    manager = LLMModelManager()

    assert await manager.import_model("gpt2", model) is None
    await manager.attach(Scheduler(), rules)

    assert (await manager.get_model("gpt2")).path == str(model)


async def test_the_registry_cannot_be_asked_before_the_service_has_started():
    manager = LLMModelManager()

    for question in (
        manager.list_models(),
        manager.get_model("gpt2"),
        manager.delete_model("gpt2"),
        manager.find_base("x"),
    ):
        with pytest.raises(ServiceNotStartedError):
            await question


@pytest.mark.parametrize("model_id", ["a/b", "../x", "", "-x"])
def test_a_model_id_is_no_path(model_id):
    with pytest.raises(ModelImportError, match="not a path"):
        LLMModelManager({model_id: "/models/x"})


async def test_an_unknown_model_is_answered_with_the_close_ones(rules, model):
    manager = await attached(rules, {"gpt2": model})

    with pytest.raises(ModelNotFoundError, match=r"there is no registered model 'gpt'; did you mean 'gpt2'\?"):
        await manager.get_model("gpt")


async def test_a_deleted_model_is_gone_and_its_files_stay(rules, model):
    manager = await attached(rules, {"gpt2": model})

    assert (await manager.delete_model("gpt2")).model_id == "gpt2"
    assert await manager.list_models() == []
    assert (model / "config.json").exists()


async def test_another_revision_of_a_hub_model_is_refused_and_the_same_by_any_name_is_not(rules, hub_cache):
    repository = hub_cache / "models--me--m"
    for commit in ("c1", "c2"):
        write_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c1")
    manager = await attached(rules)
    first = await manager.import_model("mine", "me/m", revision="c1")

    assert [await manager.import_model("mine", "me/m", revision=name) for name in (None, "c1", "main")] == [first] * 3
    with pytest.raises(ModelConflictError, match=r"for me/m at revision c1, so .* from me/m at revision c2"):
        await manager.import_model("mine", "me/m", revision="c2")


async def test_another_revision_of_a_held_id_is_refused_by_name():
    manager = LLMModelManager({"mine": "me/m"})

    with pytest.raises(ModelConflictError, match="is to be me/m, so it cannot be me/m at revision c2 too"):
        await manager.import_model("mine", "me/m", revision="c2")


async def test_a_model_is_deleted_by_the_same_name_as_everything_else_without_an_entry_for_the_user(
    rules, model, monkeypatch
):
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # a container's, which has no name
    scheduler = Scheduler()
    manager = LLMModelManager({"gpt2": model})
    await manager.attach(scheduler, rules)

    await manager.delete_model("gpt2")

    assert scheduler.deleted_by == [whoami()]
    assert whoami().startswith(f"{2**31 - 7}@")


async def test_a_registered_id_goes_before_a_directory_of_that_name(rules, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registered = write_model(tmp_path / "elsewhere", {**GPT2_CONFIG, "n_positions": 64, "n_ctx": 64})
    manager = await attached(rules, {model.name: registered})

    base = await manager.find_base(model.name)

    assert (base.ref.source, base.ref.path, base.facts.context_length) == ("registered", str(registered), 64)


async def test_a_directory_is_a_base_model_without_registration(rules, model):
    base = await (await attached(rules)).find_base(str(model))

    assert (base.ref.source, base.ref.registered_seq, base.facts.model_type) == ("directory", None, "gpt2")


async def test_an_adapter_is_registered_with_its_registered_base(rules, model, tmp_path):
    manager = await attached(rules, {"gpt2": model, "mine": write_adapter(tmp_path / "adapter", str(model))})

    base = await manager.find_base("mine")

    assert (base.ref.kind, base.ref.base.model_id, base.facts.model_type) == ("adapter", "gpt2", "gpt2")
    with pytest.raises(ModelConflictError, match="in use by adapter 'mine'"):
        await manager.delete_model("gpt2")


async def test_a_registered_model_that_this_machine_does_not_see_has_no_facts(rules, model):
    manager = await attached(rules, {"gpt2": model})
    model.rename(model.with_name("gone"))

    base = await manager.find_base("gpt2")

    assert (base.ref.path, base.facts) == (str(model), None)


async def test_a_file_that_is_no_gguf_is_refused_without_a_process(rules, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    manager = await attached(rules)

    with pytest.raises(ModelImportError, match="is not a GGUF file"):
        await manager.import_model("tiny", tmp_path / "model.gguf")


async def test_a_gguf_file_that_is_not_there_is_refused(rules, tmp_path):
    manager = await attached(rules)

    with pytest.raises(ModelImportError, match="cannot be read: No such file"):
        await manager.import_model("tiny", tmp_path / "model.gguf")


def convert_at_once(_: Path, destination: Path) -> Path:
    """Write a model where one that was converted belongs, in no process."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination if destination.exists() else write_model(destination)


async def test_an_id_of_another_model_is_refused_before_anything_is_done_for_it(rules, model, tmp_path):
    manager = await attached(rules, {"gpt2": model})

    with pytest.raises(ModelConflictError, match=r"'gpt2' is registered for .*; choose another id"):
        await manager.import_model("gpt2", tmp_path / "that-would-be-converted.gguf")


@pytest.mark.parametrize("was_there", [True, False])
async def test_what_was_converted_for_an_id_that_is_taken_is_deleted_again(rules, tmp_path, monkeypatch, was_there):
    monkeypatch.setattr(manager_module, "convert_gguf", convert_at_once)
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    scheduler, manager = Scheduler(), LLMModelManager()
    await manager.attach(scheduler, rules)
    (kept,) = [await manager.import_model("tuned", tmp_path / "tiny.gguf")] if was_there else [None]
    if kept:
        await manager.delete_model("tuned")
    scheduler.state.apply(scheduler.state.recorded(h.submitted(new_model_id="tuned"), at=0.0))

    with pytest.raises(ModelConflictError, match="is reserved by job 'ftjob-1'"):
        await manager.import_model("tuned", tmp_path / "tiny.gguf")

    converted = [*(tmp_path / "state" / "models" / "tuned").iterdir()]
    assert [str(path) for path in converted] == ([kept.path] if kept else [])
