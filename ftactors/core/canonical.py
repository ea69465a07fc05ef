"""JSON in one form only: documents that are equal have the same bytes."""

from __future__ import annotations

from json import JSONEncoder

canonical = JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode
"""Returns a document as JSON: names sorted, no spaces, no characters escaped that need not be."""
