"""Trainers and handlers that behave in every way in which a user's own can, and the work that names them."""

# ruff: noqa: T201, ARG002 - what they print is their log, and not all of them use what they are given

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil

from ftactors.core.config import DatasetSourceConfig, FineTuningJobConfig, FineTuningTechniqueConfig
from ftactors.core.errors import DatasetError, DatasetLostError, DivergedError
from ftactors.core.events import ModelRef
from ftactors.core.session import Stop
from ftactors.core.work import CheckpointWritten, Progress, Published, StageBegun, Stopped, Work
from ftactors.runtime.child import Child
from ftactors.runtime.forked import ForkedChild
from ftactors.runtime.lifeline import WORKER_NAME
from ftactors.runtime.spawn import Started, spawn
from ftactors.runtime.starting import start
from handlers.base import BaseDatasetHandler, Record, Split
from trainers.base import BaseTrainer

BASE = ModelRef(model_id="tiny", path="/models/tiny", source="directory")
MODULE = "tests.runtime.workers"  # also where this module is the program
DEADLINE_S = 20.0


def work(directory: Path, trainer: str, **changes: Any) -> Work:
    """Return the work of one attempt, by one of this module's trainers or one named by its import path."""
    config = FineTuningJobConfig(
        job_name="j",
        base_model_id="tiny",
        new_model_id="tuned",
        dataset_config=DatasetSourceConfig(source_type="file_path", path_or_id="/data/train.jsonl"),
        fine_tuning_technique=FineTuningTechniqueConfig(method="lora"),
    )
    fields: dict[str, Any] = {
        "job_id": "j1",
        "attempt": 1,
        "purpose": "train",
        "job": config.model_dump(mode="json"),
        "base": BASE,
        "trainer": trainer if ":" in trainer else f"{MODULE}:{trainer}",
        "handler": f"{MODULE}:EmptyHandler",
        "attempt_dir": str(directory / "attempts" / "1"),
        "data_dir": str(directory / "data"),
    }
    return Work(**(fields | changes))


def published(trainer: BaseTrainer) -> Published:
    """Return the last word of a trainer that has done its work."""
    path = f"{trainer.work.attempt_dir}/model"
    return Published(path=path, digest="d", kind="adapter", base=BASE, metrics={"loss": 1.5}, trained_tokens=7)


class Talker(BaseTrainer):
    """Comes to a stage, makes three steps, publishes."""

    def run(self) -> Published:
        self.session.say(StageBegun(stage="training", index=1, of=1, total_steps=3))
        for step in (1, 2, 3):
            self.session.say(Progress(stage="training", step=step, metrics={"loss": 2.0 / step}))
        return published(self)


class Saver(BaseTrainer):
    """Writes two checkpoints, the second of which prunes the first, and publishes."""

    def run(self) -> Published:
        paths = [f"{self.work.attempt_dir}/checkpoints/step-{step}" for step in (1, 2)]
        for step, path in enumerate(paths, start=1):
            Path(path).mkdir(parents=True)
            pruned = tuple(paths[: step - 1])
            self.session.say(CheckpointWritten(stage="training", step=step, path=path, digest="d", pruned=pruned))
        return published(self)


class Patient(BaseTrainer):
    """Steps until it is told to stop; writes down what it was told."""

    def run(self) -> Stopped:
        self.session.say(StageBegun(stage="training", index=1, of=1))
        while (order := self.session.stop_order) is None:
            time.sleep(0.01)  # a step
        (Path(self.work.attempt_dir) / "order.json").write_text(order.model_dump_json())
        return Stopped(clean=order.save)


class Torn(BaseTrainer):
    """Wants to save, and gives up when the checkpoint is no longer wanted."""

    def run(self) -> Stopped:
        self.session.say(StageBegun(stage="training", index=1, of=1))
        while (order := self.session.stop_order) is None:
            time.sleep(0.01)
        self.session.say(Progress(stage="training", step=1))
        while order.save:
            time.sleep(0.01)
            order = self.session.stop_order or order
        raise Stop


class Deaf(BaseTrainer):
    """Waits for ever, and never looks for an order."""

    def run(self) -> Published:
        self.session.say(StageBegun(stage="training", index=1, of=1))
        threading.Event().wait()
        return published(self)


class GilHolder(BaseTrainer):
    """Never lets go of the interpreter's lock, so that no thread of its process ever runs again."""

    def run(self) -> Published:
        self.session.say(StageBegun(stage="training", index=1, of=1))
        ctypes.PyDLL(None).pause()
        return published(self)


class Segfault(BaseTrainer):
    """Reads address 0."""

    def run(self) -> Published:
        self.session.say(StageBegun(stage="loading", index=1, of=1))
        print("about to read address 0")
        ctypes.string_at(0)
        return published(self)


