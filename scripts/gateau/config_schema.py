"""The configuration's schema: its keys, and error messages of one line for what does not follow it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gateau.places import SCHEMA

if TYPE_CHECKING:
    from jsonschema import ValidationError  # type: ignore[import-untyped]

_KINDS = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null",
    "array": "a list", "object": "a mapping of keys",
}  # fmt: skip
_LIMITS = {
    "minimum": "at least {}", "exclusiveMinimum": "above {}", "maximum": "at most {}", "exclusiveMaximum": "below {}",
    "minItems": "with at least {} entry", "pattern": "of the form {}",
}  # fmt: skip


def read_schema() -> dict[str, Any]:
    """Return the schema of the configuration."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schema: dict[str, Any] = yaml.load(SCHEMA.read_text(encoding="utf-8"), Loader=loader)
    return schema


def resolve(node: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of the schema with its ``$ref`` replaced by what it refers to."""
    node = dict(node)
    while "$ref" in node:
        target: Any = schema
        for part in node.pop("$ref").removeprefix("#/").split("/"):
            target = target[part]
        node = {**target, **node}
    return node


def known_keys(schema: Mapping[str, Any]) -> list[str]:
    """Return all keys as dotted paths. ``<name>`` stands for a name that users choose."""
    return [path for path, _ in _keys(schema, schema, "")]


def _keys(node: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for option in [node, *node.get("oneOf", ()), *node.get("anyOf", ())]:
        resolved = resolve(option, schema)
        if resolved is not option and option is not node and "oneOf" in resolved:
            yield from _keys(resolved, schema, prefix)
        named = {"<name>": resolved["additionalProperties"]} if resolved.get("additionalProperties") else {}
        for name, value in {**resolved.get("properties", {}), **named}.items():
            child = resolve(value, schema)
            yield f"{prefix}{name}", child
            yield from _keys(child, schema, f"{prefix}{name}.")


def first_problem(config: Mapping[str, Any]) -> str | None:
    """Return one line about the first key that does not follow the schema: key, value, what is allowed.

    The result is None if the configuration follows the schema.
    """
    from jsonschema import Draft202012Validator

    schema = read_schema()
    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda error: len(error.absolute_path))
    if not errors:
        return None
    more = f" (and {len(errors) - 1} more problems)" if len(errors) > 1 else ""
    return _describe(errors[0], schema) + more


def _describe(error: ValidationError, schema: Mapping[str, Any]) -> str:
    """Return the message for one error of the validator."""
    # errors inside the alternative that the value was meant for, such as a wrong key of a mapping
    inner = [one for one in error.context or () if one.validator not in ("type", "enum") or one.relative_path]
    if inner:
        return _describe(inner[0], schema)
    path = [str(part) for part in error.absolute_path]
    key = ".".join(path) or "configuration"
    if error.validator == "additionalProperties":
        unknown = set(error.instance) - set(error.schema.get("properties", {}))
        return _unknown(path, sorted(map(str, unknown)), error, schema)  # a key of YAML may be a number
    if error.validator == "required":
        absent = next(name for name in error.validator_value if name not in error.instance)
        return f"{key}: the key {absent} is missing"
    if "propertyNames" in error.absolute_schema_path and not isinstance(error.instance, str):
        return (
            f"{key}: names must be text, and YAML reads {_shown(error.instance)} as another type; put numbers, and "
            "words such as no and on, in quotes"
        )
    if "propertyNames" in error.absolute_schema_path:
        return (
            f"{key}: {_shown(error.instance)} is not allowed as a name; use letters, digits, dot, dash and underscore"
        )
    if number := _number_in(error.instance, error.schema, schema):
        return f"{key}: YAML reads {error.instance} as text, not as a number; write {number} without quotes"
    allowed = _allowed(error.schema, schema)
    near = _nearest(str(error.instance), allowed.split(", ")) if isinstance(error.instance, str) else None
    hint = f" (did you mean {near}?)" if near else ""
    if error.instance is None and error.schema.get("default") is not None:
        hint = f" (default: {_shown(error.schema['default'])})"
    return f"{key}: {_shown(error.instance)} is not allowed; allowed: {allowed}{hint}"


def _unknown(path: list[str], names: list[str], error: ValidationError, schema: Mapping[str, Any]) -> str:
    """Return the message for a key that does not exist, with the key that was probably meant."""
    prefix = "".join(f"{part}." for part in path)
    siblings = list(error.schema.get("properties", {}))
    near = _nearest(names[0], siblings)
    value = error.instance.get(names[0])
    if path and isinstance(value, Mapping) and value and set(value) <= set(siblings):
        hint = f"write its keys directly under {'.'.join(path)}: {', '.join(value)}"
    elif near:
        hint = f"did you mean {prefix}{near}?"
    elif elsewhere := [key for key in known_keys(schema) if key.rsplit(".", 1)[-1] == names[0] and "<" not in key]:
        hint = f"did you mean {' or '.join(elsewhere[:3])}?"
    else:
        hint = f"known keys{' of ' + '.'.join(path) if path else ''}: {', '.join(siblings)}"
    return f"{prefix}{names[0]}: this key does not exist; {hint}"


def _nearest(word: str, known: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def _allowed(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return in words which values a part of the schema allows."""
    node = resolve(node, schema)
    if "enum" in node:
        return ", ".join(_shown(value) for value in node["enum"])
    if alternatives := node.get("oneOf", node.get("anyOf")):
        return ", ".join(dict.fromkeys(_allowed(option, schema) for option in alternatives))
    kinds = node.get("type", [])
    words = " or ".join(_KINDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)) or "another value"
    limits = [text.format(node[name]) for name, text in _LIMITS.items() if name in node]
    return " ".join([words, " and ".join(limits)]).strip()


def _number_in(value: Any, node: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    """Return in digits a number that YAML takes for text, such as 1e-5; None if no number is meant or allowed."""
    from decimal import Decimal, InvalidOperation  # only for an error

    kinds = _kinds(node, schema)
    if not isinstance(value, str) or "string" in kinds or kinds.isdisjoint({"number", "integer"}):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    is_allowed = number.is_finite() and ("number" in kinds or number == number.to_integral_value())
    return f"{number:f}" if is_allowed else None


def _kinds(node: Mapping[str, Any], schema: Mapping[str, Any]) -> set[str]:
    """Return the types that a part of the schema allows."""
    node = resolve(node, schema)
    own = node.get("type", [])
    options = [*node.get("oneOf", ()), *node.get("anyOf", ())]
    return {own} if isinstance(own, str) else set(own).union(*(_kinds(option, schema) for option in options))


def _shown(value: Any) -> str:
    """Return a value as YAML has it, shortened to 60 characters."""
    if isinstance(value, str) and value:
        return value if len(value) <= 60 else f"{value[:57]}..."
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
