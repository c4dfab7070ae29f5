"""A JSON Schema of one value in words, and the models inside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def resolved(value: Schema, schema: Schema) -> Schema:
    """What a reference stands for, under the description of the place that refers to it."""
    if "$ref" not in value:
        return value
    name = value["$ref"].rpartition("/")[2]
    return {**schema["$defs"][name], **{key: each for key, each in value.items() if key != "$ref"}}


def variants(value: Schema, schema: Schema) -> list[Schema]:
    """The alternatives of a value, each without references; the value itself where there is but one."""
    whole = resolved(value, schema)
    several = whole.get("anyOf") or whole.get("oneOf")
    return [each for one in several for each in variants(one, schema)] if several else [whole]


def within(value: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The models inside a value, each with what leads to it behind the value's own name: nothing, or `.<name>`."""
    for each in variants(value, schema):
        if "properties" in each:
            yield "", each
        for key, step in (("additionalProperties", ".<name>"), ("items", ".<number>")):
            if isinstance(each.get(key), dict):
                yield from ((step + below, model) for below, model in within(each[key], schema))


def words(value: Schema, schema: Schema) -> str:
    """Say what may stand for a value: `whole number, at least 1; or null`."""
    told = [_one(each, schema) for each in variants(value, schema)]
    return "; or ".join(dict.fromkeys(told))


def default(value: Schema) -> str:
    """The default as a spec would write it; words without quotes, as YAML takes them."""
    if "default" not in value:
        return "as described"
    told = value["default"]
    return f"`{told}`" if isinstance(told, str) and told.strip() else f"`{json.dumps(told, ensure_ascii=False)}`"


def _one(value: Schema, schema: Schema) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if value.get("type") == "array":
        return _list(value, schema)
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"{words(inner, schema)}, each by a name" if isinstance(inner, dict) else _mapping(value)
    if value.get("format") == "path":
        return "path"
    bounds = [f"{phrase} {value[key]}" for key, phrase in BOUNDS.items() if key in value]
    pattern = [f"as `{value['pattern']}`"] if "pattern" in value else []
    return ", ".join([KINDS.get(value.get("type", ""), "any value"), *bounds, *pattern])


def _mapping(value: Schema) -> str:
    kind = value.get("properties", {}).get("type", {}).get("const")
    return f"section of `type: {kind}`" if kind else "section" if "properties" in value else "values by their names"


def _list(value: Schema, schema: Schema) -> str:
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])}: " + ", ".join(
            words(each, schema) for each in value["prefixItems"]
        )
    return f"list of: {words(value['items'], schema)}" if value.get("items") else "list"
