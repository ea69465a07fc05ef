"""What the demo shows at its end."""

from __future__ import annotations

from pathlib import Path

from ftactors.cli.demo import how_to_go_on, loss_rows, show_result
from ftactors.cli.output import Output
from ftactors.core.status import FineTuningJobStatusInfo
from ftactors.demo import Answers, Demo, DemoResult, demo_job
from ftactors.demo_data import DemoData
from tests.core import histories as h
from tests.test_cli_lines import TRAINING, status

ASKED = Demo(Path("/demo"))
DATA = DemoData(Path("/demo/data"), 599, 24, "What does `os.path.islink` do?", "Test whether a path is a symbolic link")
ANSWERS = Answers(DATA.question, DATA.answer, base="It\nlinks.", tuned="Return True if the path is a link.")
METRICS = {"base_loss": 3.475, "base_perplexity": 32.298, "loss": 2.875, "perplexity": 17.73}


def ended(done: FineTuningJobStatusInfo, answers: Answers | None) -> DemoResult:
    return DemoResult(done.model_copy(update={"metrics": METRICS}), DATA, answers, took_s=301.2)


def test_base_and_tuned_model_are_compared_by_loss_and_perplexity():
    assert loss_rows(ended(status(*TRAINING, h.completed()), ANSWERS)) == [
        ("base model", "3.475", "32.3"),
        ("tuned model", "2.875", "17.73"),
    ]


def test_the_end_tells_both_answers_where_the_model_lies_and_how_to_go_on(capsys):
    show_result(ended(status(*TRAINING, h.completed()), ANSWERS), ASKED, Output())

    told = capsys.readouterr().out
    assert "tuned model: loss 2.875, perplexity 17.73\n" in told
    assert "base says: It links.\n" in told
    assert "tuned says: Return True if the path is a link.\n" in told
    assert "tuned model: /runs/model\n" in told
    assert "took: 5m 01s\n" in told
    assert "ftactors models list --config /demo/service.yaml" in told


def test_a_demo_whose_job_failed_tells_why(capsys):
    show_result(ended(status(*TRAINING, h.job_failed()), None), ASKED, Output())

    assert "  error:   the loss was nan" in capsys.readouterr().out


def test_what_to_try_next_are_commands_that_find_the_demos_service():
    commands = [line for line in how_to_go_on(status(*TRAINING, h.completed()), ASKED) if line.startswith("  ftactors")]

    assert len(commands) == 3
    assert all("--config /demo/service.yaml" in command for command in commands)


def test_the_demos_job_measures_base_and_tuned_model_once():
    job = demo_job(Path("/models/base"), Path("/demo/data"), "docstrings-1", steps=20, num_cpus=2)

    assert (job.hyperparameters.max_steps, job.resources.num_cpus) == (20, 2)
    assert (job.hyperparameters.evaluation_strategy, job.evaluation.evaluate_base) == ("no", True)
    assert job.dataset_config.validation_split_name == "validation"
