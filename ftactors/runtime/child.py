"""The process of an attempt's work, seen from its trainer actor: heard, stopped, killed. No Ray in here."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from ftactors.core.events import Fact, Stage
from ftactors.core.work import LAST_WORDS, WORDS, AnyWord, StageBegun, StopOrder, Stopped, Work
from ftactors.runtime.failure import last_word_for, last_word_of_the_dead
from ftactors.runtime.spawn import Started, log_of

LINGER_S = 30.0
"""How long a process may take to exit after its last word."""
_TAIL_LINES, _TAIL_BYTES = 12, 4096


class Child:
    """A process that was started and is told its work; it says words until it says a last one.

    Make it and use it in one event loop.

    Args:
        process: The process, and our ends of its pipes, which are closed when it has ended.
        work: What it shall do.
        hear: Called with each word, in order. The last of them is a last word, whatever becomes of the process.
    """

    def __init__(self, process: Started, work: Work, hear: Callable[[AnyWord], None]) -> None:
        self.ended = asyncio.Event()
        """Set once the last word was heard and the process is gone."""
        self._loop = asyncio.get_running_loop()
        self._hear = hear
        self._log = log_of(work)
        self._process, self._orders, self._words = process, process.orders, process.words
        self._heard_at = time.monotonic()
        self._stage: Stage | None = None
        self._partial, self._unsent = b"", b""
        self._order: StopOrder | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last: AnyWord | None = None
        self._killed = False
        self._loop.add_reader(self._words, self._read)
        self._send(work)
        self._waiting = self._loop.create_task(self._wait())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def quiet_s(self) -> float:
        """Seconds since the last word, or since the start; 0 once the process is gone."""
        return 0.0 if self.ended.is_set() else time.monotonic() - self._heard_at

    def stop(self, order: StopOrder) -> None:
        """Tell the process to stop, and kill it if it is not gone in time. To be called as often as one likes.

        A later order never gives more time. It can withdraw the checkpoint, but not ask for one again.
        """
        if self.ended.is_set():
            return
        if self._order is None or (self._order.save and not order.save):
            self._order = order
            self._send(order)
        self._kill_in(order.grace_s)

    def kill(self) -> None:
        """Kill the process, whatever it does; it is gone when `ended` is set."""
        if not self.ended.is_set():
            self._killed = True
            self._process.kill()

    def _kill_in(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if self._timer is None or at < self._timer.when():
            self._cancel_timer()
            self._timer = self._loop.call_at(at, self.kill)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _send(self, line: Fact) -> None:
        self._unsent += line.model_dump_json().encode() + b"\n"
        self._write()

    def _write(self) -> None:
        """Write what the pipe takes now, and the rest when it takes more: a busy child must not block the actor."""
        try:
            written = os.write(self._orders, self._unsent)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:  # it has died; `_wait` will tell
            written = len(self._unsent)
        self._unsent = self._unsent[written:]
        if self._unsent:
            self._loop.add_writer(self._orders, self._write)
        else:
            self._loop.remove_writer(self._orders)

    def _read(self) -> None:
        """Hear all that the pipe holds now."""
        while True:
            try:
                chunk = os.read(self._words, 65536)
            except BlockingIOError:
                return
            if not chunk:
                self._loop.remove_reader(self._words)
                return
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            for line in lines:
                self._take(self._understood(line))

    def _understood(self, line: bytes) -> AnyWord:
        try:
            return WORDS.validate_json(line)
        except ValidationError as error:  # the work wrote to a pipe that is not its own
            self.kill()
            return last_word_for(error, stage=self._stage, dataset=None)

    def _take(self, word: AnyWord) -> None:
        if self._last is not None:
            return
        self._heard_at = time.monotonic()
        if isinstance(word, StageBegun):
            self._stage = word.stage
        if isinstance(word, LAST_WORDS):
            self._last = word  # heard once the process is gone: until then it holds memory, and a device
            self._kill_in(LINGER_S)
        else:
            self._hear(word)

    async def _wait(self) -> None:
        code = await self._process.wait()
        self._read()  # not until the end of the pipe: a forked worker that lives on may hold it open
        self._loop.remove_reader(self._words)
        self._loop.remove_writer(self._orders)
        os.close(self._words)
        os.close(self._orders)
        self._hear(self._last or self._last_word(code))
        self._cancel_timer()
        self.ended.set()

    def _last_word(self, code: int | None) -> AnyWord:
        if self._order is not None:
            return Stopped(clean=False)
        return last_word_of_the_dead(
            self.pid, code, stage=self._stage, asked_for=self._killed, log_tail=_last_lines(self._log)
        )


def _last_lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip()][-_TAIL_LINES:]
