"""Builds the JSON Schema of a spec from the installed plugins, for completion and checks in editors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from runner.errors import PluginError
from runner.spec.experiment_spec import NONE, SectionOf, Specification
from runner.stages import field_descriptions
from runner.stages.registry import STAGES, Plugin, installed_plugins


def spec_schema(kind: type[Specification]) -> dict[str, Any]:
    """Build the JSON Schema of a kind of spec.

    The schema of a section depends on its `type`, so an editor completes the options of that plugin only. A plugin that
    cannot be imported accepts any options; see `runner.stages.registry.plugin_problems`.
    """
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {
        "extends": {
            "type": "string",
            "description": "Path of another spec file. Values of this spec replace values of that file.",
        }
    }
    required = []
    for name, field in kind.model_fields.items():
        stages = [marker.stage for marker in field.metadata if isinstance(marker, SectionOf)]
        if stages:
            section = _section_schema(stages[0], definitions)
            is_list = "tuple" in str(field.annotation)
            schema = {"type": "array", "items": section, "minItems": 1} if is_list else section
            if name in kind.optional_stages():
                schema = {"anyOf": [section, {"const": NONE}]}
        else:
            schema = _field_schema(kind, name, definitions)
        properties[name] = {**schema, "description": field_descriptions(kind).get(name, "")}
        if field.is_required():
            required.append(name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.__name__,
        "type": "object",
        "properties": properties,
        # With `extends`, the other file may contain the required sections.
        "anyOf": [{"required": required}, {"required": ["extends"]}],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _section_schema(stage: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    plugins = installed_plugins(stage)
    for name, plugin in plugins.items():
        definitions[f"{stage}.{name}"] = _options_schema(plugin, definitions)
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


def _options_schema(plugin: Plugin, definitions: dict[str, Any]) -> dict[str, Any]:
    try:
        plugin.options_schema()
    except PluginError as error:  # Editors then accept any options of this plugin.
        return {"properties": {"type": {"const": plugin.name}}, "description": str(error)}
    schema = _model_schema(plugin.options_class(), f"{plugin.stage}.{plugin.name}", definitions)
    schema["properties"] = {"type": {"const": plugin.name}, **schema.get("properties", {})}
    schema["required"] = ["type", *schema.get("required", [])]
    return schema


def _field_schema(kind: type[Specification], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field of the engine, through a model that has this field only."""
    field = kind.model_fields[name]
    single_field_model = type(name, (BaseModel,), {"__annotations__": {name: field.annotation}, name: field})
    schema: dict[str, Any] = _model_schema(single_field_model, name, definitions)["properties"][name]
    return schema


def _model_schema(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, inner in schema.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = inner
    return {key: value for key, value in schema.items() if key != "title"}


def list_plugins() -> list[dict[str, Any]]:
    """List the installed plugins in the form of `plugins --json` (docs/interface.md).

    A plugin that cannot be imported has an `error`, and no schema.
    """
    return [
        {
            "stage": stage,
            "name": plugin.name,
            "distribution": plugin.distribution,
            **_options_of(plugin),
        }
        for stage in STAGES
        for plugin in installed_plugins(stage).values()
    ]


def _options_of(plugin: Plugin) -> dict[str, Any]:
    try:
        return {"options_schema": plugin.options_schema()}
    except PluginError as error:
        return {"options_schema": None, "error": str(error)}
