"""What a user asks for: the configuration of a job and its parts.

Names and defaults are those of the usage guide; what Hugging Face's `TrainingArguments` or PEFT's `LoraConfig` have a
word for is called so. Fields that are None are resolved at submit (see `resolve.py`) and written down resolved.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ftactors.core.errors import ConfigurationError, InvalidJobConfigError
from ftactors.core.problems import problems_of

Method = Literal["full", "lora", "qlora", "instructlab"]
Metric = Literal["loss", "perplexity", "token_accuracy"]
DataFormat = Literal["jsonl", "json", "csv", "parquet", "arrow", "txt"]
TaskType = Literal["text-generation", "chat", "instruction", "question-answering", "summarization", "translation"]
_SMALLEST_SHARE = 0.001  # of a GPU


def _is_an_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
        raise ValueError("must be an id of up to 128 letters, digits, '.', '_' and '-', not a path")
    return value


def _is_a_split(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(\[[0-9:%-]*\])?", value):
        raise ValueError("must be the name of a split, such as 'train' or 'train[:10%]', not a path")
    return value


def _is_plain(value: str) -> str:
    control = next((character for character in value if unicodedata.category(character) == "Cc"), None)
    if control is not None:
        raise ValueError(f"must not hold control characters; it holds {control!r}")
    return value


def _names_modules(value: Any) -> Any:
    if value != "all-linear" and not (
        isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value)
    ):
        raise ValueError("must be 'all-linear' or a list of module names, such as ['q_proj', 'v_proj']")
    return value if isinstance(value, str) else list(value)


Text = Annotated[str, Field(min_length=1), AfterValidator(_is_plain)]
"""A name or a path: not empty, and without control characters."""
ModelId = Annotated[str, AfterValidator(_is_an_id)]
"""An id of a model that we register; never a path."""
SplitName = Annotated[str, AfterValidator(_is_a_split)]
"""A split such as `train`, or a slice of one as `datasets` writes it, such as `train[:10%]`; never a path."""
TargetModules = Annotated[Literal["all-linear"] | list[str], PlainValidator(_names_modules)]


class Config(BaseModel):
    """The base of all configuration: unknown names are refused, objects do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)
    error: ClassVar[type[ConfigurationError]] = InvalidJobConfigError

    if not TYPE_CHECKING:  # type checkers see pydantic's own signature

        def __init__(self, **values: Any) -> None:
            """Check and keep the values.

            Raises:
                InvalidJobConfigError: with every problem, each with its field.
            """
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise self.error(problems_of(error, type(self))) from None


class TaskFormatDetails(Config):
    """Where in a record the text lies."""

    dataset_config_name: Text | None = None
    """The configuration (subset) of a hub data set, such as `wikitext-2-raw-v1`."""
    text_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    messages_column: str | None = None


class DatasetSourceConfig(Config):
    """Where the data is, and how to read it."""

    source_type: Literal["file_path", "hf_dataset", "data_layer_id"]
    path_or_id: Text
    """A file, a glob or a directory; or a data set's hub id; or an id of the data layer."""
    format: DataFormat | None = None
    """None: from the files' names."""
    train_split_name: SplitName = "train"
    validation_split_name: SplitName | None = None
    validation_split_ratio: float | None = Field(default=None, gt=0, lt=1)
    """The share of the training split to hold out, by the job's seed, where there is no validation split."""
    task_format_details: TaskFormatDetails = TaskFormatDetails()
    prompt_column: str | None = None
    completion_column: str | None = None
    max_dropped_ratio: float = Field(default=0.5, ge=0, le=1)
    """The job fails before it holds a GPU when a greater share of a split's rows is unusable."""
    overflow: Literal["drop", "truncate", "split"] | None = None
    """What becomes of rows longer than `max_seq_length`. None: `split` for plain text, `drop` for all else."""

    @property
    def is_path(self) -> bool:
        """Whether `path_or_id` is a path by its looks. An id of the hub may still be a folder's name."""
        on_disk = self.source_type == "hf_dataset" and self.path_or_id.startswith(("/", ".", "~"))
        return on_disk or self.source_type == "file_path"

    @property
    def has_validation(self) -> bool:
        """Whether the job will have held-out data."""
        return self.validation_split_name is not None or self.validation_split_ratio is not None


class LoRAParams(Config):
    """LoRA's parameters, named as in PEFT's `LoraConfig`."""

    r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: TargetModules = "all-linear"
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: list[str] | None = None


