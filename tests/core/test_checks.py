"""Fields that are valid each by itself, and not together."""

import pytest

from ftactors.core.config import FineTuningJobConfig
from tests.configs import HELD_OUT, VALID, job, only_problem, problems

PARAMS, HYPER, DATA = "fine_tuning_technique.params", "hyperparameters", "dataset_config"
DETAILS = f"{DATA}.task_format_details"
QLORA_8 = {"fine_tuning_technique.method": "qlora", f"{PARAMS}.bits": 8}
BEST = {f"{HYPER}.load_best_model_at_end": True, **HELD_OUT}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({f"{HYPER}.fp16": True, f"{HYPER}.bf16": True}, f"{HYPER}.fp16", "cannot be set together with bf16"),
        (
            {f"{HYPER}.warmup_ratio": 0.1, f"{HYPER}.warmup_steps": 5},
            f"{HYPER}.warmup_ratio",
            "cannot be set together with warmup_steps (5)",
        ),
        *(
            (
                {f"{HYPER}.{name}": value, f"{HYPER}.lr_scheduler_type": "constant"},
                f"{HYPER}.{name}",
                "no effect with lr_scheduler_type 'constant'; choose 'constant_with_warmup'",
            )
            for name, value in (("warmup_ratio", 0.1), ("warmup_steps", 5))
        ),
        *(
            (
                {f"{HYPER}.{name}": value, f"{HYPER}.optim": optim},
                f"{HYPER}.{name}",
                f"only with an Adam optimizer, and optim is '{optim}'",
            )
            for name, value, optim in (
                ("adam_beta1", 0.8, "sgd"),
                ("adam_beta2", 0.999, "adafactor"),
                ("adam_epsilon", 1e-6, "sgd"),
            )
        ),
        (
            {f"{HYPER}.early_stopping_threshold": 0.1, **BEST},
            f"{HYPER}.early_stopping_threshold",
            "only with early_stopping_patience",
        ),
        (
            {f"{HYPER}.metric_for_best_model": "loss", **HELD_OUT},
            f"{HYPER}.metric_for_best_model",
            "only with load_best_model_at_end or early_stopping_patience",
        ),
        (
            {f"{HYPER}.save_steps": 50, f"{HYPER}.save_strategy": "epoch"},
            f"{HYPER}.save_steps",
            "only with save_strategy 'steps', and that is 'epoch'",
        ),
        (
            {f"{HYPER}.save_steps": 500, f"{HYPER}.save_strategy": "no"},
            f"{HYPER}.save_steps",
            "only with save_strategy 'steps', and that is 'no'",
        ),
        ({**QLORA_8, f"{PARAMS}.quant_type": "nf4"}, f"{PARAMS}.quant_type", "only with bits=4, and bits is 8"),
        ({**QLORA_8, f"{PARAMS}.double_quant": False}, f"{PARAMS}.double_quant", "only with bits=4, and bits is 8"),
        ({**QLORA_8, f"{PARAMS}.use_dora": True}, f"{PARAMS}.use_dora", "works with bits=4, not with bits=8"),
        ({f"{HYPER}.evaluation_strategy": "steps"}, f"{HYPER}.evaluation_strategy", "needs held-out data"),
        ({f"{HYPER}.eval_strategy": "epoch"}, f"{HYPER}.evaluation_strategy", "needs held-out data"),
        ({f"{HYPER}.early_stopping_patience": 2}, f"{HYPER}.early_stopping_patience", "needs held-out data"),
        ({f"{HYPER}.metric_for_best_model": "loss"}, f"{HYPER}.metric_for_best_model", "needs held-out data"),
        ({f"{HYPER}.eval_steps": 10}, f"{HYPER}.eval_steps", "needs held-out data"),
        (
            {f"{HYPER}.eval_steps": 10, f"{HYPER}.evaluation_strategy": "epoch", **HELD_OUT},
            f"{HYPER}.eval_steps",
            "only with evaluation_strategy 'steps', and that is 'epoch'",
        ),
        (
            {f"{HYPER}.early_stopping_patience": 2, f"{HYPER}.evaluation_strategy": "no", **HELD_OUT},
            f"{HYPER}.early_stopping_patience",
            "evaluation_strategy is 'no'",
        ),
        (
            {**BEST, f"{HYPER}.evaluation_strategy": "no"},
            f"{HYPER}.load_best_model_at_end",
            "evaluation_strategy is 'no'",
        ),
        (
            {f"{HYPER}.metric_for_best_model": "token_accuracy", **HELD_OUT},
            f"{HYPER}.metric_for_best_model",
            "is not computed; choose one of evaluation_config.metrics (loss, perplexity)",
        ),
        ({**BEST, f"{HYPER}.save_strategy": "no"}, f"{HYPER}.save_strategy", "must be 'steps' or 'epoch'"),
        ({**BEST, f"{HYPER}.evaluation_strategy": "epoch"}, f"{HYPER}.save_strategy", "must be 'epoch'"),
        (
            {**BEST, f"{HYPER}.evaluation_strategy": "steps", f"{HYPER}.eval_steps": 40, f"{HYPER}.save_steps": 50},
            f"{HYPER}.save_steps",
            "must be a multiple of the evaluation steps (40)",
        ),
        (
            {**BEST, f"{HYPER}.evaluation_strategy": "steps", f"{HYPER}.save_steps": 55},
            f"{HYPER}.save_steps",
            "must be a multiple of the evaluation steps (10)",
        ),
        ({**BEST, f"{HYPER}.eval_steps": 7}, f"{HYPER}.save_steps", "must be a multiple of the evaluation steps (7)"),
        (
            {f"{DATA}.validation_split_name": "train"},
            f"{DATA}.validation_split_name",
            "must be another split than train_split_name",
        ),
        *(
            (
                {f"{DATA}.train_split_name": train, f"{DATA}.validation_split_name": validation},
                f"{DATA}.validation_split_name",
                f"must be another split than train_split_name ({train!r}), or a slice that shares no row",
            )
            for train, validation in (
                ("train", "train[:10%]"),
                ("train[:10%]", "train"),
                ("train[:]", "train[:10%]"),
                ("train[:90%]", "train[80%:]"),
                ("train[:90%]", "train[-20%:]"),
                ("train[:100]", "train[50:150]"),
                ("train[100:]", "train[500:600]"),
                ("train[:10%]", "train[:10%]"),
            )
        ),
        (
            {**HELD_OUT, f"{DATA}.validation_split_ratio": 0.1},
            f"{DATA}.validation_split_ratio",
            "cannot be set together with validation_split_name",
        ),
        ({f"{DATA}.source_type": "data_layer_id"}, f"{DATA}.source_type", "use 'file_path' or 'hf_dataset'"),
        ({f"{DETAILS}.dataset_config_name": "x"}, f"{DETAILS}.dataset_config_name", "a subset of a hub data set"),
        ({f"{DATA}.prompt_column": "q"}, f"{DATA}.prompt_column", "needs completion_column"),
        ({f"{DATA}.completion_column": "a"}, f"{DATA}.completion_column", "needs prompt_column"),
        ({f"{DETAILS}.prompt_column": "q"}, f"{DETAILS}.prompt_column", "needs completion_column"),
        ({f"{DETAILS}.completion_column": "a"}, f"{DETAILS}.completion_column", "needs prompt_column"),
        (
            {f"{DATA}.prompt_column": "q", f"{DATA}.completion_column": "a", f"{DETAILS}.prompt_column": "p"},
            f"{DATA}.prompt_column",
            "differs from task_format_details.prompt_column ('p')",
        ),
        (
            {f"{DETAILS}.text_column": "t", f"{DATA}.prompt_column": "q", f"{DATA}.completion_column": "a"},
            f"{DETAILS}.text_column",
            "cannot be set together with the columns of prompt and completion",
        ),
        (
            {"task_type": "chat", f"{DETAILS}.text_column": "t"},
            "task_type",
            "wants the columns of messages, not dataset_config.task_format_details.text_column",
        ),
        (
            {"task_type": "summarization", f"{DETAILS}.messages_column": "m"},
            "task_type",
            "wants the columns of prompt and completion",
        ),
        ({"fine_tuning_technique.method": "instructlab"}, "fine_tuning_technique.method", "'full', 'lora' and 'qlora'"),
        (
            {"fine_tuning_technique.method": "full", "continue_adapter": True},
            "continue_adapter",
            "use method 'lora' or 'qlora'",
        ),
        (
            {"resources.accelerator_type": "H100", "resources.num_gpus": 0},
            "resources.accelerator_type",
            "num_gpus is 0",
        ),
        ({"new_model_id": "gpt2"}, "new_model_id", "must differ from base_model_id"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "a key of 65 characters; at most 64"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "513 characters; at most 512"),
    ],
)
def test_a_contradiction_is_refused_by_its_field(changes, field, message):
    problem = only_problem(changes)

    assert problem.field == field
    assert message in problem.message
    assert problem.value is not None


