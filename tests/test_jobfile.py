"""Configurations in files: what they mean, and what is said of a broken one."""

import json
from pathlib import Path

import pytest

from ftactors.core.errors import InvalidJobConfigError, InvalidServiceConfigError
from ftactors.core.load import parse_job_config
from ftactors.core.service_config import ServiceConfig
from ftactors.jobfile import load_service_config, read_job_file, read_service_config
from tests.configs import VALID

YAML_JOB = """\
job_name: a job
base_model_id: gpt2
new_model_id: gpt2-tuned
dataset_config: {source_type: file_path, path_or_id: /data/rows.jsonl}
fine_tuning_technique:
  method: lora
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["job.yaml", "job.yml", "JOB.YAML"])
def test_a_yaml_file_is_a_job(tmp_path, name):
    assert parse_job_config(read_job_file(written(tmp_path / name, YAML_JOB))) == parse_job_config(VALID)


def test_a_json_file_is_a_job(tmp_path):
    assert read_job_file(str(written(tmp_path / "job.json", json.dumps(VALID)))) == VALID


def test_words_of_yaml_are_words(tmp_path):
    text = (
        YAML_JOB + "hyperparameters: {save_strategy: no, learning_rate: 2e-5, fp16: yes}\nmetadata: {day: 2026-01-02}\n"
    )
    config = parse_job_config(read_job_file(written(tmp_path / "job.yaml", text)))

    assert config.hyperparameters.save_strategy == "no"
    assert (config.hyperparameters.learning_rate, config.hyperparameters.fp16) == (2e-5, True)
    assert config.metadata == {"day": "2026-01-02"}


def test_merged_anchors_of_yaml_are_no_doubles(tmp_path):
    text = "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n"

    assert read_job_file(written(tmp_path / "job.yaml", text))["y"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.yaml", "job_name: x\n  oops: [1\n", "line 2: mapping values are not allowed here"),
        ("job.yaml", "job_name: x\njob_name: y\n", "line 2: 'job_name' stands here twice"),
        ("job.yaml", "job_name: \x00", "cannot be read: "),
        ("job.yaml", "", "must hold fields and their values, and holds nothing"),
        ("job.yaml", "- a\n- b\n", "must hold fields and their values, and holds a value of type list"),
        ("job.yaml", "a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("job.yaml", "!!python/object:os.system x\n", "line 1: could not determine a constructor"),
        ("job.json", '{"job_name": "x",\n "y" 1}', "line 2: Expecting ':' delimiter"),
        ("job.json", '{"a": 1, "a": 2}', "'a' stands twice"),
        ("job.json", "3", "holds a value of type int"),
        ("job.toml", "x = 1", "its name must end in .yaml, .yml, .json"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, name, text, message):
    path = written(tmp_path / name, text)

    with pytest.raises(InvalidJobConfigError) as refused:
        read_job_file(path)

    (problem,) = refused.value.problems
    assert problem.field == str(path)
    assert message in problem.message


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"job_name: \xff\xfe")

    with pytest.raises(InvalidJobConfigError, match="can't decode byte"):
        read_job_file(path)


def test_a_file_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidJobConfigError) as refused:
        read_job_file("job.yaml")

    assert str(refused.value.problems[0]) == f"job.yaml: does not exist (looked in {tmp_path})"


def test_a_directory_is_no_job(tmp_path):
    (tmp_path / "jobs.yaml").mkdir()

    with pytest.raises(InvalidJobConfigError, match="cannot be read: Is a directory"):
        read_job_file(tmp_path / "jobs.yaml")


def test_a_service_configuration_comes_from_a_file(tmp_path):
    path = written(tmp_path / "service.yaml", "max_concurrent_fine_tuning_jobs: 2\nbase_models: {tiny: /models/tiny}\n")

    assert read_service_config(path) == ServiceConfig(
        max_concurrent_fine_tuning_jobs=2, base_models={"tiny": "/models/tiny"}
    )


def test_a_service_configurations_problems_are_listed(tmp_path):
    path = written(tmp_path / "service.yaml", "max_concurrent_fine_tuning_jobs: 0\nstate_dri: x\n")

    with pytest.raises(InvalidServiceConfigError) as refused:
        read_service_config(path)

    assert [problem.field for problem in refused.value.problems] == ["max_concurrent_fine_tuning_jobs", "state_dri"]


def test_the_environment_names_the_service_configuration_where_nobody_else_does(tmp_path):
    path = written(tmp_path / "service.json", '{"job_queue_poll_interval_seconds": 1}')
    environ = {"FTACTORS_CONFIG": str(path)}

    assert load_service_config(environ=environ).job_queue_poll_interval_seconds == 1
    assert load_service_config({}, environ=environ) == ServiceConfig()


@pytest.mark.parametrize("source", [None, {}, ServiceConfig()])
def test_what_is_not_said_of_the_service_is_its_default(source):
    assert load_service_config(source, environ={}) == ServiceConfig()


@pytest.mark.parametrize("source", [3, ["x"]])
def test_what_is_no_service_configuration_is_refused(source):
    with pytest.raises(InvalidServiceConfigError, match="must be a ServiceConfig, a mapping"):
        load_service_config(source, environ={})


def test_a_name_of_the_service_configuration_is_a_string():
    with pytest.raises(InvalidServiceConfigError, match="1: must be a name of a field"):
        load_service_config({1: 2}, environ={})
