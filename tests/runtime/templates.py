"""A node's template, run by a test instead of an agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self
from uuid import uuid4

from ftactors.runtime.preload import SINGLE_THREADED
from ftactors.runtime.spawn import search_path
from ftactors.runtime.template import READY

MODULE = "ftactors.runtime.template"


class RunningTemplate:
    """A template that has loaded `modules`; another takes its place, under a new name, when it is asked to.

    Args:
        modules: None by default: it forks all the same.
        program: What runs it.
        environment: What is changed in that of the test.
    """

    def __init__(self, *modules: str, program: str = MODULE, **environment: str) -> None:
        self._modules, self._program, self._environment = modules, program, environment
        self.begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def begin(self) -> None:
        """Start it, and wait until it is ready."""
        self.name = f"ftactors-test-{uuid4().hex}"
        environment = os.environ | SINGLE_THREADED | {"PYTHONPATH": os.pathsep.join(search_path())} | self._environment
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._program, str(os.getpid()), self.name, *self._modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd="/",
            env=environment | {"PYTHONUNBUFFERED": "1"},
            text=True,
        )
        self.first_line = self.next_line()

    def next_line(self) -> str:
        """Return what it tells its agent next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    async def found(self) -> str:
        """Return its name, as a node's agent does."""
        assert self.first_line == f"{READY} {self.name}"
        return self.name

    def kill(self) -> None:
        """Kill it; its children live."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def children(self) -> list[int]:
        """Return its children that it has not reaped."""
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]
