"""The template of a node: a warm process with one thread, which forks the children of trainer actors.

It serves one socket and never blocks but to load an architecture. Each connection is a trainer actor that asks for one
child, and stays open for as long as the child lives. When it closes before, the child is killed, and while it dies no
new child is forked on a device that it holds. Children do not need the template: they outlive it, and the next one is
asked to watch them.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from ftactors.runtime.becoming import Birth, become
from ftactors.runtime.forking import (
    Adopt,
    Ended,
    Fork,
    Forked,
    Refused,
    Waits,
    address_of,
    built_with,
    close_all,
    endpoint,
    is_own_user,
    receive,
    send,
)
from ftactors.runtime.lifeline import TEMPLATE_NAME, check_kernel, die_with_parent, set_name
from ftactors.runtime.preload import READ_AT_IMPORT, preload, preload_architecture, unfitness
from ftactors.runtime.process import do_work

READY, CHILDREN, UNFIT, HARMED = "ready", "children", "unfit", "harmed"
"""The first words of what it tells its agent; then comes its name, how many children there are, why it is unfit, or
which architecture has made it so."""
_BACKLOG = 128


@dataclass(slots=True, eq=False)
class Ward:
    """A child that lives, or is dying."""

    pid: int
    pidfd: int
    devices: frozenset[str]
    actor: socket.socket | None
    """Who it lives for; None: nobody any more, and it was killed."""
    is_own: bool
    """Whether this template has forked it, and has to reap it."""


@dataclass(slots=True, eq=False)
class Wish:
    """A child that was asked for, and waits for its devices."""

    actor: socket.socket
    asked: Fork
    descriptors: list[int]
    awaited: list[Ward] = field(default_factory=list)
    """Those that the actor knows it waits for."""


class Template:
    """Forks children, and watches them.

    Args:
        name: Of its socket.
        tell: Tells the agent something, by its first word.
        harmful: Architectures that no process can load and fork then.
    """

    def __init__(self, name: str, tell: Callable[[str, object], None], harmful: Collection[str] = ()) -> None:
        self._tell, self._harmful = tell, harmful
        self._born_with = _read_at_import(dict(os.environ))
        self._wards: list[Ward] = []
        self._wishes: list[Wish] = []
        self._selector = selectors.DefaultSelector()
        listener = endpoint()
        listener.bind(address_of(name))
        listener.listen(_BACKLOG)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))

    def serve(self) -> Birth:
        """Serve for ever; returns in each of the children alone."""
        while True:
            ((key, _), *_rest) = self._selector.select()  # one event at a time: it may be the end of another's source
            birth: Birth | None = key.data()
            if birth is not None:
                return birth

    def _accept(self, listener: socket.socket) -> None:
        try:
            actor, _ = listener.accept()
        except OSError:  # it has left again
            return
        actor.setblocking(False)
        if not is_own_user(actor):
            actor.close()
            return
        self._selector.register(actor, selectors.EVENT_READ, lambda: self._hear(actor))

    def _hear(self, actor: socket.socket) -> Birth | None:
        """Take what an actor asks for; it asks once, so whatever comes after that is its end."""
        try:
            message, descriptors = receive(actor)
        except (OSError, ValueError):
            message, descriptors = None, []
        known = any(actor is asker for asker in self._askers())
        match message:
            case Fork() if len(descriptors) == 4 and not known:  # noqa: PLR2004 - as `Fork` says
                if (reason := self._refusal(message)) is None:
                    self._wishes.append(Wish(actor, message, descriptors))
                    return self._fulfil()
                close_all(descriptors)
                self._answer(actor, Refused(reason))
                self._forget(actor)
            case Adopt() if len(descriptors) == 1 and not known:
                self._watch(Ward(message.pid, descriptors[0], frozenset(message.devices), actor, is_own=False))
            case _:
                close_all(descriptors)
                self._lose(actor)
                return self._fulfil()
        return None

    def _askers(self) -> Iterator[socket.socket | None]:
        yield from (ward.actor for ward in self._wards)
        yield from (wish.actor for wish in self._wishes)

    def _refusal(self, asked: Fork) -> str | None:
        """Return what a child could not be given."""
        if asked.built_with != built_with():
            return f"the template runs {' with ftactors '.join(built_with())}, not {' with '.join(asked.built_with)}"
        if asked.model_type in self._harmful:
            return f"no template can load {asked.model_type} and fork then"
        asks = _read_at_import(asked.environment)
        differing = sorted(name for name in asks | self._born_with if asks.get(name) != self._born_with.get(name))
        return f"the template was loaded with another {', '.join(differing)}" if differing else None

    def _fulfil(self) -> Birth | None:
        """Fork what was asked for and has its devices to itself and those that live; tell the others who is dying."""
        for wish in [*self._wishes]:
            dying = [ward for ward in self._wards if ward.actor is None and ward.devices & {*wish.asked.devices}]
            if not dying:
                self._wishes.remove(wish)
                if (birth := self._fork(wish)) is not None:
                    return birth
            elif unknown := [ward for ward in dying if ward not in wish.awaited]:
                wish.awaited += unknown
                pids, pidfds = [ward.pid for ward in unknown], [ward.pidfd for ward in unknown]
                self._answer(wish.actor, Waits(pids), *pidfds)
        return None

    def _fork(self, wish: Wish) -> Birth | None:
        if preload_architecture(wish.asked.model_type) and (reason := unfitness()) is not None:
            told = f"after loading {wish.asked.model_type}: {reason}"
            self._tell(HARMED, wish.asked.model_type)
            self._answer(wish.actor, Refused(told))
            raise SystemExit(told)  # another takes its place, and will not load it
        try:
            pid = os.fork()
        except OSError as error:
            close_all(wish.descriptors)
            self._answer(wish.actor, Refused(f"the template cannot fork: {error}"))
            self._forget(wish.actor)
            return None
        if pid == 0:
            self._close()
            return Birth(wish.asked, *wish.descriptors)
        with suppress(OSError):
            os.setpgid(pid, pid)  # the child does it too, and who is later does no harm
        close_all(wish.descriptors)
        ward = Ward(pid, os.pidfd_open(pid), frozenset(wish.asked.devices), wish.actor, is_own=True)
        self._watch(ward)
        self._answer(wish.actor, Forked(pid), ward.pidfd)
        return None

    def _watch(self, ward: Ward) -> None:
        self._wards.append(ward)
        self._selector.register(ward.pidfd, selectors.EVENT_READ, lambda: self._bury(ward))
        self._tell(CHILDREN, len(self._wards))

    def _bury(self, ward: Ward) -> Birth | None:
        """Take note that a child has ended, and kill what it has left behind."""
        self._selector.unregister(ward.pidfd)
        self._wards.remove(ward)
        code = None
        if ward.is_own:
            _kill(ward)  # its number is taken until it is reaped
            code = os.waitstatus_to_exitcode(os.waitpid(ward.pid, 0)[1])
        os.close(ward.pidfd)
        if ward.actor is not None:
            self._answer(ward.actor, Ended(code))
            self._forget(ward.actor)
        self._tell(CHILDREN, len(self._wards))
        return self._fulfil()

    def _lose(self, actor: socket.socket) -> None:
        """Kill what an actor that is gone has left, and give up what it has asked for."""
        for ward in self._wards:
            if ward.actor is actor:
                ward.actor = None
                _kill(ward)
        for wish in [wish for wish in self._wishes if wish.actor is actor]:
            self._wishes.remove(wish)
            close_all(wish.descriptors)
        self._forget(actor)

    def _answer(self, actor: socket.socket, message: Waits | Forked | Ended | Refused, *descriptors: int) -> None:
        with suppress(OSError):  # it is gone: that will be heard
            send(actor, message, descriptors)

    def _forget(self, actor: socket.socket) -> None:
        self._selector.unregister(actor)
        actor.close()

    def _close(self) -> None:
        """Close all that a child must not hold, and by its owner: a closed number may be given again."""
        for key in self._selector.get_map().values():
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()


def main() -> None:
    """Load, tell the agent, serve; do the work in each child."""
    parser = argparse.ArgumentParser()
    parser.add_argument("agent", type=int)
    parser.add_argument("name")
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--harmful", action="append", default=[])
    told = parser.parse_args()
    die_with_parent(told.agent)
    set_name(TEMPLATE_NAME)
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what modules print while they are loaded is for the log
    reason = _load(tuple(told.modules))
    if reason is not None:
        print(UNFIT, *reason.split(), file=reports)  # in one line
        sys.exit(1)
    template = Template(told.name, partial(_tell, reports), told.harmful)
    _tell(reports, READY, told.name)
    birth = template.serve()
    reports.close()
    become(birth)
    do_work(birth.orders, birth.words)


def _load(modules: tuple[str, ...]) -> str | None:
    """Return why this process cannot be a template, None where it can."""
    try:
        check_kernel()
        preload(modules)
    except (ImportError, OSError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return unfitness()


def _tell(reports: TextIO, word: str, what: object) -> None:
    with suppress(BrokenPipeError):  # the agent is gone, and so is this process
        print(word, what, file=reports)


def _kill(ward: Ward) -> None:
    """Kill a child, and all that it has forked where it is our own.

    The number of one that was adopted may be another's by now. What that has forked dies of its lifeline; and its
    descriptor came from another process, so it may be anything.
    """
    if ward.is_own:
        with suppress(ProcessLookupError):
            os.killpg(ward.pid, signal.SIGKILL)
    else:
        with suppress(OSError):
            signal.pidfd_send_signal(ward.pidfd, signal.SIGKILL)


def _read_at_import(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


if __name__ == "__main__":
    main()
