"""The environment of a training process tells torch's allocator to keep to the share of the GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftactors.core.work import AnyWord, Published
from ftactors.runtime.child import Child
from ftactors.runtime.share import VARIABLES, allocator_conf, allocator_settings
from ftactors.runtime.spawn import spawn
from tests.runtime.workers import published, until, work
from trainers.base import BaseTrainer


class Settings(BaseTrainer):
    """Writes down what the allocator is told."""

    def run(self) -> Published:
        told = [f"{name}={os.environ[name]}\n" for name in VARIABLES if name in os.environ]
        (Path(self.work.attempt_dir) / "settings").write_text("".join(told))
        return published(self)


async def settings_of_a_child(directory: Path, gpu_thousandths: int) -> str:
    words: list[AnyWord] = []
    its_work = work(
        directory, "tests.runtime.test_share:Settings", uses_gpu=gpu_thousandths > 0, gpu_thousandths=gpu_thousandths
    )
    child = Child(spawn(its_work, threads=1), its_work, words.append)
    await until(child.ended.is_set)
    assert isinstance(words[-1], Published), words
    return (Path(its_work.attempt_dir) / "settings").read_text()


@pytest.mark.parametrize(
    ("existing", "merged"),
    [
        (None, "per_process_memory_fraction:0.4"),
        ("", "per_process_memory_fraction:0.4"),
        ("expandable_segments:True", "expandable_segments:True,per_process_memory_fraction:0.4"),
        ("max_split_size_mb:64, ", "max_split_size_mb:64,per_process_memory_fraction:0.4"),
        (
            "roundup_power2_divisions:[256:1,512:2,>:4]",
            "roundup_power2_divisions:[256:1,512:2,>:4],per_process_memory_fraction:0.4",
        ),
        ("per_process_memory_fraction:0.9,backend:native", "backend:native,per_process_memory_fraction:0.4"),
        ("backend:native, per_process_memory_fraction : 0.3", "backend:native,per_process_memory_fraction:0.3"),
        ("a:1,per_process_memory_fraction:0.9,b:2", "a:1,b:2,per_process_memory_fraction:0.4"),
        ("per_process_memory_fraction:half", "per_process_memory_fraction:0.4"),
    ],
)
def test_the_share_is_merged_into_what_the_user_has_set_but_less_stays_less(existing, merged):
    assert allocator_conf(existing, 400) == merged


@pytest.mark.parametrize("thousandths", [0, 1000])
def test_a_whole_gpu_and_none_have_no_cap(thousandths):
    assert allocator_conf("expandable_segments:True", thousandths) == "expandable_segments:True"
    assert allocator_settings({"PYTORCH_ALLOC_CONF": "a:1"}, thousandths) == {}


def test_the_smallest_share_is_told_as_torch_reads_it():
    assert allocator_conf(None, 1) == "per_process_memory_fraction:0.001"


@pytest.mark.parametrize(
    ("environment", "changed"),
    [
        ({}, "PYTORCH_ALLOC_CONF"),
        ({"PYTORCH_ALLOC_CONF": "a:1"}, "PYTORCH_ALLOC_CONF"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "a:1"}, "PYTORCH_CUDA_ALLOC_CONF"),
        ({"PYTORCH_ALLOC_CONF": "b:2", "PYTORCH_CUDA_ALLOC_CONF": "a:1"}, "PYTORCH_CUDA_ALLOC_CONF"),
        ({"PYTORCH_ALLOC_CONF": "b:2", "PYTORCH_HIP_ALLOC_CONF": "a:1"}, "PYTORCH_HIP_ALLOC_CONF"),
    ],
)
def test_the_variable_that_torch_reads_is_the_one_that_changes(environment, changed):
    settings = allocator_settings(environment, 250)

    assert list(settings) == [changed]
    assert settings[changed] == ",".join(filter(None, [environment.get(changed), "per_process_memory_fraction:0.25"]))


async def test_a_child_with_a_share_is_told_it(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

    told = await settings_of_a_child(tmp_path, 400)

    assert told == "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,per_process_memory_fraction:0.4\n"


@pytest.mark.parametrize("thousandths", [0, 1000])
async def test_a_child_without_a_gpu_or_with_a_whole_one_is_told_nothing(tmp_path, monkeypatch, thousandths):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    assert await settings_of_a_child(tmp_path, thousandths) == ""
