"""How the process of an attempt's work is started: its pipes, its directory, its environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from ftactors.core.work import Work

_THREAD_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_INTERPRETER_PATHS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def start(work: Work, log: Path, threads: int) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start a process and return it, with our end of the pipe of its orders and of the pipe of its words.

    It stays in the session and the process group of the actor, for Ray kills that group when the actor dies: what the
    work may have forked too.

    Raises:
        OSError: the log's directory cannot be made, or the process not started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    (its_orders, orders), (words, its_words) = os.pipe(), os.pipe()
    command = [sys.executable, "-P", "-m", "ftactors.runtime.process", str(os.getpid()), str(its_words)]
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=its_orders,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(its_words,),
                cwd=log.parent,
                env=_environment(threads, uses_gpu=work.uses_gpu),
            )
    except OSError:
        os.close(orders)
        os.close(words)
        raise
    finally:
        os.close(its_orders)
        os.close(its_words)
    os.set_blocking(orders, False)
    os.set_blocking(words, False)
    return process, orders, words


def _environment(threads: int, *, uses_gpu: bool) -> dict[str, str]:
    """Return the actor's environment, with what Ray has done to `sys.path` and with the limits of the share."""
    environment = os.environ | dict.fromkeys(_THREAD_POOLS, str(threads))
    environment["PYTHONPATH"] = os.pathsep.join(_search_path())
    environment["PYTHONUNBUFFERED"] = "1"  # the log shall hold what was printed before a SIGKILL
    environment["PYTHONFAULTHANDLER"] = "1"  # and where Python was at a segmentation fault
    if not uses_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides nothing from an actor without a GPU
    return environment


def _search_path() -> list[str]:
    """Return `sys.path` without the interpreter's own directories, in which Ray puts some of its private ones too."""
    entries = [Path(entry).absolute() for entry in sys.path]
    return [str(entry) for entry in entries if not any(entry.is_relative_to(own) for own in _INTERPRETER_PATHS)]