class KilledFromOutside(BaseTrainer):
    """Dies as from the kernel's out-of-memory killer."""

    def run(self) -> Published:
        os.kill(os.getpid(), signal.SIGKILL)
        return published(self)


class Quitter(BaseTrainer):
    """Ends its process instead of returning."""

    def run(self) -> Published:
        print("I have had enough")
        sys.exit(3)


class Lingerer(BaseTrainer):
    """Publishes, but leaves a thread behind that keeps its process alive."""

    def run(self) -> Published:
        threading.Thread(target=threading.Event().wait).start()
        return published(self)


class Forker(BaseTrainer):
    """Leaves a forked process behind that holds all of its pipes open."""

    def run(self) -> Published:
        if (forked := os.fork()) == 0:
            time.sleep(DEADLINE_S)
            os._exit(0)
        (Path(self.work.attempt_dir) / "forked").write_text(str(forked))
        os.kill(os.getpid(), signal.SIGKILL)
        return published(self)


class Scribbler(BaseTrainer):
    """Writes to the pipe of words, which is not its own."""

    def run(self) -> Published:
        os.write(int(sys.argv[2]), b"hello\n")
        threading.Event().wait()
        return published(self)


class Surroundings(BaseTrainer):
    """Writes down where it runs."""

    def run(self) -> Published:
        print("cwd", Path.cwd())
        print("input", repr(sys.stdin.read()))
        for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
            print(name, repr(os.environ.get(name)))
        return published(self)


class Possessions(BaseTrainer):
    """Writes down all that a process has from who started it."""

    def run(self) -> Published:
        descriptors = [Path("/proc/self/fd", str(number)) for number in range(1024)]
        found = {
            "environment": dict(os.environ),
            "directory": str(Path.cwd()),
            "search_path": sys.path,
            "descriptors": {path.name: str(path.readlink()) for path in descriptors if path.is_symlink()},
            "parent": os.getppid(),
            "session": os.getsid(0),
        }
        Path("possessions.json").write_text(json.dumps(found))
        return published(self)


class Speechless(BaseTrainer):
    """Forgets to return its last word."""

    def run(self) -> Any:
        return None


class Raiser(BaseTrainer):
    """Raises what its work names."""

    ERRORS: ClassVar[dict[str, Callable[[], Exception]]] = {
        "diverged": lambda: DivergedError("the loss of step 3 is nan", hint="lower learning_rate"),
        "dataset_lost": lambda: DatasetLostError("/data/train.arrow is gone"),
        "stop": Stop,
        "bug": lambda: ZeroDivisionError("division by zero"),
    }

    def run(self) -> Published:
        self.session.say(StageBegun(stage="training", index=1, of=1))
        error = self.ERRORS[str(self.work.overrides["raise"])]
        raise error() from None


class EmptyHandler(BaseDatasetHandler):
    """A source without records."""

    def columns(self, split: Split) -> list[str]:
        return ["text"]

    def records(self, split: Split) -> Iterator[Record]:
        yield from ()

    def count(self, split: Split) -> int | None:
        return 0

    def fingerprint(self) -> str:
        return "empty"


class MissingHandler(EmptyHandler):
    """A source that is not there."""

    def __init__(self, source: DatasetSourceConfig, *, seed: int) -> None:
        super().__init__(source, seed=seed)
        raise DatasetError(f"{source.path_or_id}: no such file")


def a_function() -> None:
    """Be no class."""


def at_work_in(directory: Path) -> list[int]:
    """Return the processes that do work of attempts below a directory, spawned and forked ones."""
    found = []
    for process in psutil.process_iter(["pid", "status", "name", "cwd"]):
        known = process.info
        if known["name"] == WORKER_NAME and known["cwd"] and known["status"] != psutil.STATUS_ZOMBIE:
            found += [known["pid"]] if Path(known["cwd"]).is_relative_to(directory) else []
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits for its parent to notice does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(") ")[2][0] not in "ZX"


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def fork_from(template: str, told: Work, *, devices: tuple[str, ...] = ()) -> ForkedChild:
    """Return a child that was forked by the template of this name."""

    async def found() -> str:
        return template

    process = await start(told, threads=1, devices=devices, template=found)
    assert isinstance(process, ForkedChild)
    return process


async def _keep_a_child(directory: Path, trainer: str, template: str | None = None) -> None:
    told = work(directory, trainer)
    process: Started
    if template is None:
        process = spawn(told, 1)
    else:
        process = await fork_from(template, told)
    child = Child(process, told, lambda word: print(word.type, child.pid, flush=True))
    await child.ended.wait()


if __name__ == "__main__":  # a parent to be killed
    asyncio.run(_keep_a_child(Path(sys.argv[1]), *sys.argv[2:]))
