"""A class is found by its import path, or the error says what is there instead."""

from __future__ import annotations

import re
import sys

import pytest

from ftactors.runtime.import_path import ExtensionError, resolve
from tests.runtime.workers import Talker
from trainers.base import BaseTrainer


def test_a_path_names_a_class():
    assert resolve("tests.runtime.workers:Talker", BaseTrainer) is Talker


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("tests.runtime.workers", "'tests.runtime.workers' is not an import path", "write package.module:Class"),
        (":Talker", "':Talker' is not an import path", "write package.module:Class"),
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'", "runtime_env"),
        ("tests.runtime.workers:Patent", "has no class 'Patent'", "did you mean 'Patient'?"),
        ("tests.runtime.workers:a_function", "is no subclass of trainers.base.BaseTrainer", ""),
        ("tests.runtime.workers:EmptyHandler", "is no subclass of trainers.base.BaseTrainer", ""),
        ("tests.runtime.workers:BaseTrainer", "is no subclass of trainers.base.BaseTrainer", ""),
    ],
)
def test_a_path_that_names_no_trainer_is_told_apart(path, message, hint):
    with pytest.raises(ExtensionError, match=re.escape(message)) as caught:
        resolve(path, BaseTrainer)

    assert hint in (caught.value.hint or "")


def test_a_module_that_is_not_python_is_told_as_such(tmp_path, monkeypatch):
    (tmp_path / "broken_extension.py").write_text("class Broken(:\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ExtensionError, match="SyntaxError"):
        resolve("broken_extension:Broken", BaseTrainer)
    assert "broken_extension" not in sys.modules
