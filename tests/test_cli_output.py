"""The same answers for a person at a terminal, for a pipe, and for a program."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterable

from rich.console import Console

from ftactors.cli.bars import Bars, facts_beside_bar, share_done
from ftactors.cli.lines import JOB_COLUMNS, job_row
from ftactors.cli.output import Output
from ftactors.cli.tables import table
from ftactors.cli.watching import follow
from ftactors.core.status import FineTuningJobStatusInfo, Waiting, describe
from tests.core import histories as h
from tests.test_cli_lines import TRAINING, status

PERSON = Output(to_person=True)
STORY = [
    describe(h.fold([h.submitted(job_name="[red]my job")]), Waiting(1, "waits [for] nothing")),
    status(*TRAINING),
    status(*TRAINING, h.evaluated()),
    status(*TRAINING, h.completed()),
]


async def coming(statuses: Iterable[FineTuningJobStatusInfo]) -> AsyncIterator[FineTuningJobStatusInfo]:
    for seen in statuses:
        yield seen


def test_rows_in_a_pipe_have_tabs_and_no_colours(capsys):
    Output().rows(("job", "status"), [("j1", "completed"), ("j2", "failed")], empty="none")

    assert capsys.readouterr().out == "j1\tcompleted\nj2\tfailed\n"


def test_rows_at_a_terminal_have_headings(capsys):
    PERSON.rows(("job", "status"), [("j1", "completed")], empty="none")

    shown = capsys.readouterr().out
    assert shown.split() == ["job", "status", "─" * len(shown.split()[2]), "j1", "completed"]


def test_a_status_is_coloured():
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, color_system="standard").print(table(("status",), [("completed",)]))

    assert "\x1b[32mcompleted" in screen.getvalue()


def test_a_person_is_told_of_emptiness_and_a_pipe_gets_nothing(capsys):
    PERSON.rows(("job",), [], empty="no jobs")
    told = capsys.readouterr()
    Output().rows(("job",), [], empty="no jobs")

    assert (told.out, told.err) == ("", "no jobs\n")
    assert capsys.readouterr() == ("", "")


def test_facts_are_a_line_each(capsys):
    Output().facts({"status": "running", "step": "9"})

    assert capsys.readouterr().out == "status: running\nstep: 9\n"


def test_markup_in_a_users_text_is_shown_as_it_is(capsys):
    PERSON.facts({"job_name": "[red]my job"})

    assert "[red]my job" in capsys.readouterr().out


def test_json_is_one_line(capsys):
    Output(as_json=True).document(STORY[1])

    (line,) = capsys.readouterr().out.splitlines()
    assert FineTuningJobStatusInfo.model_validate(json.loads(line)) == STORY[1]


async def test_a_job_is_followed_in_a_pipe_by_lines_that_differ(capsys):
    last = await follow([coming([*STORY[:2], STORY[1], STORY[3]])], Output())

    assert last == [STORY[3]]
    assert capsys.readouterr().out.splitlines() == [
        "ftjob-1 queued waits [for] nothing (position 1)",
        "ftjob-1 running training 45% step 9/20 loss 2.5 eta 1s (1 GPU on node-a)",
        "ftjob-1 completed loss=2",
    ]


async def test_a_job_is_followed_by_a_program_in_lines_of_json(capsys):
    await follow([coming(STORY)], Output(as_json=True))

    told = [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["queued", "running", "running", "completed"]


async def test_several_jobs_are_followed_at_once(capsys):
    other = [seen.model_copy(update={"job_id": "ftjob-2"}) for seen in STORY]

    last = await follow([coming(STORY), coming(other)], Output(as_json=True))

    told = [json.loads(line)["job_id"] for line in capsys.readouterr().out.splitlines()]
    assert [job.job_id for job in last] == ["ftjob-1", "ftjob-2"]
    assert (told.count("ftjob-1"), told.count("ftjob-2")) == (4, 4)


async def test_a_person_follows_a_job_on_a_bar_and_no_lines(capsys):
    await follow([coming(STORY)], PERSON)

    (last,) = capsys.readouterr().out.splitlines()
    assert "a job completed" in last


def test_a_bar_shows_job_stage_step_loss_and_time_left():
    screen = io.StringIO()
    with Bars(Console(file=screen, width=120)) as show:
        show(STORY[1])

    assert "a job training" in screen.getvalue()
    assert "step 9/20 loss 2.5 1s left" in screen.getvalue()


def test_at_80_columns_the_whole_reason_of_a_waiting_job_can_be_read_beside_its_bar():
    reason = " ".join(f"word-{number}" for number in range(12))
    screen = io.StringIO()
    with Bars(Console(file=screen, width=80)) as show:
        show(describe(h.fold([h.submitted()]), Waiting(3, reason)))

    last = screen.getvalue()[screen.getvalue().rindex("word-0") :]
    assert [word for word in last.split() if word.startswith("word-")] == reason.split()


def test_a_narrow_terminal_spares_the_model_and_the_creation_for_where_the_job_stands():
    columns, row = JOB_COLUMNS, job_row(STORY[1])
    narrow, wide = (table(columns, [row], width=width) for width in (80, 120))

    assert [column.header for column in narrow.columns] == ["job", "status", "progress", "name", "now"]
    assert [column.header for column in wide.columns] == list(columns)


def test_a_bar_shows_the_name_of_a_job_as_it_is():
    screen = io.StringIO()
    with Bars(Console(file=screen, width=120)) as show:
        show(STORY[0])

    assert "[red]my job queued" in screen.getvalue()


def test_a_bar_has_a_length_only_where_the_share_done_is_known():
    assert [share_done(seen) for seen in STORY] == [None, 45.0, 45.0, 100.0]
    assert facts_beside_bar(STORY[0]) == "1 in line: waits [for] nothing"


def test_a_bar_is_full_only_when_the_job_has_ended():
    through = STORY[1].model_copy(update={"progress_percentage": 100.0})

    assert share_done(through) == 99.9
