"""Limits of single fields: each is refused with its path, what would be valid, and what was asked."""

import pickle

import pytest

from ftactors.core.config import FineTuningJobConfig, FineTuningTechniqueConfig, FullFineTuneParams, LoRAParams
from ftactors.core.errors import InvalidJobConfigError, InvalidServiceConfigError
from ftactors.core.load import parse_job_config
from ftactors.core.problems import value_of
from ftactors.core.service_config import ServiceConfig
from tests.configs import ABSENT, HELD_OUT, VALID, job, only_problem, problems

PARAMS, HYPER = "fine_tuning_technique.params", "hyperparameters"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{PARAMS}.r", 0, "greater than or equal to 1"),
        (f"{PARAMS}.lora_alpha", 0, "greater than 0"),
        (f"{PARAMS}.lora_dropout", -0.1, "greater than or equal to 0"),
        (f"{PARAMS}.lora_dropout", 1.0, "less than 1"),
        (f"{PARAMS}.target_modules", [], "'all-linear' or a list of module names"),
        (f"{HYPER}.learning_rate", 0, "greater than 0"),
        (f"{HYPER}.learning_rate", -1e-5, "greater than 0"),
        (f"{HYPER}.learning_rate", float("nan"), "finite"),
        (f"{HYPER}.learning_rate", float("inf"), "finite"),
        (f"{HYPER}.warmup_ratio", 1.1, "less than or equal to 1"),
        (f"{HYPER}.warmup_ratio", -0.1, "greater than or equal to 0"),
        (f"{HYPER}.num_train_epochs", 0, "greater than 0"),
        (f"{HYPER}.max_steps", 0, "greater than or equal to 1"),
        (f"{HYPER}.per_device_train_batch_size", 0, "greater than or equal to 1"),
        (f"{HYPER}.max_seq_length", 7, "greater than or equal to 8"),
        (f"{HYPER}.evaluation_strategy", "sometimes", "'no', 'steps' or 'epoch'"),
        (f"{HYPER}.eval_strategy", "sometimes", "'no', 'steps' or 'epoch'"),
        (f"{HYPER}.optim", "adam", "'adamw_torch'"),
        ("dataset_config.source_type", "s3", "'file_path', 'hf_dataset' or 'data_layer_id'"),
        ("dataset_config.format", "xlsx", "'jsonl'"),
        ("dataset_config.validation_split_ratio", 1.0, "less than 1"),
        ("dataset_config.validation_split_ratio", 0.0, "greater than 0"),
        ("dataset_config.max_dropped_ratio", 1.5, "less than or equal to 1"),
        ("dataset_config.train_split_name", "../train", "name of a split"),
        ("dataset_config.validation_split_name", "/etc/passwd", "name of a split"),
        ("new_model_id", "../elsewhere", "not a path"),
        ("new_model_id", "models/mine", "not a path"),
        ("resources.num_gpus", 2, "num_workers=2, num_gpus=1"),
        ("resources.num_gpus", -1, "greater than or equal to 0"),
        ("resources.num_cpus", 0, "greater than 0"),
        ("resources.num_workers", 0, "greater than or equal to 1"),
        ("evaluation_config.metrics", [], "at least 1 item"),
        ("priority", 1001, "less than or equal to 1000"),
        ("max_attempts", 0, "greater than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
        ("task_type", "poetry", "'text-generation'"),
        ("job_name", "a\0job", "must not hold control characters; it holds '\\x00'"),
        ("job_name", "a\njob", "must not hold control characters; it holds '\\n'"),
        ("job_name", "", "at least 1 character"),
        ("job_name", "x" * 257, "at most 256 characters"),
        ("base_model_id", "gpt2\x7f", "must not hold control characters"),
        ("base_model_id", "", "at least 1 character"),
        ("dataset_config.path_or_id", "/data/\0", "must not hold control characters"),
        ("dataset_config.path_or_id", "", "at least 1 character"),
        (f"{HYPER}.output_dir_base", "/runs\0", "must not hold control characters"),
        (f"{HYPER}.output_dir_base", "", "at least 1 character"),
        ("resources.num_gpus", 0.0004, "must be 0, or from 0.001 to 1"),
        ("resources.accelerator_type", "", "at least 1 character"),
    ],
)
def test_a_value_outside_its_limits_is_refused_by_its_path(path, value, message):
    problem = only_problem({path: value})

    assert problem.field == path
    assert message in problem.message
    assert problem.value == value_of(value)


