"""How the kernel is told to end a process whose owner is gone: whatever it does then, and holding the GIL too."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys

PARENT_GONE = 90
"""The exit code of a process whose owner was gone before the kernel was told."""
WORKER_NAME = "ftactors-work"
"""What a process that does an attempt's work is called: a forked one has no command line of its own."""
TEMPLATE_NAME = "ftactors-templ"
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(PARENT_GONE)


def die_with_pipe(reading: int) -> None:
    """Let the kernel kill this process group when nobody holds the other end of a pipe that nobody writes to.

    That needs no parent: it outlasts the process that forked this one. The signal that stands for news on the pipe is
    SIGKILL, and the only news that it can have is that it was closed.

    Raises:
        OSError: this kernel has no such signals.
    """
    fcntl.fcntl(reading, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(reading, fcntl.F_SETFL, fcntl.fcntl(reading, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(reading, 0)
    if poll.poll(0):  # it was closed before the kernel was told
        os._exit(PARENT_GONE)


def check_kernel() -> None:
    """Try what a forked child rests on.

    Raises:
        OSError: the kernel has no signals for pipes, or no descriptors for processes.
        AttributeError: the system has none of them.
    """
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(reading, fcntl.F_SETSIG, 0)  # what it is in any case
        os.close(os.pidfd_open(os.getpid()))
    finally:
        os.close(reading)
        os.close(writing)


def set_name(name: str) -> None:
    """Call this process by a name, of at most 15 bytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
