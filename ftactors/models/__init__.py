"""Base models in, tuned models out."""

from ftactors.models.inspection import InspectedModel, inspect_model
from ftactors.models.manager import BaseModelFound, LLMModelManager, Registry

__all__ = ["BaseModelFound", "InspectedModel", "LLMModelManager", "Registry", "inspect_model"]
