"""A Hypothesis strategy for every event that there is, made from the models themselves."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MinLen
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from ftactors.core.events import AnyEvent, ModelRef

TEXT = st.text(max_size=12)
KEY = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
# A model's base may have a base again; one is enough.
ADAPTER_BASE = st.none() | st.just(ModelRef(model_id="base", path="org/base", source="hub"))


def events() -> st.SearchStrategy[AnyEvent]:
    return st.one_of([_model(kind) for kind in get_args(AnyEvent)])


def _model(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {name: _field(field) for name, field in kind.model_fields.items()}
    if "job_id" in fields:  # a column of its own, as is the key of JobSubmitted
        fields["job_id"] = KEY
    if "idempotency_key" in fields:
        fields["idempotency_key"] = st.none() | KEY
    return st.builds(kind, **fields)


def _field(field: FieldInfo) -> st.SearchStrategy[Any]:
    low = next((int(limit.ge) for limit in field.metadata if isinstance(limit, Ge)), None)
    high = next((int(limit.le) for limit in field.metadata if isinstance(limit, Le)), None)
    least = next((limit.min_length for limit in field.metadata if isinstance(limit, MinLen)), 0)
    plain = {
        JsonValue: JSON,
        ModelRef | None: ADAPTER_BASE,
        str: TEXT,
        bool: st.booleans(),
        NoneType: st.none(),
        int: st.integers(low, high),
        float: st.floats(low, high, allow_nan=False, allow_infinity=False),
    }
    return _value(field.annotation, plain, least)


def _value(kind: Any, plain: Mapping[Any, st.SearchStrategy[Any]], least: int = 0) -> st.SearchStrategy[Any]:
    arguments = get_args(kind)
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if get_origin(kind) in {Union, UnionType}:
        return st.one_of([_value(argument, plain) for argument in arguments])
    if get_origin(kind) is tuple:
        return st.lists(_value(arguments[0], plain), min_size=least, max_size=3).map(tuple)
    if get_origin(kind) is dict:
        return st.dictionaries(TEXT, _value(arguments[1], plain), max_size=3)
    return _model(kind)
