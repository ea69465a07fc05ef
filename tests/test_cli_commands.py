"""The command line as a whole: its help, its exit codes, and what it prints where."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import typer
import yaml
from typer.main import get_command

from ftactors.cli import main
from ftactors.cli.app import app
from ftactors.cli.edge import ExitCode, exit_code_of, guarded
from ftactors.cli.jobs import finish
from ftactors.core import errors
from tests.core import histories as h
from tests.test_cli_lines import TRAINING, status
from tests.test_cli_reading import write_log

COMMANDS = {
    "demo",
    "submit",
    "list",
    "status",
    "watch",
    "events",
    "logs",
    "cancel",
    "pause",
    "resume",
    "stop",
    "config",
}
GROUPS = {
    "models": {"list", "show", "import", "delete"},
    "log": {"verify", "tail", "show", "export", "replay", "stats"},
}
COMMAND_LINE = [sys.executable, "-m", "ftactors.cli"]
HEAVY = ("ray", "torch", "transformers", "sqlalchemy", "datasets")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, in a pipe."""
    environment = {**os.environ, "FTACTORS_CONFIG": "", **environ}
    return subprocess.run(
        [*COMMAND_LINE, *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def exit_code(*arguments: str) -> int:
    """Run a command in this process; typer leaves by SystemExit where it is content."""
    try:
        return main(arguments)
    except SystemExit as left:
        return int(left.code or 0)


def all_commands() -> Iterator[tuple[tuple[str, ...], object]]:
    exit_code("--version")  # loads them
    root = get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        if name in GROUPS:
            for inner, inner_command in command.commands.items():
                yield (name, inner), inner_command
        else:
            yield (name,), command


@pytest.fixture
def service_file(tmp_path: Path) -> Path:
    """The configuration of a service that has left a log behind, and no other service anywhere."""
    write_log(tmp_path / "state" / "events.db")
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "ray_address": "local"}))
    return path


def test_the_command_line_has_all_of_its_commands():
    names = {name for name, _ in all_commands()}

    assert names == {(name,) for name in COMMANDS} | {(group, name) for group in GROUPS for name in GROUPS[group]}


def test_each_command_says_what_it_does_with_an_example_of_itself():
    for name, command in all_commands():
        assert command.help, name  # type: ignore[attr-defined]
        title, *examples = command.epilog.splitlines()  # type: ignore[attr-defined]
        assert title in ("Example:", "Examples:"), name
        assert examples, name
        assert all("ftactors " + " ".join(name) in example for example in examples), name


def test_each_command_that_talks_to_a_service_takes_a_configuration_and_all_answer_in_json():
    for name, command in all_commands():
        options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
        assert "--json" in options, name
        assert "--config" in options or name == ("demo",), name


def test_help_names_all_exit_codes(capsys):
    assert exit_code("--help") == 0

    shown = capsys.readouterr().out
    for code in ExitCode:
        assert f" {code.value} " in shown


def test_help_is_shown_where_nothing_is_asked(capsys):
    assert exit_code() == ExitCode.INVALID
    assert "Usage: ftactors" in capsys.readouterr().out


def test_help_loads_neither_ray_nor_torch():
    program = (
        "import sys\nfrom ftactors.cli import main\n"
        f"try:\n    main(['submit', '--help'])\nfinally:\n    print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert "Usage: ftactors submit" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidJobConfigError([errors.ConfigProblem("seed", "must be an integer")]), ExitCode.INVALID),
        (errors.InvalidServiceConfigError([errors.ConfigProblem("x", "is unknown")]), ExitCode.INVALID),
        (errors.JobNotFoundError("there is no job 'x'"), ExitCode.NOT_FOUND),
        (errors.ModelNotFoundError("there is no model 'x'"), ExitCode.NOT_FOUND),
        (errors.DatasetError("train.jsonl:7 is not JSON"), ExitCode.INVALID),
        (errors.ModelImportError("model id './x' must be an id"), ExitCode.INVALID),
        (errors.DivergedError("the loss is nan"), ExitCode.JOB_FAILED),
        (errors.ServiceUnavailableError("the scheduler does not answer"), ExitCode.UNAVAILABLE),
        (errors.JobStateError("job 'x' is completed"), ExitCode.UNAVAILABLE),
        (errors.LogRefusedError("the log is held"), ExitCode.UNAVAILABLE),
    ],
)
def test_each_error_has_its_exit_code_and_is_one_message_without_a_traceback(error, code, capsys):
    def command() -> int:
        raise error

    assert guarded(command) == code == exit_code_of(error)
    assert capsys.readouterr() == ("", f"{error}\n")