def test_the_best_model_cannot_be_looked_for_without_held_out_data():
    fields = [problem.field for problem in problems({f"{HYPER}.load_best_model_at_end": True})]

    assert fields == [f"{HYPER}.load_best_model_at_end"]


def test_text_and_messages_are_said_to_exclude_each_other_by_both_columns():
    found = problems({f"{DETAILS}.text_column": "t", f"{DETAILS}.messages_column": "m"})

    assert [problem.field for problem in found] == [f"{DETAILS}.text_column", f"{DETAILS}.messages_column"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        BEST,
        {**BEST, f"{HYPER}.evaluation_strategy": "steps", f"{HYPER}.eval_steps": 50, f"{HYPER}.save_steps": 100},
        {**BEST, f"{HYPER}.evaluation_strategy": "epoch", f"{HYPER}.save_strategy": "epoch"},
        {f"{HYPER}.eval_steps": 10, **HELD_OUT},
        {f"{HYPER}.early_stopping_patience": 2, f"{DATA}.validation_split_ratio": 0.1},
        {f"{DATA}.train_split_name": "train[:90%]", f"{DATA}.validation_split_name": "train[90%:]"},
        {f"{DATA}.train_split_name": "train[:90%]", f"{DATA}.validation_split_name": "train[-10%:]"},
        {f"{DATA}.train_split_name": "train[10%:]", f"{DATA}.validation_split_name": "train[:10%]"},
        {f"{DATA}.train_split_name": "train[:100]", f"{DATA}.validation_split_name": "train[100:]"},
        {f"{DATA}.train_split_name": "train[:-100]", f"{DATA}.validation_split_name": "train[-100:]"},
        {f"{DATA}.train_split_name": "train[:10%]", f"{DATA}.validation_split_name": "train[500:]"},
        {f"{DATA}.train_split_name": "train[:90%]", f"{DATA}.validation_split_name": "test[:90%]"},
        {f"{DATA}.prompt_column": "q", f"{DETAILS}.completion_column": "a"},
        {f"{DATA}.prompt_column": "q", f"{DETAILS}.prompt_column": "q", f"{DATA}.completion_column": "a"},
        {"task_type": "chat", f"{DETAILS}.messages_column": "m"},
        {"task_type": None, f"{DETAILS}.text_column": "t"},
        {"metadata": {"k" * 64: "v" * 512}},
        QLORA_8,
        {f"{HYPER}.warmup_ratio": 0.1, f"{HYPER}.lr_scheduler_type": "constant_with_warmup"},
        {f"{HYPER}.warmup_ratio": 0.0, f"{HYPER}.lr_scheduler_type": "constant"},
        {f"{HYPER}.adam_beta1": 0.8, f"{HYPER}.optim": "adamw_bnb_8bit"},
        {**BEST, f"{HYPER}.metric_for_best_model": "perplexity"},
        {**HELD_OUT, f"{HYPER}.early_stopping_patience": 2, f"{HYPER}.early_stopping_threshold": 0.1},
    ],
)
def test_what_goes_together_is_accepted(changes):
    assert problems(changes) == ()


def test_a_default_that_a_dump_spells_out_was_not_asked_for():
    dumped = FineTuningJobConfig(
        **job({f"{HYPER}.save_strategy": "epoch", f"{HYPER}.optim": "sgd", **QLORA_8})
    ).model_dump()

    assert problems({path: dumped[path] for path in VALID.keys() | {"hyperparameters"}}) == ()
