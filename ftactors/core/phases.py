"""The phases of a job, and the table of what may happen in each. What is not in the table is an error."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from ftactors.core.events import (
    AttemptFailed,
    AttemptPlaced,
    AttemptStarted,
    AttemptStopped,
    CancelRequested,
    CheckpointSaved,
    DatasetLost,
    DatasetPrepared,
    EvaluationReported,
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobFailed,
    PauseRequested,
    ProgressReported,
    Purpose,
    ResumeRequested,
    StageStarted,
    YieldRequested,
)


class Phase(StrEnum):
    """Where a job is on its way."""

    SUBMITTED = "submitted"
    PREPARING = "preparing"
    READY = "ready"
    PLACED = "placed"
    RUNNING = "running"
    YIELDING = "yielding"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


EventType = type[JobEvent]

_FLAGS = (PauseRequested, ResumeRequested)
_WORDS_OF_TRAINING = (StageStarted, ProgressReported, CheckpointSaved, EvaluationReported)


def _stays(phase: Phase, *events: EventType) -> dict[EventType, Phase]:
    return dict.fromkeys(events, phase)


TRANSITIONS: Mapping[Phase, Mapping[EventType, Phase]] = MappingProxyType(
    {
        Phase.SUBMITTED: {
            **_stays(Phase.SUBMITTED, *_FLAGS),
            AttemptPlaced: Phase.PREPARING,
            JobCancelled: Phase.CANCELLED,
        },
        Phase.PREPARING: {
            **_stays(Phase.PREPARING, *_FLAGS, AttemptStarted, StageStarted, ProgressReported),
            DatasetPrepared: Phase.READY,
            AttemptFailed: Phase.SUBMITTED,
            AttemptStopped: Phase.SUBMITTED,
            JobFailed: Phase.FAILED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.READY: {
            **_stays(Phase.READY, *_FLAGS),
            AttemptPlaced: Phase.PLACED,
            JobCancelled: Phase.CANCELLED,
        },
        Phase.PLACED: {
            **_stays(Phase.PLACED, *_FLAGS),
            AttemptStarted: Phase.RUNNING,
            YieldRequested: Phase.YIELDING,
            AttemptFailed: Phase.READY,
            JobFailed: Phase.FAILED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.RUNNING: {
            **_stays(Phase.RUNNING, *_FLAGS, *_WORDS_OF_TRAINING),
            YieldRequested: Phase.YIELDING,
            AttemptFailed: Phase.READY,
            DatasetLost: Phase.SUBMITTED,
            JobFailed: Phase.FAILED,
            JobCompleted: Phase.COMPLETED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.YIELDING: {
            **_stays(Phase.YIELDING, *_FLAGS, *_WORDS_OF_TRAINING),
            AttemptStopped: Phase.READY,
            AttemptFailed: Phase.READY,
            DatasetLost: Phase.SUBMITTED,
            JobFailed: Phase.FAILED,
            JobCompleted: Phase.COMPLETED,
            CancelRequested: Phase.CANCELLING,
        },
        Phase.CANCELLING: {JobCancelled: Phase.CANCELLED, CancelRequested: Phase.CANCELLING},
        Phase.COMPLETED: {},
        Phase.FAILED: {},
        Phase.CANCELLED: {},
    }
)
TERMINAL_PHASES = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})
WAITING_PHASES = frozenset({Phase.SUBMITTED, Phase.READY})
HOLDING_PHASES = frozenset(Phase) - TERMINAL_PHASES - WAITING_PHASES
PURPOSE_OF: Mapping[Phase, Purpose] = {Phase.SUBMITTED: "prepare", Phase.READY: "train"}
"""What the next attempt of a waiting job is for."""
