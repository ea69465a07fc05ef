"""Answers of base and tuned models, from JSON to JSON."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ftactors.core.work import Published
from tests import tiny
from tests.trainers.attempts import ListSession, prepare, work_of
from trainers import generate
from trainers.generate import Ask, answer
from trainers.sft import SftTrainer

PROMPT = "what does the red fox see ?"
LEARNED = re.compile(r"the \w+ \w+ \w+s the \w+ \.")  # a base says `the old owl`, never `the owl`


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Published]:
    """A base without a chat template, as the prepared data is written for, and an adapter on it."""
    directory = tmp_path_factory.mktemp("generate")
    base = tiny.pretrain(tiny.make_model_dir(directory / "base", chat_template=False))
    data = prepare(directory / "data", base)
    published = SftTrainer(work_of(directory, base, data, num_train_epochs=2), ListSession()).run()
    assert isinstance(published, Published)
    return base, published


def test_a_tuned_adapter_answers_in_the_form_it_has_learned(tuned: tuple[Path, Published]):
    base, published = tuned
    ask = Ask(model=published.path, kind="adapter", base=str(base), prompts=[PROMPT, PROMPT], max_new_tokens=12)

    answers = answer(ask).answers

    assert answers[0] == answers[1]
    assert LEARNED.fullmatch(answers[0])


def test_the_base_answers_otherwise(tuned: tuple[Path, Published]):
    base, _ = tuned

    answers = answer(Ask(model=str(base), prompts=[PROMPT], max_new_tokens=12)).answers

    assert not LEARNED.fullmatch(answers[0])


def test_a_chat_template_is_applied_where_there_is_one(llama: Path):
    assert len(answer(Ask(model=str(llama), prompts=[PROMPT], max_new_tokens=3)).answers) == 1


def test_stdin_is_answered_on_stdout(
    tuned: tuple[Path, Published], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = json.dumps({"model": str(tuned[0]), "prompts": [PROMPT], "max_new_tokens": 2})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(asked.encode())))

    generate.main()

    assert list(json.loads(capsys.readouterr().out)) == ["answers"]


@pytest.mark.parametrize("ask", [{"kind": "adapter"}, {"kind": "full", "base": "/b"}])
def test_an_adapter_has_a_base_and_a_full_model_has_none(ask: dict[str, str]):
    with pytest.raises(ValidationError, match="an adapter needs a base, and a full model has none"):
        Ask(model="/m", prompts=["Who?"], **ask)


def test_the_table_of_trainers_is_read_without_loading_torch():
    code = "import sys; from trainers import TRAINERS; print(sorted(TRAINERS), 'torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "['full', 'lora', 'qlora'] False\n"
