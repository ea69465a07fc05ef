"""What a submission refuses before anything is queued, and where its paths lead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftactors.core.errors import InvalidJobConfigError, ModelNotFoundError
from ftactors.core.events import ModelRef
from ftactors.core.feasible import ClusterFacts
from ftactors.core.seen import Node
from ftactors.core.service_config import ServiceConfig
from ftactors.core.work import Stopped
from ftactors.models import BaseModelFound, LLMModelManager
from ftactors.submission import Factories, Submission, digest_of, plan_submission
from tests.configs import job
from trainers import BaseTrainer

HUB, DATA = {"dataset_config.source_type": "hf_dataset"}, "dataset_config.path_or_id"
GPT2 = ModelRef(model_id="gpt2", path="/models/gpt2", source="directory")
CPUS = ClusterFacts((Node("node-a", name="a", cpus=8, mem_gib=32),))
OURS = Factories(Factories.trainer, Factories.handler)


class Models(LLMModelManager):
    """Knows one model."""

    async def find_base(self, base_model_id: str) -> BaseModelFound:
        if base_model_id != "gpt2":
            raise ModelNotFoundError(f"there is no model {base_model_id!r}")
        return BaseModelFound(GPT2, None)


class Trainer(BaseTrainer):
    """One of the user's own."""

    def run(self) -> Stopped:
        return Stopped(clean=True)


class Outer:
    class Inner(Trainer):
        """One that no import path of the form module:Class names."""


async def planned(changes: dict[str, Any], factories: Factories = OURS, **rules: Any) -> Submission:
    settings = ServiceConfig.model_validate({"runs_dir": "/state/runs", **rules})
    return await plan_submission(job(changes), Models(), settings, factories, cluster=CPUS)


async def refused(changes: dict[str, Any], factories: Factories = OURS, **rules: Any) -> dict[str, str]:
    """Return the problems by field."""
    with pytest.raises(InvalidJobConfigError) as caught:
        await planned(changes, factories, **rules)
    return {problem.field: problem.message for problem in caught.value.problems}


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the user's with a data set in it."""
    (tmp_path / "rows").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["rows", "./rows", "~/rows"])
async def test_a_data_set_in_a_local_folder_is_named_absolutely(name: str, at_home: Path):
    config = (await planned({**HUB, DATA: name})).config

    assert Path(config.dataset_config.path_or_id) == at_home / "rows"


@pytest.mark.parametrize("name", ["squad", "someone/rows"])
async def test_a_data_set_of_the_hub_keeps_its_id(name: str):
    config = (await planned({**HUB, DATA: name}, allowed_roots=["/data"])).config

    assert config.dataset_config.path_or_id == name


@pytest.mark.parametrize("name", ["rows", "./rows", "~/rows", "/etc", "someone/../../rows"])
async def test_allowed_roots_hold_for_local_folders_with_data_sets(name: str):
    problems = await refused({**HUB, DATA: name}, allowed_roots=["/data"])

    assert list(problems) == [DATA]
    assert "must lie under one of /data (allowed_roots)" in problems[DATA]


async def test_nothing_is_said_of_roots_where_the_path_itself_is_invalid():
    assert list(await refused({DATA: ""}, allowed_roots=["/data"])) == [DATA]


async def test_a_home_of_nobody_is_no_error_of_ours():
    assert (
        await planned({DATA: "~nobody-of-that-name/x"})
    ).config.dataset_config.path_or_id == "~nobody-of-that-name/x"


@pytest.mark.parametrize("base", ["", "gtp2"], ids=["invalid", "missing"])
async def test_a_base_model_that_is_wrong_is_told_with_all_else(base: str):
    wrong = {"base_model_id": base, "priority": 5000, "resources.num_gpus": 1}

    assert set(await refused(wrong)) == set(wrong)


async def test_a_base_model_that_is_missing_and_nothing_else_wrong_is_not_found():
    with pytest.raises(ModelNotFoundError, match="gtp2"):
        await planned({"base_model_id": "gtp2"})


async def test_a_trainer_of_the_users_own_is_named_by_its_import_path():
    own = Factories(lambda _: Trainer, Factories.handler)

    assert (await planned({}, own)).trainer == f"{Trainer.__module__}:Trainer"


def _inside() -> type:
    class Inside(Trainer):
        """One that nobody can import."""

    return Inside


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: type("Scripted", (Trainer,), {"__module__": "__main__"}), "__main__:Scripted.*in a script; move it"),
        (lambda: "__main__:Scripted", "__main__:Scripted.*defined in a script; move it to a module of its own"),
        (_inside, "Inside.*defined inside a function; move it to the top"),
        (lambda: Outer.Inner, "Outer.Inner.*defined inside a class; move it to the top"),
    ],
    ids=["script", "path of a script", "function", "class"],
)
async def test_a_class_that_the_jobs_process_cannot_import_is_refused(make: Callable[[], Any], why: str):
    with pytest.raises(InvalidJobConfigError, match=f"fine_tuning_technique.method: is served by .*{why}"):
        await planned({}, Factories(lambda _: make(), Factories.handler))
    with pytest.raises(InvalidJobConfigError, match=f"dataset_config.source_type: is served by .*{why}"):
        await planned({}, Factories(Factories.trainer, lambda _: make()))


async def test_a_request_is_known_again_by_what_is_not_as_by_default():
    first, same, other = [await planned(changes) for changes in ({}, {"max_attempts": 3}, {"max_attempts": 4})]

    assert first.config_digest == same.config_digest != other.config_digest
    assert first.config_digest == await digest_of(job({}))


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "k" * 256])
async def test_an_idempotency_key_that_cannot_be_stored_is_refused(key: str):
    submission = await planned({})

    with pytest.raises(InvalidJobConfigError, match="idempotency_key: must be of printable characters"):
        submission.event("ftjob-1", key, by="someone")
