"""What an attempt tells while it runs: words to its session, lines to `metrics.jsonl` and to the process's output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ftactors.core.events import Metrics, Stage
from ftactors.core.session import Session, Stop
from ftactors.core.work import AnyWord, Progress, StageBegun, StopOrder
from trainers.memory import peak_mem_gib
from trainers.ranks import ALONE, Ranks

_AT_MOST_EVERY_S = 1.0
_AT_LEAST_EVERY_S = 60.0  # a slow job's 1 % may take longer than a stall's timeout


class Reporter:
    """Says what happens, and sees orders to stop.

    Of several ranks the first alone is heard, and alone looks at its order. The others say the same words to their own
    trainer actors, for which one that says nothing is stuck; they write no metrics and print nothing of their own.

    Args:
        session: Where words go, and where an order to stop is seen.
        plan: The stages of the attempt, in their order.
        attempt_dir: Where `metrics.jsonl` is written.
        clock: Seconds, never going back.
        ranks: Those who stop together.
    """

    def __init__(
        self,
        session: Session,
        plan: Sequence[Stage],
        attempt_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks = ALONE,
    ) -> None:
        self._session = session
        self._plan = tuple(plan)
        self._metrics_file = attempt_dir / "metrics.jsonl"
        self._clock = clock
        self._ranks = ranks
        self._order: StopOrder | None = None
        self.stage: Stage = self._plan[0]
        self._total_steps: int | None = None
        self._last: Progress | None = None
        self._unsaid = False
        self._said_step, self._said_at = 0, clock()

    @property
    def stop_order(self) -> StopOrder | None:
        """The order to stop, as it was at the last look."""
        return self._order

    def look(self) -> StopOrder | None:
        """Return the order to stop, once there is one: in all ranks, each of which must look now, the first one's."""
        self._order = self._ranks.share(lambda: self._session.stop_order)
        return self._order

    def check_stop(self) -> None:
        """Do nothing, until a look shows an order to stop.

        Raises:
            Stop: there is one.
        """
        if self.look() is not None:
            raise Stop

    def say(self, word: AnyWord) -> None:
        """Send a word."""
        self._session.say(word)

    def begin(self, stage: Stage, total_steps: int | None = None, warnings: Sequence[str] = (), step: int = 0) -> None:
        """Say that a stage begins, at a step of it."""
        self.end()
        self.stage, self._total_steps = stage, total_steps
        self._last, self._said_step, self._said_at = None, step, self._clock()
        index = self._plan.index(stage) + 1
        self.note(f"{stage}: stage {index} of {len(self._plan)}")
        for warning in warnings:
            self.note(f"warning: {warning}")
        self.say(
            StageBegun(stage=stage, index=index, of=len(self._plan), total_steps=total_steps, warnings=tuple(warnings))
        )

    def progress(
        self,
        step: int,
        metrics: Metrics | None = None,
        tokens_per_second: float | None = None,
    ) -> bool:
        """Take note of how far the stage is, and return whether that was due to be said.

        The last step always is; any other at most once a second and once for 1 % of the stage, but once a minute.
        """
        self._last = Progress(
            stage=self.stage,
            step=step,
            metrics=metrics or {},
            tokens_per_second=tokens_per_second,
            peak_mem_gib=peak_mem_gib(),
        )
        self._unsaid = True
        due = self._is_due(step)
        if due:
            self._say_last()
        return due

    def still_at_work(self) -> None:
        """Say the last progress again, where nothing was said for long."""
        if self._last is not None and self._clock() - self._said_at >= _AT_LEAST_EVERY_S:
            self._say_last()

    def end(self) -> None:
        """Say the last progress of the stage, where it was not said."""
        if self._unsaid:
            self._say_last()

    def line(self, values: Mapping[str, float | int | None]) -> None:
        """Write a line of metrics."""
        if not self._ranks.is_first:
            return
        with self._metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        shown = ", ".join(f"{name} {value:.6g}" for name, value in values.items() if value is not None)
        self.note(f"{self.stage}: {shown}")

    def note(self, text: str) -> None:
        """Write a line to the process's log, which all ranks of a node share."""
        if self._ranks.is_first:
            print(text, flush=True)  # noqa: T201 - the process's log

    def _is_due(self, step: int) -> bool:
        if step == self._total_steps:
            return True
        waited_s = self._clock() - self._said_at
        enough = self._total_steps is None or (step - self._said_step) * 100 >= self._total_steps
        return waited_s >= _AT_LEAST_EVERY_S or (waited_s >= _AT_MOST_EVERY_S and enough)

    def _say_last(self) -> None:
        if self._last is not None:
            self.say(self._last)
            self._unsaid = False
            self._said_step, self._said_at = self._last.step, self._clock()