class QLoRAParams(LoRAParams):
    """LoRA on a base that bitsandbytes has quantized."""

    bits: Literal[4, 8] = 4
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit data type; of no meaning with 8 bits."""
    double_quant: bool = True
    """Quantize the constants of quantization too; of no meaning with 8 bits."""


class FullFineTuneParams(Config):
    """All weights are trained; there is nothing to choose."""


class InstructLabParams(Config):
    """The two phases of InstructLab."""

    knowledge_dataset: DatasetSourceConfig | None = None
    skills_dataset: DatasetSourceConfig | None = None
    replay_ratio: float = Field(default=1.0, ge=0, le=1)


TechniqueParams = LoRAParams | QLoRAParams | FullFineTuneParams | InstructLabParams

PARAMS_OF_METHOD: dict[str, type[Config]] = {
    "full": FullFineTuneParams,
    "lora": LoRAParams,
    "qlora": QLoRAParams,
    "instructlab": InstructLabParams,
}


class FineTuningTechniqueConfig(Config):
    """How the model is tuned."""

    method: Method
    params: SerializeAsAny[TechniqueParams] = Field(default=None, validate_default=True)
    """The parameters of the method; None: its defaults."""

    @field_validator("params", mode="plain")
    @classmethod
    def _params_fit_the_method(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = PARAMS_OF_METHOD.get(info.data.get("method", ""))
        if wanted is None:  # the method itself is invalid, and is reported
            return value
        if isinstance(value, Config) and type(value) is not wanted:
            raise ValueError(f"are {type(value).__name__}, but method {info.data['method']!r} takes {wanted.__name__}")
        if value is not None and not isinstance(value, dict | Config):
            raise ValueError(f"must be {wanted.__name__} or a mapping of its fields")
        return wanted.model_validate({} if value is None else value)


class TrainingHyperparameters(Config):
    """The training loop's parameters, named as in Hugging Face's `TrainingArguments`."""

    output_dir_base: Text | None = None
    """Where the job's directory is made; None: the service's `runs_dir`."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps to train; overrides `num_train_epochs`."""
    learning_rate: float | None = Field(default=None, gt=0)
    """None: 2e-5 for `full`, 2e-4 for `lora` and `qlora`."""
    per_device_train_batch_size: int = Field(default=4, ge=1)
    per_device_eval_batch_size: int = Field(default=4, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    optim: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "paged_adamw_8bit", "adamw_bnb_8bit"] = (
        "adamw_torch"
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ] = "linear"
    warmup_ratio: float = Field(default=0.0, ge=0, le=1)
    """The share of all steps over which the learning rate rises."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises; to be set alone, without `warmup_ratio`."""
    logging_steps: int = Field(default=10, ge=1)
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_steps: int = Field(default=500, ge=1)
    save_total_limit: int = Field(default=3, ge=1)
    checkpoint_every_minutes: float = Field(default=15.0, gt=0)
    """A checkpoint is due this long after the last one, whatever `save_strategy` says."""
    evaluation_strategy: Literal["no", "steps", "epoch"] | None = Field(
        default=None, validation_alias=AliasChoices("evaluation_strategy", "eval_strategy")
    )
    """None: `epoch` where there is held-out data, else `no`."""
    eval_steps: int | None = Field(default=None, ge=1)
    """None: `logging_steps`."""
    load_best_model_at_end: bool = False
    metric_for_best_model: Metric | None = None
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations without an improvement."""
    early_stopping_threshold: float = Field(default=0.0, ge=0)
    fp16: bool = False
    bf16: bool | None = None
    """None: where the device has it. A CPU always trains in fp32."""
    gradient_checkpointing: bool | None = None
    """None: on a GPU, not on a CPU."""
    max_seq_length: int | None = Field(default=None, ge=8)
    """Tokens in a row; None: 1024, or the model's context where that is shorter."""


class EvaluationConfig(Config):
    """What is measured on the held-out data."""

    metrics: list[Metric] = Field(default=["loss", "perplexity"], min_length=1)
    evaluate_base: bool = True
    """Measure the base model too, before training."""


class ResourceConfig(Config):
    """What the job holds while it trains; all but `num_workers` is for each worker, as in Ray Train."""

    num_workers: int = Field(default=1, ge=1)
    num_gpus: float | None = Field(default=None, ge=0)
    """A share of one GPU, in thousandths: 0, or from 0.001 to 1; None: 1 where the cluster has GPUs, else 0."""
    num_cpus: float = Field(default=1.0, gt=0)
    memory_gib: float | None = Field(default=None, gt=0)
    accelerator_type: Text | None = None
    """A Ray accelerator type, such as `H100`."""

    @field_validator("num_gpus")
    @classmethod
    def _a_share_of_one(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < _SMALLEST_SHARE:
            raise ValueError(f"must be 0, or from {_SMALLEST_SHARE:g} to 1: shares are counted in thousandths")
        if value is not None and value > 1:
            raise ValueError(
                f"must be from 0 to 1, for each worker; for {value:g} GPUs ask for "
                f"num_workers={-int(-value // 1)}, num_gpus=1"
            )
        return value


class FineTuningJobConfig(Config):
    """A job: which model, which data, how, and on what."""

    job_name: Text = Field(max_length=256)
    base_model_id: Text
    """A registered model's id, a local directory, or a hub id."""
    new_model_id: ModelId
    task_type: TaskType | None = "text-generation"
    dataset_config: DatasetSourceConfig
    fine_tuning_technique: FineTuningTechniqueConfig
    hyperparameters: TrainingHyperparameters = TrainingHyperparameters()
    evaluation_config: EvaluationConfig | None = None
    resources: ResourceConfig = ResourceConfig()
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Higher goes first."""
    max_attempts: int = Field(default=3, ge=1)
    """Failed attempts, after which the job fails; for preparation and for training each."""
    preemptible: bool = False
    """Let a job of higher priority take the share: this one checkpoints, waits, and goes on."""
    retry_on_oom: bool = True
    """Out of memory, try once more with half the rows at a time and twice the accumulation."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)
    on_unsupported: Literal["adapt", "error"] = "adapt"
    """Where hardware or model lack what was asked: do the nearest right thing and warn, or refuse."""
    continue_adapter: bool = False
    """Where the base is an adapter: train that adapter on, instead of a new one on the merged model."""

    @property
    def evaluation(self) -> EvaluationConfig:
        """What is measured, the defaults where nothing was said."""
        return self.evaluation_config or EvaluationConfig()