@pytest.mark.parametrize(
    "path",
    [
        "job_name",
        "base_model_id",
        "new_model_id",
        "dataset_config.path_or_id",
        "dataset_config.task_format_details.text_column",
        f"{HYPER}.output_dir_base",
        "metadata.note",
    ],
)
def test_half_of_a_surrogate_pair_is_refused(path):
    problem = only_problem({path: "a\ud800"})

    assert (problem.field, problem.value) == (path, "'a\\ud800'")
    assert "half of a surrogate pair" in problem.message


def test_half_of_a_surrogate_pair_is_refused_in_lists_and_names_too():
    assert only_problem({f"{PARAMS}.target_modules": ["q", "\udfff"]}).field == f"{PARAMS}.target_modules"
    assert only_problem({"metadata": {"\ud800": "x"}}).field == "metadata.\\ud800"


@pytest.mark.parametrize("num_gpus", [0, 0.001, 0.25, 1])
def test_a_share_counts_thousandths_of_a_gpu(num_gpus):
    assert not problems({"resources.num_gpus": num_gpus})


@pytest.mark.parametrize("path", ["job_name", "base_model_id", "new_model_id", "dataset_config.path_or_id"])
def test_a_required_field_that_is_missing_is_named(path):
    assert str(only_problem({path: ABSENT})) == f"{path}: is required"


@pytest.mark.parametrize("path", ["dataset_config", "fine_tuning_technique"])
def test_a_required_part_that_is_missing_is_named_once(path):
    assert str(only_problem({path: ABSENT})) == f"{path}: is required"


@pytest.mark.parametrize(
    ("path", "close"),
    [
        (f"{HYPER}.learning_rte", "learning_rate"),
        ("dataset_config.prompt_colum", "prompt_column"),
        ("dataset_config.task_format_details.text_colum", "text_column"),
        (f"{PARAMS}.lora_alfa", "lora_alpha"),
        ("base_model", "base_model_id"),
    ],
)
def test_an_unknown_field_is_refused_with_the_close_one(path, close):
    problem = only_problem({path: 1})

    assert problem.field == path
    assert f"did you mean {close!r}" in problem.message


@pytest.mark.parametrize("bits", [3, 5, 16])
def test_qlora_has_4_and_8_bits(bits):
    problem = only_problem({"fine_tuning_technique": {"method": "qlora", "params": {"bits": bits}}})

    assert (problem.field, problem.message) == (f"{PARAMS}.bits", "must be one of 4 or 8")


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_four_bits_are_nf4_or_fp4(quant_type):
    assert not problems({"fine_tuning_technique": {"method": "qlora", "params": {"quant_type": quant_type}}})


def test_another_quant_type_is_refused():
    problem = only_problem({"fine_tuning_technique": {"method": "qlora", "params": {"quant_type": "int4"}}})

    assert (problem.field, problem.message) == (f"{PARAMS}.quant_type", "must be one of 'nf4' or 'fp4'")


def test_params_of_another_method_are_refused():
    with pytest.raises(InvalidJobConfigError) as refused:
        FineTuningTechniqueConfig(method="lora", params=FullFineTuneParams())

    assert "are FullFineTuneParams, but method 'lora' takes LoRAParams" in str(refused.value)


def test_fields_of_another_methods_params_are_refused():
    problem = only_problem({"fine_tuning_technique": {"method": "lora", "params": {"bits": 4}}})

    assert (problem.field, "is not a field of LoRAParams" in problem.message) == (f"{PARAMS}.bits", True)


@pytest.mark.parametrize("name", ["evaluation_strategy", "eval_strategy"])
def test_the_evaluation_strategy_has_two_names(name):
    config = parse_job_config(job({f"{HYPER}.{name}": "epoch", **HELD_OUT}))

    assert config.hyperparameters.evaluation_strategy == "epoch"


def test_both_names_may_say_the_same():
    both = {f"{HYPER}.evaluation_strategy": "epoch", f"{HYPER}.eval_strategy": "epoch", **HELD_OUT}

    assert parse_job_config(job(both)).hyperparameters.evaluation_strategy == "epoch"


def test_both_names_may_not_differ():
    problem = only_problem({f"{HYPER}.evaluation_strategy": "epoch", f"{HYPER}.eval_strategy": "no", **HELD_OUT})

    assert str(problem) == (
        "hyperparameters.eval_strategy: is another name of evaluation_strategy, which is 'epoch'; "
        "give one of the two (got 'no')"
    )


