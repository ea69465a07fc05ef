"""A job for this model and this cluster: what is chosen, what is adapted with a warning, what is refused."""

import pytest

import ftactors.core.config as public
from ftactors.core.errors import InvalidJobConfigError
from ftactors.core.feasible import ClusterFacts
from ftactors.core.load import draft_job, parse_job_config
from ftactors.core.model_facts import facts_of
from ftactors.core.resolve import Resolved, resolve
from ftactors.core.seen import Node
from tests.configs import HELD_OUT, job
from tests.model_dirs import GPT2_CONFIG, GPT2_SHAPES, LLAMA_CONFIG, LLAMA_SHAPES, header

HYPER, TARGETS = "hyperparameters", "fine_tuning_technique.params.target_modules"
GPT2 = facts_of(GPT2_CONFIG, header(GPT2_SHAPES))
NOTHING: dict[str, object] = {}
LLAMA = facts_of(LLAMA_CONFIG, header(LLAMA_SHAPES))


def cluster(*, gpus: bool) -> ClusterFacts:
    return ClusterFacts((Node("node-a", name="a", gpus=2 if gpus else 0, cpus=8, mem_gib=32),))


def resolved(changes=NOTHING, *, facts=GPT2, gpus=False, cwd=None) -> Resolved:
    asked = parse_job_config(job(changes))
    return resolve(asked, facts=facts, cluster=cluster(gpus=gpus), runs_dir="/state/runs", cwd=cwd)


def refusals(changes, **kwargs) -> list[str]:
    with pytest.raises(InvalidJobConfigError) as refused:
        resolved(changes, **kwargs)
    return [str(problem) for problem in refused.value.problems]


def test_what_was_not_said_is_written_down():
    config = resolved().config
    training = config.hyperparameters

    assert (training.output_dir_base, training.max_seq_length) == ("/state/runs", 1024)
    assert (training.evaluation_strategy, training.eval_steps) == ("no", None)
    assert (training.fp16, training.bf16, training.gradient_checkpointing) == (False, False, False)
    assert config.resources.num_gpus == 0
    assert config.evaluation_config.metrics == ["loss", "perplexity"]


def test_a_cluster_with_gpus_gives_one_and_leaves_bf16_to_the_device():
    config = resolved(gpus=True).config

    assert config.resources.num_gpus == 1
    assert (config.hyperparameters.bf16, config.hyperparameters.gradient_checkpointing) == (None, True)


def test_a_gpu_that_the_autoscaler_could_bring_is_waited_for_only_where_it_was_asked_for():
    coming = ClusterFacts(cluster(gpus=False).up, could_add=(Node("gpus-1", name="gpus", gpus=1, cpus=8, mem_gib=32),))
    for asked, chosen in (({}, 0), ({"resources.num_gpus": 1}, 1)):
        outcome = resolve(parse_job_config(job(asked)), facts=GPT2, cluster=coming, runs_dir="/runs")

        assert outcome.config.resources.num_gpus == chosen


def test_what_no_node_could_hold_is_refused_with_all_else_that_is_wrong():
    found = refusals({"resources.num_cpus": 9, f"{HYPER}.max_seq_length": 9999})

    assert [problem.partition(":")[0] for problem in found] == ["resources.num_cpus", f"{HYPER}.max_seq_length"]


def test_of_resources_that_could_not_be_read_nothing_is_said_to_be_too_much():
    draft = draft_job(job({"resources.num_gpus": "many", "resources.num_cpus": 9}))
    with pytest.raises(InvalidJobConfigError) as refused:
        resolve(draft.config, facts=GPT2, cluster=cluster(gpus=False), runs_dir="/runs", problems=draft.problems)

    assert [problem.field for problem in refused.value.problems] == ["resources.num_gpus"]


@pytest.mark.parametrize(("method", "rate"), [("full", 2e-5), ("lora", 2e-4), ("qlora", 2e-4)])
def test_the_learning_rate_is_the_methods(method, rate):
    config = resolved({"fine_tuning_technique.method": method}).config

    assert config.hyperparameters.learning_rate == rate


@pytest.mark.parametrize(
    ("changes", "strategy", "steps"),
    [
        ({}, "no", None),
        (HELD_OUT, "epoch", None),
        ({**HELD_OUT, f"{HYPER}.evaluation_strategy": "no"}, "no", None),
        ({**HELD_OUT, f"{HYPER}.evaluation_strategy": "steps"}, "steps", 10),
        ({**HELD_OUT, f"{HYPER}.eval_steps": 7}, "steps", 7),
        ({**HELD_OUT, f"{HYPER}.load_best_model_at_end": True}, "steps", 500),
        ({"dataset_config.validation_split_ratio": 0.1}, "epoch", None),
    ],
)
def test_evaluation_follows_what_else_was_said(changes, strategy, steps):
    training = resolved(changes).config.hyperparameters

    assert (training.evaluation_strategy, training.eval_steps) == (strategy, steps)


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({}, None),
        ({f"{HYPER}.load_best_model_at_end": True}, "loss"),
        ({f"{HYPER}.early_stopping_patience": 2}, "loss"),
        ({f"{HYPER}.early_stopping_patience": 2, "evaluation_config.metrics": ["perplexity"]}, "perplexity"),
        ({f"{HYPER}.early_stopping_patience": 2, f"{HYPER}.metric_for_best_model": "perplexity"}, "perplexity"),
    ],
)
def test_the_best_model_has_the_least_loss_unless_said_otherwise(changes, metric):
    assert resolved({**HELD_OUT, **changes}).config.hyperparameters.metric_for_best_model == metric


