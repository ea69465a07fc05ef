"""Readers of training data: each yields the records of one kind of source."""

from collections.abc import Mapping
from types import MappingProxyType

from handlers.base import BaseDatasetHandler, Record, Split

HANDLERS: Mapping[str, str] = MappingProxyType(
    {
        "file_path": "handlers.files:FilesHandler",
        "hf_dataset": "handlers.hub:HubHandler",
    }
)
"""The import path of the handler for each `source_type`. Read it freely: nothing heavy is imported here."""

__all__ = ["HANDLERS", "BaseDatasetHandler", "Record", "Split"]
