"""The process that does an attempt's work. It is spawned or forked, and lives no longer than its trainer actor.

A pipe brings the `Work` as the first line, then orders to stop; another takes its words; what it prints is the
attempt's log. Spawned, it finds orders at its standard input, and the pipe of words named by its argument.

SIGTERM keeps its default meaning: an ignored or handled one would be inherited by worker processes that the work forks,
and `Process.terminate()` would no longer end them.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import BinaryIO, NoReturn

from ftactors.core.events import Stage
from ftactors.core.session import Session, Stop
from ftactors.core.work import LAST_WORDS, AnyWord, StageBegun, StopOrder, Stopped, Work
from ftactors.runtime.failure import last_word_for
from ftactors.runtime.import_path import ExtensionError, resolve
from ftactors.runtime.lifeline import PARENT_GONE, WORKER_NAME, die_with_parent, set_name
from handlers.base import BaseDatasetHandler
from trainers.base import BaseTrainer

ENCODER = "trainers.encode"
"""By name and when it is needed: it loads tokenizers, and this package loads nothing of the kind."""


class PipeSession:
    """The session of a process of its own: words go out through a pipe, orders come in through another."""

    def __init__(self, words: BinaryIO) -> None:
        self.stage: Stage | None = None
        self._words = words
        self._order: StopOrder | None = None
        self._one_at_a_time = threading.Lock()

    def say(self, word: AnyWord) -> None:
        """Send a word, whole, before returning."""
        with self._one_at_a_time:
            if isinstance(word, StageBegun):
                self.stage = word.stage
            self._words.write(word.model_dump_json().encode() + b"\n")
            self._words.flush()

    @property
    def stop_order(self) -> StopOrder | None:
        """The latest order to stop, once there is one."""
        return self._order

    def listen(self, orders: BinaryIO) -> None:
        """Take orders until their pipe closes; then the actor is gone, and so is this process."""
        for line in orders:
            self._order = StopOrder.model_validate_json(line)
        os._exit(PARENT_GONE)


def main() -> None:
    """Do the work that a trainer actor has spawned this process for."""
    parent, words = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    set_name(WORKER_NAME)
    os.set_inheritable(words, False)
    do_work(_private_input(), words)


def do_work(orders_pipe: int, words_pipe: int) -> None:
    """Read the work from the one pipe, do it, say one last word into the other, and end."""
    orders, session = os.fdopen(orders_pipe, "rb"), PipeSession(os.fdopen(words_pipe, "wb"))
    line = orders.readline()
    if not line:
        sys.exit(PARENT_GONE)
    work = Work.model_validate_json(line)
    threading.Thread(target=session.listen, args=(orders,), name="orders", daemon=True).start()
    session.say(last_word(work, session))
    _end()


def last_word(work: Work, session: PipeSession) -> AnyWord:
    """Do the work and return its last word, whatever happens."""
    try:
        word = _prepare(work, session) if work.purpose == "prepare" else _train(work, session)
    except Stop:
        return Stopped(clean=False)
    except Exception as error:  # noqa: BLE001 - all that a user's code can raise ends here, as a word
        traceback.print_exception(error)
        return last_word_for(error, stage=session.stage, dataset=work.dataset.path if work.dataset else None)
    return word


def _train(work: Work, session: Session) -> AnyWord:
    trainer: BaseTrainer = resolve(work.trainer, BaseTrainer)(work, session)
    word = trainer.run()
    if not isinstance(word, LAST_WORDS):
        raise ExtensionError(f"{work.trainer}.run() returned {word!r}; it must return Published or Stopped")
    return word


def _prepare(work: Work, session: Session) -> AnyWord:
    handler: BaseDatasetHandler = resolve(work.handler, BaseDatasetHandler)(
        work.config.dataset_config, seed=work.config.seed
    )
    prepare: Callable[[Work, BaseDatasetHandler, Session], AnyWord] = import_module(ENCODER).prepare
    return prepare(work, handler, session)


def _end() -> NoReturn:
    """End as an interpreter does, but for taking apart all that is loaded: that takes longer than to train a step."""
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - what a user's threads have begun is finished
    atexit._run_exitfuncs()  # noqa: SLF001
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(0)


def _private_input() -> int:
    """Take the pipe of orders away from standard input, where the work's own code and children could read it."""
    orders = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return orders


if __name__ == "__main__":
    main()
