"""How the process of an attempt's work is started plainly; and the pipes and the environment that any of them has."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ftactors.core.work import Work
from ftactors.runtime.share import allocator_settings

_THREAD_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_INTERPRETER_PATHS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Started(Protocol):
    """A process that was started for an attempt's work, as its trainer actor holds it."""

    pid: int
    orders: int
    """Our end of the pipe of its orders, which does not block."""
    words: int
    """Our end of the pipe of its words."""

    def kill(self) -> None:
        """Kill it, with all that it has forked where that is possible. Harmless once it is gone."""

    async def wait(self) -> int | None:
        """Return its exit code once it is gone, negative for the signal that killed it; None: it cannot be known."""


@dataclass(frozen=True, slots=True)
class Pipes:
    """Both ends of the pipes of orders and words."""

    orders: int
    its_orders: int
    words: int
    its_words: int

    @classmethod
    def opened(cls) -> Pipes:
        """Return new pipes, of which our ends do not block."""
        (its_orders, orders), (words, its_words) = os.pipe(), os.pipe()
        os.set_blocking(orders, False)
        os.set_blocking(words, False)
        return cls(orders, its_orders, words, its_words)

    def hand_over(self) -> None:
        """Close the ends that the process has by now."""
        os.close(self.its_orders)
        os.close(self.its_words)

    def close_ours(self) -> None:
        """Close our ends: nobody will read or write there."""
        os.close(self.orders)
        os.close(self.words)


class Spawned:
    """A process with an interpreter of its own. The kernel kills it when the *thread* that started it ends."""

    def __init__(self, process: subprocess.Popen[bytes], pipes: Pipes) -> None:
        self.pid, self.orders, self.words = process.pid, pipes.orders, pipes.words
        self._process = process

    def kill(self) -> None:
        """Kill it; what it has forked lives as long as the actor, whose process group Ray kills."""
        self._process.kill()

    async def wait(self) -> int | None:
        """Wait in a thread of its own: not every kernel that Ray runs on has a file descriptor for a process."""
        loop = asyncio.get_running_loop()
        code: asyncio.Future[int] = loop.create_future()

        def tell(ended: int) -> None:
            if not code.done():
                code.set_result(ended)

        def wait() -> None:
            ended = self._process.wait()
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(tell, ended)

        threading.Thread(target=wait, name=f"wait-{self.pid}", daemon=True).start()
        return await code


def log_of(work: Work) -> Path:
    """Return the file that an attempt's processes print to."""
    return Path(work.attempt_dir) / "train.log"


def spawn(work: Work, threads: int) -> Spawned:
    """Start a process in the attempt's directory, which is made.

    It stays in the session and the process group of the actor, for Ray kills that group when the actor dies: what the
    work may have forked too.

    Args:
        work: What the process will be told to do.
        threads: How many threads each of its numeric libraries may use.

    Raises:
        OSError: the directory cannot be made, or the process not started.
    """
    log = log_of(work)
    log.parent.mkdir(parents=True, exist_ok=True)
    pipes = Pipes.opened()
    command = [sys.executable, "-P", "-m", "ftactors.runtime.process", str(os.getpid()), str(pipes.its_words)]
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=pipes.its_orders,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(pipes.its_words,),
                cwd=log.parent,
                env=environment_for(work, threads),
            )
    except OSError:
        pipes.close_ours()
        raise
    finally:
        pipes.hand_over()
    return Spawned(process, pipes)


def environment_for(work: Work, threads: int) -> dict[str, str]:
    """Return the actor's environment, with what Ray has done to `sys.path` and with the limits of the share."""
    environment = os.environ | dict.fromkeys(_THREAD_POOLS, str(threads))
    environment["PYTHONPATH"] = os.pathsep.join(search_path())
    environment["PYTHONUNBUFFERED"] = "1"  # the log shall hold what was printed before a SIGKILL
    environment["PYTHONFAULTHANDLER"] = "1"  # and where Python was at a segmentation fault
    environment |= allocator_settings(environment, work.gpu_thousandths)
    if not work.uses_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides nothing from an actor without a GPU
    return environment


def search_path() -> list[str]:
    """Return `sys.path` without the interpreter's own directories, in which Ray puts some of its private ones too."""
    return [str(Path(entry).absolute()) for entry in sys.path if not is_interpreters_own(entry)]


def is_interpreters_own(entry: str) -> bool:
    """Return whether an entry of `sys.path` belongs to the interpreter."""
    return any(Path(entry).absolute().is_relative_to(own) for own in _INTERPRETER_PATHS)