def test_the_hint_of_an_error_is_told(capsys):
    def command() -> int:
        raise errors.DatasetError("no rows", hint="look at prompt_column")

    guarded(command)

    assert capsys.readouterr().err == "no rows\nhint: look at prompt_column\n"


def test_an_error_that_nobody_foresaw_is_told_with_what_to_report(capsys):
    def command() -> int:
        raise KeyError("surprise")

    assert guarded(command) == ExitCode.UNAVAILABLE
    told = capsys.readouterr().err
    assert "KeyError: 'surprise'" in told
    assert "please report it" in told
    assert "Traceback" in told


def test_a_job_that_was_waited_for_and_failed_is_exit_code_1():
    finish([status(*TRAINING), status(*TRAINING, h.completed())])
    with pytest.raises(typer.Exit) as left:
        finish([status(*TRAINING, h.completed()), status(*TRAINING, h.job_failed())])

    assert left.value.exit_code == ExitCode.JOB_FAILED


@pytest.mark.parametrize("arguments", [["nonsense"], ["list", "--limit", "0"], ["list", "--status", "odd"], ["status"]])
def test_a_wrong_command_line_is_exit_code_2(arguments, capsys):
    assert exit_code(*arguments) == ExitCode.INVALID
    assert capsys.readouterr().out == ""


def test_all_problems_of_the_services_configuration_are_listed(tmp_path, capsys):
    path = tmp_path / "service.yaml"
    path.write_text("max_concurrent_fine_tuning_jobs: 0\nstate_dri: /tmp\n")

    assert exit_code("list", "--config", str(path)) == ExitCode.INVALID
    told = capsys.readouterr().err
    assert "2 problems" in told
    assert "max_concurrent_fine_tuning_jobs: must be greater than or equal to 1 (got 0)" in told
    assert "did you mean 'state_dir'" in told


def test_a_jobs_file_that_cannot_be_read_is_refused_before_anything_is_started(tmp_path, capsys):
    assert exit_code("submit", str(tmp_path / "job.yaml")) == ExitCode.INVALID
    assert "does not exist" in capsys.readouterr().err


def test_the_effective_configuration_is_printed_and_can_be_read_again(tmp_path, capsys, monkeypatch):
    path = tmp_path / "service.yaml"
    path.write_text("max_concurrent_fine_tuning_jobs: 3\n")
    monkeypatch.setenv("FTACTORS_CONFIG", str(path))
    exit_code("config")
    printed = capsys.readouterr().out
    path.write_text(printed)
    exit_code("config", "--json")

    assert yaml.safe_load(printed) == json.loads(capsys.readouterr().out)
    assert yaml.safe_load(printed)["max_concurrent_fine_tuning_jobs"] == 3


def test_jobs_are_read_from_the_log_where_no_service_runs(service_file):
    listed = run("list", "--config", str(service_file))

    assert listed.returncode == 0
    assert [line.split("\t")[:2] for line in listed.stdout.splitlines()] == [
        ["ftjob-3", "running"],
        ["ftjob-2", "cancelled"],
        ["ftjob-1", "completed"],
    ]
    assert "no service is running" in listed.stderr
    assert "Traceback" not in listed.stderr


def test_a_status_is_one_json_document(service_file):
    told = run("status", "ftjob-1", "--json", FTACTORS_CONFIG=str(service_file))

    assert json.loads(told.stdout)["fine_tuned_model_id"] == "tuned"


def test_a_job_that_there_is_not_is_exit_code_3(service_file):
    told = run("cancel", "ftjob-9", "--config", str(service_file))

    assert (told.returncode, told.stdout) == (ExitCode.NOT_FOUND, "")
    assert told.stderr.splitlines()[-1] == "there is no job 'ftjob-9' in the log"


def test_watching_a_job_that_was_cancelled_is_exit_code_1_and_starts_nothing(service_file):
    told = run("watch", "ftjob-2", "ftjob-1", "--config", str(service_file))

    assert told.returncode == ExitCode.JOB_FAILED
    assert [line.split()[:2] for line in told.stdout.splitlines()] == [
        ["ftjob-2", "cancelled"],
        ["ftjob-1", "completed"],
    ]


def test_a_terminal_gets_a_table_in_colours(service_file):
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [*COMMAND_LINE, "list", "--config", str(service_file)], stdout=slave, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(slave)
        shown = b""
        with suppress(OSError):  # the other side is closed
            while read := os.read(master, 4096):
                shown += read
    os.close(master)

    assert process.returncode == 0
    assert b"\x1b[32mcompleted" in shown
    assert b"progress" in shown
