"""The warm template: what it forks is a trainer actor's own, dies with it, and costs no time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ftactors.core.work import AnyWord, Dataset, Failed, Prepared, Published, StopOrder, Stopped, Work
from ftactors.runtime.child import Child
from ftactors.runtime.forked import ForkedChild, fork
from ftactors.runtime.forking import Adopt, Fork, TemplateError, address_of, built_with, endpoint, send
from ftactors.runtime.preload import BEYOND, NEEDED
from ftactors.runtime.spawn import Spawned, Started, environment_for, search_path, spawn
from ftactors.runtime.starting import model_type_of, start
from ftactors.runtime.template import CHILDREN, HARMED, UNFIT
from tests import tiny
from tests.runtime import workers
from tests.runtime.templates import RunningTemplate
from tests.runtime.workers import BASE, fork_from, is_alive, until, work

LONG_S = 120.0
NO_PID = 2**30
"""More than any process has."""


@pytest.fixture
def bare() -> Iterator[RunningTemplate]:
    """A template that has loaded nothing: it forks all the same."""
    with RunningTemplate() as running:
        yield running


@pytest.fixture(scope="module")
def warm() -> Iterator[RunningTemplate]:
    """A template as an agent has it, but that nobody in it may ask for a CUDA device."""
    with RunningTemplate(*NEEDED, *BEYOND, program="tests.runtime.untouched") as running:
        yield running


class Job:
    """A tiny model, its data, and work on them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.dataset, self._attempts = directory, None, 0
        tiny.pretrain(tiny.make_model_dir(directory / "model"), steps=5)
        rows = (json.dumps(record) for record in tiny.records(64))
        (directory / "train.jsonl").write_text("\n".join(rows))
        self.dataset: Dataset | None

    def work(self, **changes: Any) -> Work:
        self._attempts += 1
        told = work(self.directory, "trainers.sft:SftTrainer")
        job = told.job | {
            "dataset_config": {"source_type": "file_path", "path_or_id": str(self.directory / "train.jsonl")},
            "fine_tuning_technique": {"method": changes.pop("method", "lora")},
            "hyperparameters": {"max_steps": 4, "learning_rate": 3e-3, "logging_steps": 1},
        }
        fields: dict[str, Any] = {
            "job": job,
            "base": BASE.model_copy(update={"path": str(self.directory / "model")}),
            "handler": "handlers.files:FilesHandler",
            "attempt_dir": str(self.directory / "attempts" / str(self._attempts)),
            "dataset": self.dataset,
        }
        return told.model_copy(update=fields | changes)


