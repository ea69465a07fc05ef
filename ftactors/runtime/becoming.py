"""How a forked process becomes a trainer actor's child: all that it was born with is the template's."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass

from ftactors.runtime import process
from ftactors.runtime.forking import Fork
from ftactors.runtime.lifeline import WORKER_NAME, die_with_pipe, set_name
from ftactors.runtime.preload import reveal
from ftactors.runtime.spawn import is_interpreters_own


@dataclass(frozen=True, slots=True)
class Birth:
    """What a forked process was made for."""

    asked: Fork
    orders: int
    words: int
    log: int
    lifeline: int


def become(birth: Birth) -> None:
    """Take the surroundings that were asked for, in place of the template's.

    Raises:
        OSError: its directory is gone.
    """
    os.setpgid(0, 0)  # to be killed with all that it forks, and not with the template
    die_with_pipe(birth.lifeline)
    set_name(WORKER_NAME)
    _take_files(birth)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.enable()
    asked = birth.asked
    os.environ.clear()
    os.environ.update(asked.environment)
    time.tzset()
    tempfile.tempdir = None
    os.chdir(asked.directory)
    sys.path[:] = [*asked.search_path, *(entry for entry in sys.path if is_interpreters_own(entry))]
    importlib.invalidate_caches()
    sys.argv[:] = [process.__file__, str(asked.asker), str(birth.words)]  # as if it had been spawned
    reveal()
    _draw_anew()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(asked.threads)  # OMP_NUM_THREADS was read when it was loaded


def _take_files(birth: Birth) -> None:
    """Keep the descriptors that came along, print to the log, read from nothing, and close what else is open."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(birth.log, 1)
    os.dup2(birth.log, 2)
    _close_all_but({0, 1, 2, birth.orders, birth.words, birth.lifeline})


def _close_all_but(kept: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the names are numbers
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # it was the one of this listing
                continue


def _draw_anew() -> None:
    """Give numpy a random state of its own; `random` has one already, and torch's is the same in every process."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
