"""The type of a column of JSON values, found value by value.

A column has one type only if all its values do. Objects have the same type if they have the same keys, so that a table
keeps the difference between a null and an absent key. Anything else is irregular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

IRREGULAR = "irregular"
_EXACT = 2**53  # every whole number up to here is exactly one double
_DEEPEST = 32  # levels of lists and objects
_ARROW = {None: pa.string(), "bool": pa.bool_(), "small": pa.int64(), "large": pa.int64(), "double": pa.float64()}


@dataclass(frozen=True)
class Items:
    """The type of a list, by that of its items."""

    kind: Kind


@dataclass(frozen=True)
class Fields:
    """The type of an object, by those of its values."""

    kinds: tuple[tuple[str, Kind], ...]


# None stands for null alone, and a text for a plain type or for IRREGULAR
Kind = None | str | Items | Fields


def kind_of(value: Any, depth: int = 0) -> Kind:
    """Return the type of a JSON value."""
    if value is None or depth > _DEEPEST:
        return None if value is None else IRREGULAR
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "small" if abs(value) <= _EXACT else "large" if -(2**63) <= value < 2**63 else IRREGULAR
    if isinstance(value, float):
        return "double"
    if isinstance(value, str):
        return "string"
    inner: Kind = None
    if isinstance(value, list):
        for item in value:
            inner = common_kind(inner, kind_of(item, depth + 1))
        return inner if inner == IRREGULAR else Items(inner)
    kinds = tuple((key, kind_of(item, depth + 1)) for key, item in value.items())
    is_regular = kinds and all(one != IRREGULAR and can_be_encoded(key) for key, one in kinds)
    return Fields(kinds) if is_regular else IRREGULAR


def can_be_encoded(text: str) -> bool:
    """Tell whether UTF-8 can encode a text, which must not contain half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def common_kind(one: Kind, other: Kind) -> Kind:
    """Return the type that both types fit in without loss, or IRREGULAR."""
    if one == other or other is None:
        return one
    if one is None:
        return other
    if isinstance(one, Items) and isinstance(other, Items):
        inner = common_kind(one.kind, other.kind)
        return inner if inner == IRREGULAR else Items(inner)
    if isinstance(one, Fields) and isinstance(other, Fields):
        others = dict(other.kinds)
        if {key for key, _ in one.kinds} != others.keys():
            return IRREGULAR
        kinds = tuple((key, common_kind(kind, others[key])) for key, kind in one.kinds)
        return IRREGULAR if any(kind == IRREGULAR for _, kind in kinds) else Fields(kinds)
    numbers = {one, other} if isinstance(one, str) and isinstance(other, str) else set()
    return "large" if numbers == {"small", "large"} else "double" if numbers == {"small", "double"} else IRREGULAR


def arrow_type(kind: Kind) -> pa.DataType | None:
    """Return the Arrow type of a column, or None if it is irregular. A column of nulls alone is one of texts."""
    if isinstance(kind, Items):
        return pa.list_(arrow_type(kind.kind))
    if isinstance(kind, Fields):
        return pa.struct([(key, arrow_type(one)) for key, one in kind.kinds])
    return None if kind == IRREGULAR else _ARROW.get(kind, pa.string())


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the Arrow type that both types fit in without loss, or None."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    texts = pa.string(), pa.large_string(), pa.string_view()
    if one in texts and other in texts:
        return pa.large_string()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)):
        fields = pa.schema([("x", one)]), pa.schema([("x", other)])
        found = pa.unify_schemas(list(fields), promote_options="permissive").field("x").type
        exact = {pa.float64(): 32, pa.float32(): 16}.get(found, 64)
        if all(pa.types.is_floating(kind) or kind.bit_width <= exact for kind in (one, other)):
            return found
    return None