@pytest.mark.parametrize("context", [64, 1024, 4096])
def test_the_sequence_length_is_1024_or_the_shorter_context(context):
    facts = facts_of({**GPT2_CONFIG, "n_positions": context, "n_ctx": context}, {})

    assert resolved(facts=facts).config.hyperparameters.max_seq_length == min(1024, context)


def test_a_sequence_length_above_the_context_is_refused():
    (problem,) = refusals({f"{HYPER}.max_seq_length": 1025})

    assert problem == (
        "hyperparameters.max_seq_length: is above the context of gpt2, which is 1024 tokens; choose at most that "
        "(got 1025)"
    )


def test_gpus_are_refused_where_there_are_none():
    (problem,) = refusals({"resources.num_gpus": 0.5})

    assert problem == (
        "resources.num_gpus: cannot be had: the cluster has no GPUs; ask for 0, or leave it out to train on CPUs "
        "(got 0.5)"
    )


def test_an_accelerator_type_is_refused_where_there_are_no_gpus():
    assert refusals({"resources.accelerator_type": "H100"}) == [
        "resources.accelerator_type: cannot be had: the cluster has no GPUs; leave it out to train on CPUs (got 'H100')"
    ]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_cpu_becomes_fp32_with_a_warning(precision):
    outcome = resolved({f"{HYPER}.{precision}": True})

    assert (outcome.config.hyperparameters.fp16, outcome.config.hyperparameters.bf16) == (False, False)
    assert outcome.warnings == (
        f"hyperparameters.{precision}=True: the job trains on a CPU, where that is slow or absent; done instead: fp32",
    )


def test_half_precision_on_a_cpu_is_refused_where_the_user_wants_an_error():
    (problem,) = refusals({f"{HYPER}.fp16": True, "on_unsupported": "error"})

    assert problem.startswith("hyperparameters.fp16: the job trains on a CPU")


def test_half_precision_stays_on_a_gpu():
    training = resolved({f"{HYPER}.fp16": True}, gpus=True).config.hyperparameters

    assert (training.fp16, training.bf16) == (True, False)


def test_a_job_without_gpus_on_a_cluster_with_gpus_trains_in_fp32():
    outcome = resolved({f"{HYPER}.bf16": True, "resources.num_gpus": 0}, gpus=True)

    assert outcome.config.hyperparameters.bf16 is False


def test_target_modules_of_a_fused_architecture_are_translated_with_a_warning():
    outcome = resolved({TARGETS: ["q_proj", "v_proj"]})

    assert outcome.config.fine_tuning_technique.params.target_modules == ["c_attn"]
    (warning,) = outcome.warnings
    assert warning == (
        "fine_tuning_technique.params.target_modules=['q_proj', 'v_proj']: gpt2 has no module 'q_proj' or 'v_proj'; "
        "done instead: 'c_attn'"
    )


def test_target_modules_are_not_translated_where_the_user_wants_an_error():
    assert refusals({TARGETS: ["q_proj", "c_fc"], "on_unsupported": "error"}) == [
        f"{TARGETS}: gpt2 has no module 'q_proj'; possible is: 'c_attn' (got ['q_proj'])"
    ]


def test_target_modules_that_the_model_has_stay():
    outcome = resolved({TARGETS: ["q_proj", "v_proj"]}, facts=LLAMA)

    assert outcome.config.fine_tuning_technique.params.target_modules == ["q_proj", "v_proj"]
    assert outcome.warnings == ()


def test_each_target_module_that_the_model_lacks_is_refused_with_the_close_ones():
    close, none_close = refusals({TARGETS: ["q_pro", "mouth", "o_proj"]}, facts=LLAMA)

    assert close.startswith(f"{TARGETS}: llama has no such module; did you mean 'q_proj'")
    assert none_close == (
        f"{TARGETS}: llama has no such module; known are down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, "
        "q_proj, up_proj, v_proj (got 'mouth')"
    )


def test_modules_to_save_may_be_norms_and_the_tied_head():
    outcome = resolved({"fine_tuning_technique.params.modules_to_save": ["norm", "lm_head"]}, facts=LLAMA)

    assert outcome.config.fine_tuning_technique.params.modules_to_save == ["norm", "lm_head"]


def test_nothing_is_checked_against_a_model_whose_files_are_elsewhere():
    outcome = resolved({TARGETS: ["anything"], f"{HYPER}.max_seq_length": 10**6}, facts=None)

    assert outcome.config.fine_tuning_technique.params.target_modules == ["anything"]


