"""Describes the JSON Schema of an option in words, and finds the models nested in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def resolve_reference(value: Schema, schema: Schema) -> Schema:
    """Follow a `$ref`; keys next to the reference, such as the description, take precedence."""
    if "$ref" not in value:
        return value
    name = value["$ref"].rpartition("/")[2]
    return {**schema["$defs"][name], **{key: item for key, item in value.items() if key != "$ref"}}


def variants(value: Schema, schema: Schema) -> list[Schema]:
    """Return the alternatives of a value with their references resolved; a list of the value itself if it has none."""
    resolved = resolve_reference(value, schema)
    alternatives = resolved.get("anyOf") or resolved.get("oneOf") or []
    return [variant for alternative in alternatives for variant in variants(alternative, schema)] or [resolved]


def nested_models(value: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the models nested in a value, each with its path below the value: empty, or such as `.<name>`."""
    for variant in variants(value, schema):
        if "properties" in variant:
            yield "", variant
        for inner, step in ((_mapped_value(variant), ".<name>"), (variant.get("items"), ".<number>")):
            if isinstance(inner, dict):
                yield from ((step + path, model) for path, model in nested_models(inner, schema))


def _mapped_value(value: Schema) -> Schema | None:
    """Return the schema of the values of a mapping; None if all values are valid, or if it is no mapping."""
    # Names that must match a pattern have their values under this pattern.
    patterns: dict[str, Schema] = value.get("patternProperties", {})
    inner = next(iter(patterns.values()), value.get("additionalProperties"))
    return inner if isinstance(inner, dict) else None


def describe_type(value: Schema, schema: Schema) -> str:
    """Describe the values that an option accepts: `whole number, at least 1; or null`."""
    descriptions = [_describe_variant(variant, schema) for variant in variants(value, schema)]
    return "; or ".join(dict.fromkeys(descriptions))


def describe_default(value: Schema) -> str:
    """Return the default as a spec would write it; text without quotes, as in YAML."""
    if "default" not in value:
        return "as described"
    default = value["default"]
    is_plain_text = isinstance(default, str) and default.strip()
    return f"`{default}`" if is_plain_text else f"`{json.dumps(default, ensure_ascii=False)}`"


def _describe_variant(value: Schema, schema: Schema) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if value.get("type") == "array":
        return _describe_list(value, schema)
    if value.get("type") == "object":
        inner = _mapped_value(value)
        return _describe_object(value) if inner is None else f"mapping of names to: {describe_type(inner, schema)}"
    if value.get("format") == "path":
        return "path"
    bounds = [f"{phrase} {value[key]}" for key, phrase in BOUNDS.items() if key in value]
    pattern = [f"matching `{value['pattern']}`"] if "pattern" in value else []
    return ", ".join([KINDS.get(value.get("type", ""), "any value"), *bounds, *pattern])


def _describe_object(value: Schema) -> str:
    if "properties" not in value:
        return "mapping of names to values"
    kind = value["properties"].get("type", {}).get("const")
    return f"section with `type: {kind}`" if kind else "section"


def _describe_list(value: Schema, schema: Schema) -> str:
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])}: " + ", ".join(
            describe_type(item, schema) for item in value["prefixItems"]
        )
    return f"list of: {describe_type(value['items'], schema)}" if value.get("items") else "list"
