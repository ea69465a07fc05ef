"""A child that a node's template has forked, as its trainer actor holds it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress

from ftactors.core.work import Work
from ftactors.runtime.forking import (
    Adopt,
    Ended,
    Fork,
    Forked,
    Message,
    Refused,
    TemplateError,
    Waits,
    address_of,
    close_all,
    endpoint,
    is_own_user,
    receive,
    send,
)
from ftactors.runtime.spawn import Pipes, log_of

TemplateOf = Callable[[], Awaitable[str]]
"""Returns the name of the node's template once it is warm; raises TemplateError where there will be none."""
_RETRY_S = 1.0


class ForkedChild:
    """A child that this process holds three things of: its process descriptor, its lifeline, and who watches it.

    The kernel kills the child and all that it has forked when the lifeline is closed, as it is when this process dies.
    The template reaps it. When the template dies, the child goes on, and a new template is asked to watch it.

    Args:
        pid: The process.
        pidfd: Its descriptor.
        lifeline: The writing end of a pipe that only ever is closed.
        pipes: Those of orders and words.
        connection: To the template that has forked it.
        devices: What it holds, for the next template.
        template: Finds that one.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        lifeline: int,
        pipes: Pipes,
        connection: socket.socket,
        devices: list[str],
        template: TemplateOf,
    ) -> None:
        self.pid, self.orders, self.words = pid, pipes.orders, pipes.words
        self._pidfd, self._lifeline, self._connection = pidfd, lifeline, connection
        self._devices, self._template = devices, template
        self._is_cut = False

    def kill(self) -> None:
        """Kill it, with all that it has forked."""
        if not self._is_cut:
            self._is_cut = True
            os.close(self._lifeline)

    async def wait(self) -> int | None:
        """Return its exit code once it is gone; None where the template that forked it ended before."""
        try:
            code = await self._told()
            if code is None:
                await self._outlive_templates()
        finally:
            self.kill()  # what it has left behind
            self._connection.close()
            os.close(self._pidfd)
        return code

    async def _told(self) -> int | None:
        """Return the exit code as the template tells it; None once there is no template."""
        try:
            message, _ = await _next(self._connection)
        except (OSError, ValueError):
            return None
        return message.code if isinstance(message, Ended) else None

    async def _outlive_templates(self) -> None:
        """Return when the process is gone; let a new template watch it meanwhile."""
        watched = asyncio.get_running_loop().create_task(self._be_watched())
        try:
            await _readable(self._pidfd)
        finally:
            watched.cancel()
            await asyncio.wait([watched])

    async def _be_watched(self) -> None:
        """Have the node's template watch the process, and the next one when that dies."""
        while True:
            with suppress(OSError, ValueError, TemplateError):
                self._connection.close()
                self._connection = _connected(await self._template())
                send(self._connection, Adopt(self.pid, self._devices), [self._pidfd])
                await _next(self._connection)
            await asyncio.sleep(_RETRY_S)


async def fork(
    name: str, work: Work, asked: Fork, template: TemplateOf, on_wait: Callable[[list[int]], None]
) -> ForkedChild:
    """Return a child that a template has forked. Cancelled, it leaves none.

    Args:
        name: The template's.
        work: What the child will be told.
        asked: What it shall have.
        template: Finds the next template, should this one die.
        on_wait: Is told which processes have to end first, when that is so.

    Raises:
        TemplateError: the template will not fork it.
        ConnectionError: the template is gone, and so are the processes that it waited for.
        OSError: the attempt's log cannot be opened.
        ValueError: it does not speak as a template does.
    """
    connection = _connected(name)
    with ExitStack() as undo:
        undo.callback(connection.close)
        with ExitStack() as handed_over:
            log = os.open(log_of(work), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            handed_over.callback(os.close, log)
            pipes = Pipes.opened()
            handed_over.callback(pipes.hand_over)
            undo.callback(pipes.close_ours)
            its_lifeline, lifeline = os.pipe()
            handed_over.callback(os.close, its_lifeline)
            undo.callback(os.close, lifeline)
            send(connection, asked, [pipes.its_orders, pipes.its_words, log, its_lifeline])
        message, descriptors = await _fulfilled(connection, on_wait)
        if not isinstance(message, Forked):
            close_all(descriptors)
            raise TemplateError(message.reason if isinstance(message, Refused) else f"it was answered {message}")
        undo.pop_all()
    return ForkedChild(message.pid, descriptors[0], lifeline, pipes, connection, asked.devices, template)


def _connected(name: str) -> socket.socket:
    connection = endpoint()
    try:
        connection.connect(address_of(name))  # at once, or not at all: it waits for no answer
        if not is_own_user(connection):
            raise TemplateError(f"template {name} belongs to another user")
    except BaseException:
        connection.close()
        raise
    return connection


async def _fulfilled(
    connection: socket.socket, on_wait: Callable[[list[int]], None]
) -> tuple[Message | None, list[int]]:
    """Return what a template answers in the end.

    Raises:
        ConnectionError: it is gone; whom it waited for has ended, so that nothing starts beside them.
        ValueError: it does not speak as a template does.
    """
    awaited: list[int] = []
    try:
        while isinstance((answer := await _heard(connection))[0], Waits):
            awaited += answer[1]
            on_wait(answer[0].pids)
        if answer[0] is None:
            for pidfd in awaited:
                await _readable(pidfd)
            raise ConnectionResetError("the template hung up")
    finally:
        close_all(awaited)
    return answer


async def _heard(connection: socket.socket) -> tuple[Message | None, list[int]]:
    try:
        return await _next(connection)
    except ConnectionError:
        return None, []


async def _next(connection: socket.socket) -> tuple[Message | None, list[int]]:
    while True:
        try:
            return receive(connection)
        except BlockingIOError:
            await _readable(connection.fileno())


async def _readable(descriptor: int) -> None:
    """Return when there is something to be read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, tell)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
