"""Jobs and service configurations that lie in YAML or JSON files."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ftactors.core.errors import ConfigProblem, ConfigurationError, InvalidJobConfigError, InvalidServiceConfigError
from ftactors.core.problems import value_of
from ftactors.core.service_config import ServiceConfig

CONFIG_VARIABLE = "FTACTORS_CONFIG"
"""The environment variable that names the service's configuration file."""


def read_job_file(path: str | Path) -> dict[str, Any]:
    """Return what a job's file says, as mappings, lists and plain values; nothing in it is checked yet.

    Raises:
        InvalidJobConfigError: there is no such file, or it is not YAML or JSON; names the line.
    """
    return _read(Path(path), InvalidJobConfigError)


def read_service_config(path: str | Path) -> ServiceConfig:
    """Return the service configuration that lies in a file.

    Raises:
        InvalidServiceConfigError: with every problem of the file.
    """
    return _service_config(_read(Path(path), InvalidServiceConfigError))


def load_service_config(
    source: ServiceConfig | Mapping[str, Any] | str | Path | None = None, environ: Mapping[str, str] = os.environ
) -> ServiceConfig:
    """Return the service's configuration.

    Args:
        source: The configuration, a mapping of its fields, or a file; None: the file that the environment names in
            `FTACTORS_CONFIG`, else the defaults.
        environ: The environment.

    Raises:
        InvalidServiceConfigError: with every problem.
    """
    if source is None and environ.get(CONFIG_VARIABLE):
        source = environ[CONFIG_VARIABLE]
    match source:
        case None:
            return ServiceConfig()
        case ServiceConfig():
            return source
        case str() | Path():
            return read_service_config(source)
        case Mapping():
            return _service_config(source)
    expected = "must be a ServiceConfig, a mapping of its fields, or the path of a YAML or JSON file"
    raise InvalidServiceConfigError([ConfigProblem("ServiceConfig", expected, value_of(source))])


def _service_config(values: Mapping[Any, Any]) -> ServiceConfig:
    odd = [key for key in values if not isinstance(key, str)]
    if odd:
        message = "must be a name of a field, which is a string"
        raise InvalidServiceConfigError([ConfigProblem(str(key), message, value_of(key)) for key in odd])
    return ServiceConfig(**values)


def _read(path: Path, error: type[ConfigurationError]) -> dict[str, Any]:
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        message = f"is no configuration file: its name must end in {', '.join(_PARSERS)}"
        raise error([ConfigProblem(str(path), message)])
    try:
        values = parse(path.expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error([ConfigProblem(str(path), f"does not exist (looked in {Path.cwd()})")]) from None
    except OSError as problem:
        raise error([ConfigProblem(str(path), f"cannot be read: {problem.strerror}")]) from problem
    except (_BrokenFileError, UnicodeDecodeError) as problem:
        raise error([ConfigProblem(str(path), f"cannot be read: {problem}")]) from problem
    if not isinstance(values, dict):
        message = f"must hold fields and their values, and holds {_kind(values)}"
        raise error([ConfigProblem(str(path), message)])
    return values


def _kind(values: object) -> str:
    return "nothing" if values is None else f"a value of type {type(values).__name__}"


class _BrokenFileError(ValueError):
    """The text is not of its format; names the line."""


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `no`, `off` and dates are words, and a name that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        """Return the mapping of a node."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands here twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _without_surprises() -> dict[str, list[tuple[str, Any]]]:
    """Return SafeLoader's rules for plain words, with YAML 1.2's booleans and without dates."""
    surprising = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    rules = yaml.SafeLoader.yaml_implicit_resolvers
    return {first: [(tag, rule) for tag, rule in known if tag not in surprising] for first, known in rules.items()}


_Loader.yaml_implicit_resolvers = _without_surprises()
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def _parse_yaml(text: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise _BrokenFileError(f"{line}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise _BrokenFileError(str(error)) from error


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise _BrokenFileError(f"line {error.lineno}: {error.msg}") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    doubled = [key for key, count in counts.items() if count > 1]
    if doubled:
        raise _BrokenFileError(f"{doubled[0]!r} stands twice in one mapping")
    return dict(pairs)


_PARSERS: Mapping[str, Callable[[str], object]] = {".yaml": _parse_yaml, ".yml": _parse_yaml, ".json": _parse_json}
