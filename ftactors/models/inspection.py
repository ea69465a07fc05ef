"""What a directory or a hub id holds, found out in milliseconds and without torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftactors.core.errors import ModelImportError, ModelNotFoundError
from ftactors.core.events import ModelKind, ModelRef
from ftactors.core.model_facts import ModelFacts
from ftactors.core.problems import close_names
from ftactors.models import hub
from ftactors.models.files import digest_of, is_adapter, is_model, read_adapter_base, read_facts


@dataclass(frozen=True, slots=True)
class InspectedModel:
    """A model that exists and is complete."""

    path: str
    """The directory, absolute; or the hub id where `source` is `hub`."""
    source: Literal["directory", "hub"]
    revision: str | None
    """The hub's commit."""
    digest: str
    kind: ModelKind
    base: InspectedModel | None
    """For an adapter, the model it belongs on."""
    facts: ModelFacts
    """For an adapter, its base's: what is trained is a layer of that."""

    def ref(self, model_id: str) -> ModelRef:
        """Return what a job keeps of it."""
        return ModelRef(
            model_id=model_id,
            path=self.path,
            source=self.source,
            kind=self.kind,
            base=self.base.ref(self.base.path) if self.base else None,
            revision=self.revision,
            digest=self.digest,
        )


def inspect_model(path_or_id: str, *, revision: str | None = None, known: Collection[str] = ()) -> InspectedModel:
    """Return what lies in a local directory, else in the hub's local cache, else on the hub.

    Args:
        path_or_id: A directory or a hub id.
        revision: A commit, branch or tag of the hub.
        known: The registered ids, which the error names where they are close.

    Raises:
        ModelNotFoundError: there is no such model; says what was tried.
        ModelImportError: there is, and it cannot be used; says why.
    """
    directory = Path(path_or_id).expanduser().absolute()
    if directory.suffix == ".gguf" and directory.is_file():
        raise ModelImportError(f"{directory} is a GGUF file; import it first, `ftactors models import ID {directory}`")
    if is_model(directory):
        return _inspect(directory)
    tried = [f"it is no registered model ({close_names(path_or_id, known)})", _why_no_directory(directory)]
    if not hub.is_hub_id(path_or_id):
        raise _not_found(path_or_id, tried)
    try:
        return _inspect_on_hub(path_or_id, revision)
    except hub.NotOnHubError as error:
        raise _not_found(path_or_id, [*tried, f"it {error}"]) from None  # the message says all that its causes do


def _not_found(asked: str, tried: list[str]) -> ModelNotFoundError:
    return ModelNotFoundError(f"there is no model {asked!r}: {'; '.join(tried)}")


def _why_no_directory(directory: Path) -> str:
    if not directory.is_dir():
        return f"the directory {directory} does not exist"
    gguf = next(directory.glob("*.gguf"), None)
    hint = f", but a GGUF file: import that first, `ftactors models import ID {gguf}`" if gguf else ""
    return f"the directory {directory} has no config.json{hint}"


def _inspect_on_hub(repo_id: str, revision: str | None) -> InspectedModel:
    """Return the cached model, or download it where the cache has none or a part of it only."""
    snapshot = hub.cached(repo_id, revision)
    if snapshot is not None:
        try:
            return _inspect(snapshot, repo_id)
        except ModelImportError:
            pass  # transformers caches a configuration alone when that is all it was asked for
    return _inspect(hub.download(repo_id, revision), repo_id)


def _inspect(directory: Path, repo_id: str | None = None) -> InspectedModel:
    base = None
    if is_adapter(directory):
        name, revision = read_adapter_base(directory)
        if Path(name).expanduser().absolute() == directory:
            raise ModelImportError(f"the adapter {directory} names itself as its base")
        base = inspect_model(name, revision=revision)
    return InspectedModel(
        path=repo_id or str(directory),
        source="hub" if repo_id else "directory",
        revision=directory.name if repo_id else None,
        digest=digest_of(directory),
        kind="adapter" if base else "full",
        base=base,
        facts=base.facts if base else read_facts(directory),
    )
