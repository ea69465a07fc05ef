"""LLM fine-tuning as a durable service on your own Ray cluster."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ftactors.core.config import (
        DatasetSourceConfig,
        EvaluationConfig,
        FineTuningJobConfig,
        FineTuningTechniqueConfig,
        FullFineTuneParams,
        InstructLabParams,
        LoRAParams,
        QLoRAParams,
        ResourceConfig,
        TrainingHyperparameters,
    )
    from ftactors.core.errors import InvalidJobConfigError, JobExecutionError, ModelNotFoundError
    from ftactors.core.service_config import ServiceConfig
    from ftactors.core.status import FineTuningJobStatusInfo, JobStatus
    from ftactors.models import LLMModelManager
    from ftactors.service import LLMFineTuningService

_MODULE_OF = {
    "DatasetSourceConfig": "ftactors.core.config",
    "EvaluationConfig": "ftactors.core.config",
    "FineTuningJobConfig": "ftactors.core.config",
    "FineTuningJobStatusInfo": "ftactors.core.status",
    "FineTuningTechniqueConfig": "ftactors.core.config",
    "FullFineTuneParams": "ftactors.core.config",
    "InstructLabParams": "ftactors.core.config",
    "InvalidJobConfigError": "ftactors.core.errors",
    "JobExecutionError": "ftactors.core.errors",
    "JobStatus": "ftactors.core.status",
    "LLMFineTuningService": "ftactors.service",
    "LLMModelManager": "ftactors.models",
    "LoRAParams": "ftactors.core.config",
    "ModelNotFoundError": "ftactors.core.errors",
    "QLoRAParams": "ftactors.core.config",
    "ResourceConfig": "ftactors.core.config",
    "ServiceConfig": "ftactors.core.service_config",
    "TrainingHyperparameters": "ftactors.core.config",
}
__all__ = [
    "DatasetSourceConfig",
    "EvaluationConfig",
    "FineTuningJobConfig",
    "FineTuningJobStatusInfo",
    "FineTuningTechniqueConfig",
    "FullFineTuneParams",
    "InstructLabParams",
    "InvalidJobConfigError",
    "JobExecutionError",
    "JobStatus",
    "LLMFineTuningService",
    "LLMModelManager",
    "LoRAParams",
    "ModelNotFoundError",
    "QLoRAParams",
    "ResourceConfig",
    "ServiceConfig",
    "TrainingHyperparameters",
]


def __getattr__(name: str) -> object:
    """Load a public name on its first use (PEP 562), so that `import ftactors.core` loads no Ray."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
