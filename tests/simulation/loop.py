"""An event loop whose time is virtual, which runs only when it is told to, and in which a whole process can die.

Sleeping costs nothing: time passes when a test lets it pass. What is handed to the log's writer thread waits in
`writes` until the test has it done, so that a crash can fall before a commit, between a commit and those who wait for
it, and between them and what they do. The tasks of several processes live in one loop, told apart by `LIFE` in their
contexts; when one dies, nothing of it runs any more, not even what was to run next.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from asyncio.base_events import BaseEventLoop
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from types import CoroutineType
from typing import Any
from weakref import WeakKeyDictionary

LIFE: ContextVar[int] = ContextVar("LIFE", default=0)
"""Which process a task belongs to; 0: the test's own."""


@dataclass(eq=False)
class Write:
    """Work that waits for the writer thread of a process."""

    life: int
    writer: Executor
    work: Callable[[], Any]
    name: str
    """Of the storage's method."""
    told: asyncio.Future[Any]

    def do(self) -> None:
        """Do it, and tell the loop."""
        try:
            result = self.work()
        except Exception as error:  # noqa: BLE001 - as an executor does
            self.fail(error)
        else:
            if not self.told.done():
                self.told.set_result(result)

    def fail(self, error: Exception) -> None:
        """Tell the loop that it failed."""
        if not self.told.done():
            self.told.set_exception(error)


class VirtualLoop(BaseEventLoop):
    """Runs what is ready, one turn at a time; never waits."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self  # it asks for time to pass and for what files have to say; neither happens here
        self._seconds = 0.0
        self._dead: set[int] = set()
        self._killed: list[asyncio.Task[Any]] = []
        """Kept, for what their coroutines do as they are thrown away must not be done before the end."""
        self._tasks: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self.writes: deque[Write] = deque()
        self.errors: list[str] = []
        """What went wrong in callbacks."""
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._seconds

    def turn(self) -> bool:
        """Run all that is ready once; return whether anything was."""
        due = self.next_timer()
        if not self._ready and (due is None or due > self._seconds):
            return False
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            self._run_once()
        finally:
            events._set_running_loop(before)
        return True

    def next_timer(self) -> float | None:
        """Return when the next sleeper wakes; None where nobody sleeps."""
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        return self._scheduled[0]._when if self._scheduled else None

    def pass_until(self, seconds: float) -> None:
        """Let time pass; who slept until then wakes at the next turn."""
        self._seconds = max(self._seconds, seconds)

    def kill(self, life: int) -> None:
        """Let all tasks of a process end where they are, without a word, and what it had on its way to the disk too."""
        self._dead.add(life)
        self._killed += [task for task, of in self._tasks.items() if of == life]
        for handle in [*self._ready, *self._scheduled]:
            if handle._context.get(LIFE) == life:
                handle.cancel()
        self.writes = deque(write for write in self.writes if write.life != life)

    def spawn(self, life: int, coroutine: Any) -> asyncio.Task[Any]:
        """Start a task of a process."""
        context = copy_context()
        context.run(LIFE.set, life)
        return self.create_task(coroutine, context=context)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        """Start a task, and remember whose it is."""
        task = super().create_task(coro, name=name, context=context)
        life = LIFE.get() if context is None else context.get(LIFE, 0)
        self._tasks[task] = life
        if life in self._dead:
            self._killed.append(task)
        return task

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Keep a writer's work for later; do all other at once."""
        told = self.create_future()
        write = Write(LIFE.get(), executor, lambda: func(*args), getattr(func, "__name__", ""), told)  # type: ignore[arg-type]
        if executor is None:
            write.do()
        else:
            self.writes.append(write)
        return told

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        """Let a callback run at the next turn, unless it is of a process that is dead."""
        handle = super().call_soon(callback, *args, context=context or copy_context())
        if handle._context.get(LIFE) in self._dead:
            handle.cancel()
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Let a callback run at a time, unless it is of a process that is dead."""
        timer = super().call_at(when, callback, *args, context=context or copy_context())
        if timer._context.get(LIFE) in self._dead:
            timer.cancel()
        return timer

    def end(self) -> None:
        """Throw all away that never came to its end."""
        self._dead |= {*self._tasks.values()}
        for task in {*self._tasks, *self._killed}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if isinstance(coroutine, CoroutineType):
                coroutine.close()
        self.close()

    def select(self, timeout: float | None) -> list[Any]:  # noqa: ARG002 - it never waits
        """Stand in for a selector: no file ever has news."""
        return []

    def _check_closed(self) -> None:
        """Let coroutines that are thrown away after the end still clean up in vain."""

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "never retrieved" not in context["message"]:  # of a process that was killed, mostly
            self.errors.append(f"{context['message']}: {error!r}")
