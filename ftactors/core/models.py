"""The registered models: a view of the log."""

from __future__ import annotations

from functools import lru_cache

from ftactors.core.events import Fact, JobCompleted, ModelImported, ModelKind, ModelRef


class Model(Fact):
    """A model that jobs can start from."""

    model_id: str
    registered_seq: int
    """The event that registered it; with `model_id` it names this model and no later one of the same id."""
    path: str
    kind: ModelKind
    base: ModelRef | None = None
    """For a tuned model, what it was tuned from; an adapter needs it to run."""
    source: str
    revision: str | None = None
    digest: str | None = None
    owned: bool
    """False: the files are the user's, and are never deleted."""
    created_at: float
    """Seconds since 1970-01-01 UTC."""
    job_id: str | None = None
    """The job that made it; None for an import."""

    def ref(self) -> ModelRef:
        """Return what a job keeps of it."""
        return ModelRef(
            model_id=self.model_id,
            registered_seq=self.registered_seq,
            path=self.path,
            source="registered",
            kind=self.kind,
            base=self.base,
            revision=self.revision,
            digest=self.digest,
        )


def imported(event: ModelImported, seq: int, at: float, base: Model | None) -> Model:
    """Return the model that an import registers."""
    return Model(
        model_id=event.model_id,
        registered_seq=seq,
        path=event.path,
        kind=event.kind,
        base=base.ref() if base else _base_elsewhere(event),
        source=event.source,
        revision=event.revision,
        digest=event.digest,
        owned=event.owned,
        created_at=at,
    )


def completed(event: JobCompleted, seq: int, at: float) -> Model:
    """Return the model that a job's completion registers."""
    return Model(
        model_id=event.model.id,
        registered_seq=seq,
        path=event.model.path,
        kind=event.model.kind,
        base=_shared(event.model.base),
        source=f"job:{event.job_id}",
        digest=event.model.digest,
        owned=True,
        created_at=at,
        job_id=event.job_id,
    )


@lru_cache(maxsize=1024)
def _shared(base: ModelRef) -> ModelRef:
    """Return the object that an equal one was given for before: thousands of models have one base."""
    return base


def _base_elsewhere(event: ModelImported) -> ModelRef | None:
    """Return the base that an adapter names, where that is no registered model."""
    if event.base is None:
        return None
    return ModelRef(model_id=event.base, path=event.base, source="directory" if event.base.startswith("/") else "hub")
