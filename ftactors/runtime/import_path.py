"""Classes named by import path: trainers and handlers, ours and the user's own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ftactors.core.errors import JobExecutionError
from ftactors.core.problems import close_names


class ExtensionError(JobExecutionError):
    """A trainer or a handler that was named by its import path cannot be used."""

    error_type = "configuration"


def resolve(path: str, base: type) -> Any:
    """Return the class that `path` (`package.module:Class`) names.

    Raises:
        ExtensionError: the path has another form, the module cannot be imported, or it has no such subclass of `base`.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name.isidentifier():
        raise ExtensionError(f"{path!r} is not an import path", hint="write package.module:Class")
    try:
        module = import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ExtensionError(
            f"{path!r} cannot be imported in the job's process: {type(error).__name__}: {error}",
            hint="install the module on every node, or send it along as Ray's runtime_env working_dir or py_modules",
        ) from error
    named = getattr(module, class_name, None)
    if named is None:
        raise ExtensionError(
            f"module {module_name!r} has no class {class_name!r}",
            hint=close_names(class_name, [name for name, value in vars(module).items() if _fits(value, base)]),
        )
    if not _fits(named, base):
        raise ExtensionError(f"{path!r} is no subclass of {base.__module__}.{base.__qualname__}")
    return named


def _fits(value: object, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base