def test_all_problems_are_listed_at_once():
    wrong = {
        "job_name": ABSENT,
        "new_model_id": "a/b",
        "surname": "x",
        "dataset_config.train_split_name": "a/b",
        f"{PARAMS}.r": 0,
        f"{PARAMS}.lora_dropout": 2,
        f"{HYPER}.learning_rate": 0,
        f"{HYPER}.fp16": True,
        f"{HYPER}.bf16": True,
        f"{HYPER}.evaluation_strategy": "epoch",
        f"{HYPER}.load_best_model_at_end": True,
        "resources.num_workers": 0,
        "metadata": {"k" * 65: "v"},
    }

    with pytest.raises(InvalidJobConfigError) as refused:
        parse_job_config(job(wrong))

    assert {problem.field for problem in refused.value.problems} == {
        "job_name",
        "new_model_id",
        "surname",
        "dataset_config.train_split_name",
        f"{PARAMS}.r",
        f"{PARAMS}.lora_dropout",
        f"{HYPER}.learning_rate",
        f"{HYPER}.fp16",
        f"{HYPER}.evaluation_strategy",
        f"{HYPER}.load_best_model_at_end",
        f"{HYPER}.save_strategy",
        "resources.num_workers",
        "metadata",
    }
    assert str(refused.value).startswith("invalid job configuration, 13 problems:\n")


@pytest.mark.parametrize(
    "wrong",
    [
        {"dataset_config.validation_split_name": "a/b", f"{HYPER}.evaluation_strategy": "epoch"},
        {f"{HYPER}.eval_strategy": "often", f"{HYPER}.eval_steps": 10, **HELD_OUT},
        {"fine_tuning_technique.method": "lorra", "continue_adapter": True},
        {"fine_tuning_technique": {"method": "qlorra", "params": {"bits": 4}}},
        {"evaluation_config.metrics": ["bleu"], f"{HYPER}.metric_for_best_model": "perplexity", **HELD_OUT},
        {"hyperparameters": "fast"},
        {"dataset_config": None, f"{HYPER}.evaluation_strategy": "epoch"},
        {"metadata": {"a.b": 3}},
    ],
)
def test_nothing_is_said_about_what_hangs_on_an_invalid_value(wrong):
    only_problem(wrong)


@pytest.mark.parametrize("key", [7, None])
def test_a_name_that_is_no_string_is_refused(key):
    problem = only_problem({HYPER: {key: 1}})

    assert (problem.field, problem.value) == (f"hyperparameters.{key}", repr(key))


@pytest.mark.parametrize("source", [None, 3, ["job"]])
def test_what_is_no_job_at_all_is_refused(source):
    with pytest.raises(
        InvalidJobConfigError, match="must be a FineTuningJobConfig, a mapping of its fields, or the path"
    ):
        parse_job_config(source)


def test_a_changed_copy_is_checked_again():
    config = FineTuningJobConfig(**VALID).model_copy(update={"priority": 5000})

    with pytest.raises(InvalidJobConfigError, match="priority: must be less than or equal to 1000"):
        parse_job_config(config)


def test_a_valid_job_is_the_same_as_object_and_as_mapping():
    config = FineTuningJobConfig(
        **{**VALID, "fine_tuning_technique": FineTuningTechniqueConfig(method="lora", params=LoRAParams())}
    )

    assert parse_job_config(config) == parse_job_config(VALID) == config


def test_a_job_is_valid_again_when_it_was_dumped():
    config = parse_job_config(
        job({"fine_tuning_technique": {"method": "qlora", "params": {"bits": 8}}, f"{HYPER}.save_strategy": "epoch"})
    )

    assert parse_job_config(config.model_dump(mode="json")) == config


def test_the_error_survives_pickling():
    with pytest.raises(InvalidJobConfigError) as refused:
        parse_job_config(job({"priority": 5000}))

    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own
    assert (type(again), again.problems) == (InvalidJobConfigError, refused.value.problems)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///rel.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:////",
        "sqlite:////var/",
        "events.db",
        "mysql://h/d",
    ],
)
def test_the_logs_url_is_the_absolute_path_of_a_file(url):
    with pytest.raises(InvalidServiceConfigError, match=r"log_url: must be sqlite:// and the absolute path of a file"):
        ServiceConfig(log_url=url)


def test_a_path_of_the_service_holds_no_control_characters():
    with pytest.raises(InvalidServiceConfigError, match="state_dir: must not hold control characters"):
        ServiceConfig(state_dir="/var/\0")


def test_a_service_config_names_the_close_key():
    with pytest.raises(InvalidServiceConfigError, match="did you mean 'max_concurrent_fine_tuning_jobs'"):
        ServiceConfig(max_concurrent_finetuning_jobs=2)


def test_a_password_in_a_url_that_is_refused_is_not_told():
    with pytest.raises(InvalidServiceConfigError) as caught:
        ServiceConfig(log_url="postgresql://me:sekret@host/db")

    assert "postgresql://me:***@host/db" in str(caught.value)
    assert "sekret" not in str(caught.value)