@pytest.fixture(scope="module")
def job(warm: RunningTemplate, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job whose data was prepared by a forked child."""
    made = Job(tmp_path_factory.mktemp("job"))
    told = made.work(purpose="prepare")

    async def prepare() -> AnyWord:
        return await done(await fork_from(warm.name, told), told)

    prepared = asyncio.run(prepare())
    assert isinstance(prepared, Prepared), prepared
    made.dataset = Dataset(**prepared.model_dump(include={"path", "fingerprint", "shape", "counts"}))
    return made


async def done(process: Started, told: Work) -> AnyWord:
    """Return the last word of a process that was started for work."""
    words: list[AnyWord] = []
    async with asyncio.timeout(LONG_S):
        await Child(process, told, words.append).ended.wait()
    return words[-1]


def losses(told: Work) -> list[float]:
    lines = (Path(told.attempt_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


async def test_a_child_has_the_surroundings_that_were_asked_for_and_three_pipes(bare, tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_ACTOR", "h\udce9llo")  # no UTF-8, as environments may be
    monkeypatch.syspath_prepend(tmp_path / "a directory")
    told = work(tmp_path, "Possessions")
    expected = environment_for(told, 1)

    assert isinstance(await done(await fork_from(bare.name, told), told), Published)

    had = json.loads((Path(told.attempt_dir) / "possessions.json").read_text())
    log = str(Path(told.attempt_dir) / "train.log")
    assert had["environment"] == expected
    assert had["directory"] == told.attempt_dir
    assert had["search_path"][: len(search_path())] == search_path()
    assert [had["descriptors"].pop(number) for number in "012"] == ["/dev/null", log, log]
    assert [where.partition(":")[0] for where in had["descriptors"].values()] == ["pipe"] * 3
    assert (had["parent"], had["session"]) == (bare.process.pid, os.getsid(0))


async def test_training_goes_on_when_the_template_dies_and_the_next_one_watches_it(bare, tmp_path):
    told, words = work(tmp_path, "Patient"), list[AnyWord]()
    process = await start(told, threads=1, devices=("0",), template=bare.found)
    child = Child(process, told, words.append)
    await until(lambda: words)

    bare.kill()
    bare.begin()
    assert await asyncio.to_thread(bare.next_line) == f"{CHILDREN} 1"

    child.stop(StopOrder(grace_s=30, save=True))
    await until(child.ended.is_set)
    assert words[-1] == Stopped(clean=True)
    assert await asyncio.to_thread(bare.next_line) == f"{CHILDREN} 0"


async def test_how_a_child_ended_is_not_known_when_its_template_ended_first(bare, tmp_path):
    told, words = work(tmp_path, "GilHolder"), list[AnyWord]()
    child = Child(await fork_from(bare.name, told), told, words.append)
    await until(lambda: words)
    bare.kill()

    os.kill(child.pid, signal.SIGKILL)

    await until(child.ended.is_set)
    assert isinstance(words[-1], Failed)
    assert "ended, with an exit code that is not known" in words[-1].message
    bare.begin()


async def test_an_actors_death_after_that_of_the_template_kills_the_child_that_holds_the_interpreter(bare, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-m", workers.MODULE, tmp_path, "GilHolder", bare.name],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[1])
        bare.kill()
        assert is_alive(child)

        parent.kill()

        await until(lambda: not is_alive(child))
    bare.begin()


async def test_no_child_is_forked_on_a_device_before_the_condemned_one_there_is_gone(bare, tmp_path, monkeypatch):
    with condemned(bare, devices=["1"]) as slow_to_die:
        monkeypatch.setattr("ftactors.runtime.starting.PATIENCE_S", 0.3)  # what has a device is not spawned instead
        waiting = asyncio.create_task(fork_from(bare.name, work(tmp_path / "same", "Talker"), devices=("0", "1")))
        others = [
            await fork_from(bare.name, work(tmp_path / name, "Talker"), devices=devices)
            for name, devices in (("other", ("2",)), ("none", ()))
        ]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), timeout=1.0)
        assert len(bare.children()) == len(others)
        log = (tmp_path / "same" / "attempts" / "1" / "train.log").read_text()
        assert log == f"waits for the process {NO_PID} on its device to end\n"

        slow_to_die.close()

        others.append(await waiting)
    for process in others:
        process.kill()
        await process.wait()


@contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def condemned(template: RunningTemplate, *, devices: list[str]) -> Iterator[BinaryIO]:
    """Have a template believe that it has killed a child, which is gone when what this yields is closed.

    The reading end of a pipe is in the place of the process descriptor.
    """
    connection, (reading, writing) = endpoint(), os.pipe()
    with os.fdopen(writing, "wb") as slow_to_die:
        connection.connect(address_of(template.name))
        send(connection, Adopt(NO_PID, devices), [reading])
        os.close(reading)
        assert template.next_line() == f"{CHILDREN} 1"
        connection.close()
        yield slow_to_die


async def test_a_wish_whose_template_dies_waits_for_the_condemned_one_itself_before_it_goes_to_the_next(bare, tmp_path):
    told, names = work(tmp_path, "Talker"), list[str]()

    async def template() -> str:
        names.append(bare.name)
        return await bare.found()

    with condemned(bare, devices=["0"]) as slow_to_die:
        starting = asyncio.create_task(start(told, threads=1, devices=("0",), template=template))
        log = Path(told.attempt_dir) / "train.log"
        await until(lambda: log.exists() and "waits for" in log.read_text())
        bare.kill()
        bare.begin()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(starting), timeout=0.5)
        assert len(names) == 1

        slow_to_die.close()

        process = await starting
    assert isinstance(process, ForkedChild)
    assert names[-1] == bare.name
    process.kill()
    await process.wait()


async def test_the_number_of_an_adopted_child_may_be_anothers_who_is_not_killed(bare):
    with bystander() as another, bystander() as adopted:
        connection, pidfd = endpoint(), os.pidfd_open(adopted.pid)
        connection.connect(address_of(bare.name))
        send(connection, Adopt(another.pid, []), [pidfd])
        os.close(pidfd)
        assert await asyncio.to_thread(bare.next_line) == f"{CHILDREN} 1"

        connection.close()

        assert await asyncio.to_thread(bare.next_line) == f"{CHILDREN} 0"
        assert adopted.wait() == -signal.SIGKILL
        assert another.poll() is None


async def test_a_log_that_cannot_be_opened_leaves_no_descriptor_open(bare, tmp_path):
    told = work(tmp_path, "Talker")
    wanted = asked(told, [])
    (Path(told.attempt_dir) / "train.log").mkdir()
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - the names are numbers

    with pytest.raises(IsADirectoryError):
        await fork(bare.name, told, wanted, bare.found, never)

    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def never(pids: list[int]) -> None:
    raise AssertionError(f"nothing is dying, but {pids} were to be waited for")


async def test_a_template_of_another_build_forks_nothing(bare, tmp_path):
    told = work(tmp_path, "Talker")
    other = replace(asked(told, []), built_with=["/another/python", "0.0"])

    with pytest.raises(TemplateError, match=r"not /another/python with 0\.0"):
        await fork(bare.name, told, other, bare.found, never)


async def test_an_architecture_that_starts_a_thread_is_refused_and_told_to_the_agent(tmp_path):
    models = tmp_path / "transformers" / "models"
    for name, code in (
        ("rude", "import threading\nthreading.Thread(target=threading.Event().wait).start()"),
        ("bad", "1 / 0"),
    ):
        (models / name).mkdir(parents=True)
        (models / name / f"modeling_{name}.py").write_text(code)
    (tmp_path / "transformers" / "__init__.py").touch()
    told = work(tmp_path, "Talker")
    with RunningTemplate("transformers", PYTHONPATH=os.pathsep.join([str(tmp_path), *search_path()])) as template:
        bad, rude = (replace(asked(told, []), model_type=name) for name in ("bad", "rude"))
        process = await fork(template.name, told, bad, template.found, never)
        process.kill()
        await process.wait()
        assert [template.next_line() for _ in range(2)] == [f"{CHILDREN} 1", f"{CHILDREN} 0"]

        with pytest.raises(TemplateError, match="after loading rude: it has 2 threads"):
            await fork(template.name, told, rude, template.found, never)

        assert template.next_line() == f"{HARMED} rude"

    with RunningTemplate("--harmful=rude") as template:
        with pytest.raises(TemplateError, match="no template can load rude"):
            await fork(template.name, told, rude, template.found, never)
        assert template.process.poll() is None


async def test_a_start_that_is_cancelled_leaves_no_child(bare, tmp_path):
    with condemned(bare, devices=["0"]) as slow_to_die:
        told = work(tmp_path, "Talker")
        cancelled, kept = (
            asyncio.create_task(fork(bare.name, told, asked(told, ["0"]), bare.found, lambda _: None)) for _ in range(2)
        )
        await asyncio.sleep(0)  # they have asked

        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        slow_to_die.close()

        process = await kept
    assert await asyncio.to_thread(bare.next_line) == f"{CHILDREN} 0"
    assert await asyncio.to_thread(bare.next_line) == f"{CHILDREN} 1"
    process.kill()
    await process.wait()
    assert bare.children() == []


def asked(told: Work, devices: list[str]) -> Fork:
    Path(told.attempt_dir).mkdir(parents=True, exist_ok=True)
    return Fork(environment_for(told, 1), search_path(), told.attempt_dir, 1, devices, None, os.getpid(), built_with())


async def test_what_libraries_read_once_cannot_differ_from_the_templates(bare, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/another")
    told = work(tmp_path, "Talker")

    process = await start(told, threads=1, devices=(), template=bare.found)

    assert isinstance(process, Spawned)
    assert isinstance(await done(process, told), Published)
    log = (Path(told.attempt_dir) / "train.log").read_text()
    assert log == (
        "this process starts slowly, for it was not forked from a warm one: "
        "the template was loaded with another HF_HOME\n"
    )


async def test_without_a_template_a_process_is_spawned_and_its_log_says_why(tmp_path):
    told = work(tmp_path, "Talker")

    async def found() -> str:
        raise TemplateError("no template can be had on this node: it is a test")

    process = await start(told, threads=1, devices=(), template=found)

    assert isinstance(process, Spawned)
    assert isinstance(await done(process, told), Published)
    assert "it is a test" in (Path(told.attempt_dir) / "train.log").read_text()


async def test_a_template_that_is_not_warm_in_time_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("ftactors.runtime.starting.PATIENCE_S", 0.05)
    told = work(tmp_path, "Talker")

    async def found() -> str:
        await asyncio.Event().wait()
        return ""

    assert isinstance(await done(await start(told, threads=1, devices=(), template=found), told), Published)
    assert "no template was ready within 0.05 s" in (Path(told.attempt_dir) / "train.log").read_text()


def test_a_template_with_a_second_thread_is_unfit():
    with RunningTemplate("pyarrow", JE_ARROW_MALLOC_CONF="background_thread:true") as template:
        assert template.first_line.startswith(f"{UNFIT} it has 2 threads (ftactors-templ, jemalloc_bg_thd)")


def test_a_template_with_a_module_that_cannot_be_loaded_is_unfit():
    with RunningTemplate("ftactors.no_such_module") as template:
        assert template.first_line == f"{UNFIT} ModuleNotFoundError: No module named 'ftactors.no_such_module'"


async def test_nonsense_at_the_socket_harms_nobody(bare, tmp_path):
    for nonsense in (b"{}", b"\xff", b'{"Fork": {}}', b'{"Fork": 1}', b"[]", b'{"Adopt": {"pid": 1, "devices": []}}'):
        connection = endpoint()
        connection.connect(address_of(bare.name))
        connection.send(nonsense)
        await until(lambda found=connection: hung_up(found))
        connection.close()

    told = work(tmp_path, "Talker")
    assert isinstance(await done(await fork_from(bare.name, told), told), Published)


def hung_up(connection: Any) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("method", ["lora", "qlora"])
async def test_a_forked_child_has_the_losses_of_a_spawned_one_and_the_template_touches_no_device(warm, job, method):
    forked, spawned = job.work(method=method), job.work(method=method)

    assert isinstance(await done(await fork_from(warm.name, forked), forked), Published)
    assert isinstance(await done(spawn(spawned, 1), spawned), Published)

    assert len(losses(forked)) == 4
    assert losses(forked) == losses(spawned)


async def test_a_forked_child_says_its_first_word_at_least_five_times_as_soon_as_a_spawned_one(warm, job):
    async def to_fork(told: Work) -> ForkedChild:
        return await fork_from(warm.name, told)

    async def to_spawn(told: Work) -> Spawned:
        return spawn(told, 1)

    took = {to_start: [await first_word_s(to_start, job.work()) for _ in range(3)] for to_start in (to_fork, to_spawn)}

    forked, spawned = statistics.median(took[to_fork]), statistics.median(took[to_spawn])
    print(f"from the start to the first word: forked {forked:.3f} s, spawned {spawned:.3f} s")  # noqa: T201
    assert forked * 5 < spawned


async def first_word_s(to_start: Callable[..., Any], told: Work) -> float:
    began, heard = time.monotonic(), list[float]()
    child = Child(await to_start(told), told, lambda _: heard.append(time.monotonic()))
    async with asyncio.timeout(LONG_S):
        await child.ended.wait()
    return heard[0] - began


def test_the_architecture_is_that_of_the_model_below_all_adapters(tmp_path):
    model, revision = tmp_path / "model", tmp_path / "models--org--name" / "snapshots" / "abc"
    for place, kind in ((model, "llama"), (revision, "qwen3")):
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"model_type": kind}))
    full = BASE.model_copy(update={"path": str(model)})
    adapter = BASE.model_copy(update={"path": "/nowhere", "kind": "adapter", "base": full})

    def found(**changes: Any) -> str | None:
        return model_type_of(work(tmp_path, "Talker", base=BASE.model_copy(update=changes)))

    assert model_type_of(work(tmp_path, "Talker", base=adapter)) == "llama"
    assert found(path="/nowhere") is None
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_CACHE", str(tmp_path))
        assert found(path="org/name", source="hub", revision="abc") == "qwen3"
        assert found(path="org/name", source="hub") is None


async def test_a_template_that_hangs_up_is_an_error(bare, tmp_path):
    told = work(tmp_path, "Talker")
    os.kill(bare.process.pid, signal.SIGSTOP)
    starting = asyncio.create_task(fork(bare.name, told, asked(told, []), bare.found, never))
    await asyncio.sleep(0)
    bare.kill()

    with pytest.raises((TemplateError, ConnectionError)):
        await starting
    bare.begin()
