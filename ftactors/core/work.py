"""What a training process is told, and the words it answers with.

A word is not yet a fact: `reports.py` makes facts of words. Words and orders cross a pipe as lines of JSON.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, TypeAdapter

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.events import CheckpointRef, Fact, Metrics, ModelKind, ModelRef, Purpose, RegistrarRef, Stage


class Dataset(Fact):
    """Prepared data, as `DatasetPrepared` named it."""

    path: str
    fingerprint: str
    shape: str
    counts: dict[str, int]


class Work(Fact):
    """All that the process of an attempt needs to know."""

    job_id: str
    attempt: int
    purpose: Purpose
    job: dict[str, JsonValue]
    """The job's configuration as it is stored."""
    base: ModelRef
    trainer: str
    """Import path of a `BaseTrainer`, such as `trainers.sft:SftTrainer`."""
    handler: str
    """Import path of a `BaseDatasetHandler`."""
    attempt_dir: str
    """The only directory that this attempt writes to, but for preparation's `data_dir`."""
    data_dir: str
    dataset: Dataset | None = None
    """The prepared data; None while preparing."""
    resume_from: CheckpointRef | None = None
    checkpoints: tuple[str, ...] = ()
    """Paths of all checkpoints that exist, oldest first; pruned by `save_total_limit` across attempts."""
    baseline: Metrics | None = None
    """The base model's metrics, where an earlier attempt has measured them."""
    registrar: RegistrarRef | None = None
    uses_gpu: bool = False
    gpu_thousandths: int = 0
    """The share of its device that this rank may fill."""
    rank: int = 0
    """Only the first one, 0, reports and publishes."""
    world_size: int = 1
    """How many ranks train together."""
    rendezvous: str | None = None
    """`host:port` where they meet; None for a single one."""
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """Hyperparameters of this attempt that differ from the job's."""

    @cached_property
    def config(self) -> FineTuningJobConfig:
        """The job's configuration, with this attempt's overrides.

        Read where the work is done, so that a job of an older version, which this one may refuse, fails alone.

        Raises:
            InvalidJobConfigError: this version does not accept what is stored.
        """
        stored: dict[str, Any] = self.job
        asked = {**stored.get("hyperparameters", {}), **self.overrides}
        return FineTuningJobConfig(**{**stored, "hyperparameters": asked})


def _storable(text: str) -> str:
    """Return the text with what UTF-8 cannot say written out, as in a path that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


Message = Annotated[str, AfterValidator(_storable)]
"""Words for people, from anywhere."""


class Word(Fact):
    """The base of what a training process says."""


class Prepared(Word):
    """The data is ready. The process ends after it."""

    type: Literal["prepared"] = "prepared"
    path: str
    fingerprint: str
    shape: str
    counts: dict[str, int]
    base_revision: str | None = None
    warnings: tuple[str, ...] = ()


class DatasetMissing(Word):
    """The prepared data is gone. The process ends after it."""

    type: Literal["dataset_missing"] = "dataset_missing"
    path: str
    message: Message


class StageBegun(Word):
    """The work came to a stage."""

    type: Literal["stage_begun"] = "stage_begun"
    stage: Stage
    index: int
    of: int
    total_steps: int | None = None
    warnings: tuple[str, ...] = ()


class Progress(Word):
    """How far the stage is: at most one for each 1 % and each second, and always the last."""

    type: Literal["progress"] = "progress"
    stage: Stage
    step: int
    metrics: Metrics = Field(default_factory=dict)
    tokens_per_second: float | None = None
    peak_mem_gib: float | None = None


class CheckpointWritten(Word):
    """A checkpoint is complete on disk."""

    type: Literal["checkpoint_written"] = "checkpoint_written"
    stage: Stage
    step: int
    path: str
    digest: str
    pruned: tuple[str, ...] = ()


class Evaluated(Word):
    """A model was measured on the held-out data."""

    type: Literal["evaluated"] = "evaluated"
    of: Literal["base", "tuned"]
    stage: Stage
    step: int
    metrics: Metrics


class Stopped(Word):
    """The process stopped because it was told to, and ends; `clean` when its state is in a checkpoint."""

    type: Literal["stopped"] = "stopped"
    clean: bool


class Failed(Word):
    """The work cannot go on. The process ends after it."""

    type: Literal["failed"] = "failed"
    stage: Stage | None = None
    error_type: str
    message: Message
    hint: Message | None = None
    retryable: bool = False


class Published(Word):
    """The tuned model is complete on disk and loads. The process ends after it."""

    type: Literal["published"] = "published"
    path: str
    digest: str
    kind: ModelKind
    base: ModelRef
    metrics: Metrics
    trained_tokens: int


AnyWord = (
    Prepared | DatasetMissing | StageBegun | Progress | CheckpointWritten | Evaluated | Stopped | Failed | Published
)
LAST_WORDS = (Prepared, DatasetMissing, Stopped, Failed, Published)
URGENT_WORDS = (*LAST_WORDS, CheckpointWritten)
"""Those that end something, or keep work from being lost."""
WORDS: TypeAdapter[AnyWord] = TypeAdapter(Annotated[AnyWord, Field(discriminator="type")])
"""Reads any word."""


class Report(Fact):
    """A word with its number within the attempt, counted from 1."""

    number: int = Field(ge=1)
    word: Annotated[AnyWord, Field(discriminator="type")]


class StopOrder(Fact):
    """Checkpoint, if a checkpoint can be made within `grace_s` seconds, and stop."""

    type: Literal["stop"] = "stop"
    grace_s: float
    save: bool = True
    """False when the job is being cancelled, and nothing will be resumed."""
