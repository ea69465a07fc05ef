"""A model manager of the user's own, named so that another process can make it again."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter

from pydantic import JsonValue, TypeAdapter, ValidationError

from ftactors.core.errors import ConfigProblem, InvalidServiceConfigError
from ftactors.core.events import RegistrarRef
from ftactors.core.problems import value_of

IN_A_SCRIPT = "it is defined in a script; move it to a module of its own"
_ARGUMENTS: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


def registrar_of(manager: object, base: type, arguments: Mapping[str, JsonValue]) -> RegistrarRef | None:
    """Return the manager's import path and arguments; None where it has `base`'s own `register`.

    Raises:
        InvalidServiceConfigError: another process cannot import the class, or the arguments are not JSON.
    """
    cls = type(manager)
    if getattr(cls, "register", None) is getattr(base, "register", None):
        return None
    problems = []
    path = f"{cls.__module__}:{cls.__qualname__}"
    why = why_not_importable(cls)
    if why is not None:
        message = f"must be importable by the process that publishes models: {why}"
        problems.append(ConfigProblem("model_manager", message, path))
    try:
        plain = _ARGUMENTS.validate_python(dict(arguments), strict=True)
    except ValidationError:
        message = "must be a mapping of names to JSON values: they are passed to another process"
        problems.append(ConfigProblem("model_manager.arguments", message, value_of(arguments)))
    if problems:
        raise InvalidServiceConfigError(problems)
    return RegistrarRef(path=path, arguments=plain)


def why_not_importable(cls: type) -> str | None:
    """Return why another process cannot import the class by its name, and what to do; None where it can."""
    if cls.__module__ == "__main__":
        return IN_A_SCRIPT
    if "<locals>" in cls.__qualname__:
        return "it is defined inside a function; move it to the top of its module"
    try:
        found = attrgetter(cls.__qualname__)(import_module(cls.__module__))
    except (ImportError, AttributeError) as error:
        return str(error)
    return None if found is cls else "the name is another object there"
