"""What can be wrong between the fields of the data set's configuration."""

from __future__ import annotations

from collections.abc import Iterator

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.errors import ConfigProblem
from ftactors.core.problems import value_of
from ftactors.core.rules import Rules
from ftactors.core.slices import overlap

RULES = Rules()

_COLUMNS = (
    "dataset_config.prompt_column",
    "dataset_config.completion_column",
    "dataset_config.task_format_details",
)


@RULES.reads("dataset_config.source_type")
def _the_source_can_be_read(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    if config.dataset_config.source_type == "data_layer_id":
        message = "needs a catalog, and none is configured in this version; use 'file_path' or 'hf_dataset'"
        yield ConfigProblem("dataset_config.source_type", message, "'data_layer_id'")


@RULES.reads("dataset_config.source_type", "dataset_config.task_format_details.dataset_config_name")
def _files_have_no_subsets(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    name = config.dataset_config.task_format_details.dataset_config_name
    if name is not None and config.dataset_config.source_type == "file_path":
        message = "names a subset of a hub data set, and source_type is 'file_path'; leave it out"
        yield ConfigProblem("dataset_config.task_format_details.dataset_config_name", message, value_of(name))


@RULES.reads(
    "dataset_config.train_split_name", "dataset_config.validation_split_name", "dataset_config.validation_split_ratio"
)
def _held_out_data_is_held_out(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    data = config.dataset_config
    if data.validation_split_name is None:
        return
    if overlap(data.train_split_name, data.validation_split_name):
        message = (
            f"must be another split than train_split_name ({data.train_split_name!r}), or a slice that shares no row "
            "with a slice there; to hold out a share of one split, set validation_split_ratio"
        )
        yield ConfigProblem("dataset_config.validation_split_name", message, value_of(data.validation_split_name))
    if data.validation_split_ratio is not None:
        message = f"cannot be set together with validation_split_name ({data.validation_split_name!r}); choose one"
        yield ConfigProblem("dataset_config.validation_split_ratio", message, value_of(data.validation_split_ratio))


@RULES.reads(*_COLUMNS)
def _columns_agree(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    data, details = config.dataset_config, config.dataset_config.task_format_details
    for name in ("prompt_column", "completion_column"):
        one, other = getattr(data, name), getattr(details, name)
        if None not in (one, other) and one != other:
            message = f"differs from task_format_details.{name} ({other!r}); name the column once"
            yield ConfigProblem(f"dataset_config.{name}", message, value_of(one))
    prompt = data.prompt_column or details.prompt_column
    completion = data.completion_column or details.completion_column
    for name, value, partner in (
        ("prompt_column", prompt, "completion_column"),
        ("completion_column", completion, "prompt_column"),
    ):
        if value is not None and None in (prompt, completion):
            place = "dataset_config" if getattr(data, name) else "dataset_config.task_format_details"
            yield ConfigProblem(f"{place}.{name}", f"needs {partner} beside it", value_of(value))


@RULES.reads(*_COLUMNS)
def _rows_have_one_shape(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    shapes = _shapes(config)
    for field, (shape, value) in shapes.items():
        others = {other for other, _ in shapes.values()} - {shape}
        if others and shape != "prompt and completion":  # said once, by the column that stands alone
            message = f"cannot be set together with the columns of {' or '.join(sorted(others))}; a row has one shape"
            yield ConfigProblem(field, message, value_of(value))


@RULES.reads("task_type", *_COLUMNS)
def _the_task_fits_the_rows(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    if config.task_type in (None, "text-generation"):
        return
    wanted = "messages" if config.task_type == "chat" else "prompt and completion"
    shapes = _shapes(config)
    if shapes and wanted not in {shape for shape, _ in shapes.values()}:
        message = f"wants the columns of {wanted}, not {', '.join(shapes)}; 'text-generation' takes any row"
        yield ConfigProblem("task_type", message, value_of(config.task_type))


def _shapes(config: FineTuningJobConfig) -> dict[str, tuple[str, str]]:
    """Return the shape of a row that each named column stands for, and the column, by field."""
    data = {"dataset_config": config.dataset_config}
    places = {**data, "dataset_config.task_format_details": config.dataset_config.task_format_details}
    shape_of = {
        "text_column": "text",
        "messages_column": "messages",
        "prompt_column": "prompt and completion",
        "completion_column": "prompt and completion",
    }
    return {
        f"{place}.{name}": (shape, value)
        for place, part in places.items()
        for name, shape in shape_of.items()
        if (value := getattr(part, name, None)) is not None
    }