def test_relative_paths_begin_where_the_user_is():
    relative = {"dataset_config.path_or_id": "rows.jsonl", f"{HYPER}.output_dir_base": "runs"}
    config = resolved(relative, cwd="/home/me").config

    assert config.dataset_config.path_or_id == "/home/me/rows.jsonl"
    assert config.hyperparameters.output_dir_base == "/home/me/runs"


def test_the_id_of_a_hub_data_set_is_no_path():
    on_the_hub = {"dataset_config.source_type": "hf_dataset", "dataset_config.path_or_id": "squad"}

    assert resolved(on_the_hub, cwd="/home/me").config.dataset_config.path_or_id == "squad"


@pytest.mark.parametrize(("folder", "absolute"), [("./rows", "/home/me/./rows"), ("/data/rows", "/data/rows")])
def test_a_folder_with_a_data_set_is_a_path(folder, absolute):
    in_a_folder = {"dataset_config.source_type": "hf_dataset", "dataset_config.path_or_id": folder}

    assert resolved(in_a_folder, cwd="/home/me").config.dataset_config.path_or_id == absolute


@pytest.mark.parametrize("gpus", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        HELD_OUT,
        {**HELD_OUT, f"{HYPER}.load_best_model_at_end": True},
        {TARGETS: ["q_proj", "down_proj"], f"{HYPER}.fp16": True, "dataset_config.path_or_id": "rows.jsonl"},
        {"fine_tuning_technique": {"method": "qlora", "params": {"bits": 8}}, f"{HYPER}.save_strategy": "no"},
    ],
)
def test_a_resolved_job_resolves_to_itself_without_a_warning(changes, gpus):
    once = resolved(changes, gpus=gpus, cwd="/home/me").config
    stored = parse_job_config(once.model_dump(mode="json"))
    again = resolve(stored, facts=GPT2, cluster=cluster(gpus=gpus), runs_dir="/other", cwd="/elsewhere")

    assert again == Resolved(once, ())


def test_what_was_wrong_before_is_raised_with_what_is_wrong_now():
    draft = draft_job(job({"priority": 5000, f"{HYPER}.max_seq_length": 2000}))

    with pytest.raises(InvalidJobConfigError) as refused:
        resolve(draft.config, facts=GPT2, cluster=cluster(gpus=False), runs_dir="/runs", problems=draft.problems)

    assert [problem.field for problem in refused.value.problems] == ["priority", "hyperparameters.max_seq_length"]


def test_a_draft_knows_whether_its_base_model_was_named():
    assert draft_job(job({"base_model_id": ""})).base_model_id is None
    assert draft_job(job({"priority": 5000})).base_model_id == "gpt2"


def test_the_guides_job_resolves_with_the_warnings_it_is_promised():
    """The objects of the usage guide's section 4, as they stand there, on a CPU."""
    dataset_config = public.DatasetSourceConfig(
        source_type="hf_dataset",
        path_or_id="wikitext",
        format="arrow",
        train_split_name="train",
        validation_split_name="test",
        task_format_details={"dataset_config_name": "wikitext-2-raw-v1", "text_column": "text"},
    )
    lora_technique = public.FineTuningTechniqueConfig(
        method="lora",
        params=public.LoRAParams(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]),
    )
    hyperparams = public.TrainingHyperparameters(
        output_dir_base="/tmp/my_finetuning_runs",  # noqa: S108 - the guide's
        num_train_epochs=1.0,
        learning_rate=2e-5,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        logging_steps=10,
        save_steps=50,
        save_strategy="steps",
        evaluation_strategy="steps",
        eval_steps=50,
        fp16=True,
        max_seq_length=512,
    )
    job_config = public.FineTuningJobConfig(
        job_name="My First LoRA Fine-Tune",
        base_model_id="gpt2",
        new_model_id="gpt2-lora-wikitext-custom",
        task_type="text-generation",
        dataset_config=dataset_config,
        fine_tuning_technique=lora_technique,
        hyperparameters=hyperparams,
        evaluation_config=public.EvaluationConfig(metrics=["loss", "perplexity"]),
    )

    outcome = resolve(parse_job_config(job_config), facts=GPT2, cluster=cluster(gpus=False), runs_dir="/runs")

    assert [warning.partition(":")[0] for warning in outcome.warnings] == [
        "hyperparameters.fp16=True",
        "fine_tuning_technique.params.target_modules=['q_proj', 'v_proj']",
    ]
    assert outcome.config.fine_tuning_technique.params.target_modules == ["c_attn"]
    assert outcome.config.hyperparameters.output_dir_base == "/tmp/my_finetuning_runs"  # noqa: S108 - the guide's


@pytest.mark.parametrize(
    "technique",
    [
        public.FineTuningTechniqueConfig(method="full", params=public.FullFineTuneParams()),
        public.FineTuningTechniqueConfig(
            method="qlora", params=public.QLoRAParams(r=8, lora_alpha=16, bits=4, quant_type="nf4")
        ),
    ],
    ids=["full", "qlora"],
)
def test_the_guides_other_techniques_resolve_without_a_warning(technique):
    assert resolved({"fine_tuning_technique": technique}).warnings == ()
