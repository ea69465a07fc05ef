"""A rank of an attempt in a process of its own, as its trainer actor would start it: `python -m tests.trainers.gang`.

Its arguments are the file of its `Work`, the file that its words go to, and what it does meanwhile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ftactors.core.work import WORDS, AnyWord, CheckpointWritten, Evaluated, StopOrder, Work
from ftactors.runtime.meeting import Meeting
from ftactors.runtime.process import PipeSession, last_word

Deed = Literal["works", "is-stopped", "is-killed"]
STOPPED_AFTER = 4
"""The checkpoint after which rank 0 has an order to stop."""
ENDS_WITHIN_S = 240.0


@dataclass(frozen=True)
class Ended:
    """How a rank ended."""

    code: int
    words: list[AnyWord]

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the words of a kind."""
        return [word for word in self.words if isinstance(word, kind)]

    @property
    def last(self) -> AnyWord:
        """The last word."""
        return self.words[-1]


def run_gang(work: Work, directory: Path, deeds: Sequence[Deed] = ("works", "works")) -> list[Ended]:
    """Run the ranks of an attempt, and return how they ended, in their order."""
    meeting = Meeting("127.0.0.1")
    files = [directory / f"words-{work.attempt}-{rank}.jsonl" for rank in range(len(deeds))]
    processes = []
    for rank, deed in enumerate(deeds):
        told = directory / f"work-{work.attempt}-{rank}.json"
        of_rank = {"rank": rank, "world_size": len(deeds), "rendezvous": meeting.address}
        told.write_text(work.model_copy(update=of_rank).model_dump_json())
        command = [sys.executable, "-m", "tests.trainers.gang", str(told), str(files[rank]), deed]
        processes.append(subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}))
    try:
        codes = [process.wait(ENDS_WITHIN_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        meeting.close()
    return [
        Ended(code, [WORDS.validate_json(line) for line in file.read_bytes().splitlines()])
        for code, file in zip(codes, files, strict=True)
    ]


class ScriptedSession(PipeSession):
    """Writes words to a file; some of them have it stopped, or killed."""

    def __init__(self, words: BinaryIO, deed: Deed) -> None:
        super().__init__(words)
        self._deed = deed

    def say(self, word: AnyWord) -> None:
        super().say(word)
        if self._deed == "is-stopped" and isinstance(word, CheckpointWritten) and word.step == STOPPED_AFTER:
            self._order = StopOrder(grace_s=30)
        if self._deed == "is-killed" and isinstance(word, Evaluated) and word.stage == "training":
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Do the work of a rank."""
    told, words, deed = sys.argv[1:]
    work = Work.model_validate_json(Path(told).read_bytes())
    with Path(words).open("wb") as file:
        session = ScriptedSession(file, deed)  # type: ignore[arg-type]  # it is one of them
        session.say(last_word(work, session))


if __name__ == "__main__":
    main()
