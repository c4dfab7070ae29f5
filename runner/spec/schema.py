"""The JSON Schema of a spec, put together from the installed plugins, for editors that complete and check."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from runner.spec.experiment_spec import NONE, OfStage, Specification
from runner.stages import descriptions
from runner.stages.registry import STAGES, Plugin, installed


def spec_schema(kind: type[Specification]) -> dict[str, Any]:
    """Make the schema of a kind of spec.

    A section is one of its stage's plugins, told apart by `type`, so that an editor completes the options of
    the plugin that stands there and no other's.
    """
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {
        "extends": {"type": "string", "description": "Another spec, over which this one is laid."}
    }
    required = []
    for name, field in kind.model_fields.items():
        stages = [mark.stage for mark in field.metadata if isinstance(mark, OfStage)]
        if stages:
            one = _section(stages[0], definitions)
            many = "tuple" in str(field.annotation)
            schema = {"type": "array", "items": one, "minItems": 1} if many else one
            if name in kind.optional_stages():
                schema = {"anyOf": [one, {"const": NONE}]}
        else:
            schema = _own(kind, name, definitions)
        properties[name] = {**schema, "description": descriptions(kind).get(name, "")}
        if field.is_required():
            required.append(name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.__name__,
        "type": "object",
        "properties": properties,
        # With `extends`, what is required may stand in the other file.
        "anyOf": [{"required": required}, {"required": ["extends"]}],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _section(stage: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    plugins = installed(stage)
    for name, plugin in plugins.items():
        definitions[f"{stage}.{name}"] = _options(plugin, definitions)
    by_type = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {"$ref": f"#/$defs/{stage}.{name}"},
        }
        for name in plugins
    ]
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(plugins), "description": f"The {stage} plugin."}},
        "allOf": by_type,
    }


def _options(plugin: Plugin, definitions: dict[str, Any]) -> dict[str, Any]:
    made = _model(plugin.options_class(), f"{plugin.stage}.{plugin.name}", definitions)
    made["properties"] = {"type": {"const": plugin.name}, **made.get("properties", {})}
    made["required"] = ["type", *made.get("required", [])]
    return made


def _own(kind: type[Specification], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that is the engine's own, by a model of that field alone."""
    field = kind.model_fields[name]
    alone = type(name, (BaseModel,), {"__annotations__": {name: field.annotation}, name: field})
    made = _model(alone, name, definitions)
    own: dict[str, Any] = made["properties"][name]
    return own


def _model(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    template = f"#/$defs/{prefix}.{{model}}"
    made = model.model_json_schema(ref_template=template)
    for name, inner in made.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = inner
    return {key: value for key, value in made.items() if key != "title"}


def list_plugins() -> list[dict[str, Any]]:
    """What is installed, as docs/interface.md's `plugins --json` lists it."""
    return [
        {
            "stage": stage,
            "name": plugin.name,
            "distribution": plugin.distribution,
            "options_schema": plugin.options_class().model_json_schema(),
        }
        for stage in STAGES
        for plugin in installed(stage).values()
    ]
