from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASKED = [
    asked
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for asked in group
    if Requirement(asked).name != PROJECT["name"]  # an extra that takes other extras along
]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pinned() -> dict[str, Requirement]:
    lines = (line for line in CONSTRAINTS.splitlines() if line and not line.startswith("#"))
    pins = [Requirement(line) for line in lines]
    return {canonicalize_name(pin.name): pin for pin in pins}


def needed(requirements: list[str], extras: frozenset[str] = frozenset(), found: set[str] | None = None) -> set[str]:
    """Return the names of all that these requirements bring along, but for what torch pins itself."""
    found = set() if found is None else found
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
        )
        if not wanted or name.startswith(("nvidia-", "cuda-", "triton")) or name in found:
            continue
        found.add(name)
        needed(requires(requirement.name) or [], frozenset(requirement.extras), found)
    return found


def test_the_constraints_pin_all_that_an_install_brings_along(pinned):
    assert needed(ASKED) - set(pinned) == set()


def test_every_pin_lies_within_the_bounds_of_the_project(pinned):
    for asked in map(Requirement, ASKED):
        (specifier,) = pinned[canonicalize_name(asked.name)].specifier
        assert specifier.operator == "=="
        assert asked.specifier.contains(specifier.version), asked


def test_the_constraints_name_no_host_and_no_path():
    assert re.findall(r"://|@|^/|--", CONSTRAINTS, re.MULTILINE) == []
