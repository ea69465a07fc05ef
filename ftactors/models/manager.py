"""The model manager: what a driver knows of models. The registry itself is a view of the service's log."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from pydantic import JsonValue, TypeAdapter, ValidationError

from ftactors.core.config import ModelId
from ftactors.core.errors import (
    ModelConflictError,
    ModelImportError,
    ModelNotFoundError,
    ServiceNotStartedError,
)
from ftactors.core.events import ModelImported, ModelRef, PublishedModel, RegistrarRef
from ftactors.core.model_facts import ModelFacts
from ftactors.core.models import Model
from ftactors.core.problems import close_names
from ftactors.core.service_config import ServiceConfig
from ftactors.models.files import digest_of
from ftactors.models.gguf_file import convert_gguf
from ftactors.models.inspection import InspectedModel, inspect_model
from ftactors.models.registrar import registrar_of
from ftactors.runtime.whoami import whoami

_ID: TypeAdapter[str] = TypeAdapter(ModelId)


class Registry(Protocol):
    """The scheduler, as far as models go."""

    async def ask(self, method: str, *args: Any) -> Any:
        """Answer `models()`, `import_model(ModelImported)` and `delete_model(model_id, registered_seq, by)`."""


@dataclass(frozen=True, slots=True)
class BaseModelFound:
    """A base model that a job can start from."""

    ref: ModelRef
    facts: ModelFacts | None
    """None where the files of a registered model cannot be read on this machine."""


@dataclass(frozen=True, slots=True)
class _Held:
    source: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.source if self.revision is None else f"{self.source} at revision {self.revision}"


class LLMModelManager:
    """Knows base models by id, and gets the tuned ones.

    Subclass it, and override `register`, to keep tuned models in a store of your own.

    Args:
        base_models: Ids, each with a local directory, a hub id or a GGUF file; registered when the service starts.

    Raises:
        ModelImportError: an id is not a valid one.
    """

    arguments: Mapping[str, JsonValue] = MappingProxyType({})
    """What a subclass's constructor is called with in the process that publishes a model."""

    def __init__(self, base_models: Mapping[str, str | Path] | None = None) -> None:
        self._held: dict[str, _Held] = {}
        self._registry: Registry | None = None
        self._state_dir = Path()
        for model_id, source in (base_models or {}).items():
            self._hold(model_id, _Held(_normal(source)))

    async def import_model(self, model_id: str, source: str | Path, *, revision: str | None = None) -> Model | None:
        """Register a base model; the same source again, at the same revision or at none named, changes nothing.

        A directory stays where it is, and is never deleted. A GGUF file is converted to safetensors once.

        Args:
            model_id: The id that jobs name.
            source: A local directory with safetensors, a hub id, or a GGUF file.
            revision: A commit, branch or tag of the hub.

        Returns:
            The model; None before the service has started, which will register it then.

        Raises:
            ModelNotFoundError: there is nothing at the source.
            ModelImportError: what is there cannot be used.
            ModelConflictError: the id belongs to another model, or to another revision of this one.
        """
        held = _Held(_normal(source), revision)
        if self._registry is None:
            self._hold(model_id, held)
            return None
        return await self._import(self._registry, _checked(model_id), held, await self.list_models())

    async def get_model(self, model_id: str) -> Model:
        """Return a registered model.

        Raises:
            ModelNotFoundError: no model of this id is registered.
        """
        models = {model.model_id: model for model in await self.list_models()}
        if model_id not in models:
            raise ModelNotFoundError(f"there is no registered model {model_id!r}; {close_names(model_id, models)}")
        return models[model_id]

    async def list_models(self) -> list[Model]:
        """Return all registered models, base and tuned, oldest first."""
        models: list[Model] = await self._started().ask("models")
        return models

    async def delete_model(self, model_id: str) -> Model:
        """Take a model out of the registry, and return what it was. Its files stay where they are.

        Raises:
            ModelNotFoundError: no model of this id is registered.
            ModelConflictError: a job that has not ended, or an adapter, needs it.
        """
        model = await self.get_model(model_id)
        await self._started().ask("delete_model", model_id, model.registered_seq, whoami())
        return model

    def register(self, job_id: str, model: PublishedModel) -> None:
        """Take over a tuned model; to be overridden.

        Called in the process that publishes it, before the job is completed, at least once: use `job_id` to know a
        repetition. Whatever it raises fails the attempt.
        """

    def registrar(self) -> RegistrarRef | None:
        """Return how the publishing process finds this manager; None where `register` is not overridden.

        Raises:
            InvalidServiceConfigError: the class cannot be imported there, or its arguments are not JSON.
        """
        return registrar_of(self, LLMModelManager, self.arguments)

    async def attach(self, registry: Registry, rules: ServiceConfig) -> None:
        """Register what is held, and ask this registry from now on. The service does that when it starts.

        Raises:
            ModelNotFoundError, ModelImportError, ModelConflictError: as `import_model`.
        """
        self._state_dir = Path(rules.state_dir)
        for model_id, source in rules.base_models.items():
            self._hold(model_id, _Held(_normal(source)))
        models: list[Model] = await registry.ask("models")
        for model_id, held in self._held.items():
            models.append(await self._import(registry, model_id, held, models))  # an adapter may follow its base
        self._registry = registry

    def detach(self) -> None:
        """Ask no registry any more."""
        self._registry = None

    async def find_base(self, base_model_id: str) -> BaseModelFound:
        """Return the model that a job asks for: a registered one, a local directory, or one of the hub.

        Raises:
            ModelNotFoundError: there is none; says what was tried.
            ModelImportError: there is, and it cannot be used; says why.
        """
        models = {model.model_id: model for model in await self.list_models()}
        if base_model_id in models:
            ref = models[base_model_id].ref()
            return BaseModelFound(ref, await asyncio.to_thread(_facts_here, ref))
        inspected = await asyncio.to_thread(inspect_model, base_model_id, known=models)
        return BaseModelFound(inspected.ref(base_model_id), inspected.facts)

    async def _import(self, registry: Registry, model_id: str, held: _Held, models: list[Model]) -> Model:
        for model in models:
            if model.model_id == model_id and model.source == held.source and held.revision in (None, model.revision):
                return model
            if model.model_id == model_id and model.source != held.source:  # before anything is converted for it
                raise ModelConflictError(
                    f"model id {model_id!r} is registered for {model.source}, so it cannot be imported from {held}; "
                    "choose another id, or delete that model first"
                )
        event, is_new = await asyncio.to_thread(self._imported, model_id, held, models)
        try:
            imported: Model = await registry.ask("import_model", event)
        except ModelConflictError:  # such as with a job that has reserved the id
            registered: list[Model] = await registry.ask("models")
            if is_new and event.path not in {model.path for model in registered}:
                await asyncio.to_thread(shutil.rmtree, event.path)
            raise
        return imported

    def _imported(self, model_id: str, held: _Held, models: list[Model]) -> tuple[ModelImported, bool]:
        """Return the fact that registers what the source holds, and whether this call has made the files it names."""
        source, path = Path(held.source), held.source
        is_gguf, is_new = source.suffix == ".gguf", False
        if is_gguf:
            fingerprint = digest_of(source).rpartition(":")[2] if source.exists() else ""
            destination = self._state_dir.expanduser() / "models" / model_id / fingerprint
            is_new = not destination.exists()
            path = str(convert_gguf(source, destination))
        model = inspect_model(path, revision=held.revision, known=[model.model_id for model in models])
        event = ModelImported(
            model_id=model_id,
            source=held.source,
            path=model.path,
            revision=model.revision,
            digest=model.digest,
            kind=model.kind,
            base=_name_of(model.base, models) if model.base else None,
            owned=is_gguf,
        )
        return event, is_new

    def _hold(self, model_id: str, held: _Held) -> None:
        known = self._held.setdefault(_checked(model_id), held)
        if known != held:
            raise ModelConflictError(f"model id {model_id!r} is to be {known}, so it cannot be {held} too")

    def _started(self) -> Registry:
        if self._registry is None:
            raise ServiceNotStartedError("the registry of models is the service's; call `await service.start()` first")
        return self._registry


def _checked(model_id: str) -> str:
    try:
        return _ID.validate_python(model_id)
    except ValidationError as error:
        raise ModelImportError(
            f"model id {model_id!r} {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None


def _normal(source: str | Path) -> str:
    """Return a source by which the same one is known again: paths absolute, hub ids as they are."""
    path = Path(source).expanduser()
    looks_like_a_path = isinstance(source, Path) or str(source).startswith((".", "/", "~")) or path.exists()
    return str(path.absolute()) if looks_like_a_path else str(source)


def _name_of(base: InspectedModel, models: list[Model]) -> str:
    """Return the id under which an adapter's base is registered, else where it lies."""
    return next((model.model_id for model in models if model.path == base.path), base.path)


def _facts_here(ref: ModelRef) -> ModelFacts | None:
    """Return the facts about a registered model; None where its files are on machines that this one does not see."""
    while ref.kind == "adapter" and ref.base is not None:
        ref = ref.base
    if ref.path.startswith("/") and not Path(ref.path).is_dir():
        return None
    try:
        return inspect_model(ref.path, revision=ref.revision).facts
    except ModelNotFoundError:
        return None
