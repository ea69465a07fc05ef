"""Managers of the user's own, named so that another process finds them."""

from pathlib import Path

import pytest

from ftactors.core.errors import InvalidServiceConfigError
from ftactors.core.events import RegistrarRef
from ftactors.models import LLMModelManager


class OwnManager(LLMModelManager):
    def __init__(self, store: str) -> None:
        super().__init__()
        self.arguments = {"store": store}
        self.registered: list[tuple[str, str]] = []

    def register(self, job_id, model):
        self.registered.append((job_id, model.id))


class QuietManager(LLMModelManager):
    """One that overrides nothing."""


def test_a_manager_that_registers_is_named_by_path_and_arguments():
    assert OwnManager("s3://models").registrar() == RegistrarRef(
        path="tests.models.test_registrar:OwnManager", arguments={"store": "s3://models"}
    )


@pytest.mark.parametrize("manager", [LLMModelManager, QuietManager])
def test_a_manager_that_does_not_register_is_not_named(manager):
    assert manager().registrar() is None


def test_a_manager_inside_a_function_cannot_be_named():
    class Inside(OwnManager):
        """One that no other process finds."""

    with pytest.raises(InvalidServiceConfigError, match="defined inside a function"):
        Inside("x").registrar()


def test_a_manager_in_a_script_cannot_be_named(monkeypatch):
    monkeypatch.setattr(OwnManager, "__module__", "__main__")

    with pytest.raises(InvalidServiceConfigError, match="it is defined in a script"):
        OwnManager("x").registrar()


def test_arguments_of_a_manager_are_json():
    with pytest.raises(InvalidServiceConfigError, match="must be a mapping of names to JSON values"):
        OwnManager(Path("/x")).registrar()
