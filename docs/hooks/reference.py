"""Generates the spec reference, with a page for each section, from the schema of the installed plugins."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from schema_description import Schema, describe_default, describe_type, nested_models

from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import ExperimentSpec, Specification
from runner.spec.schema import spec_schema

KINDS: tuple[tuple[type[Specification], str, str], ...] = (
    (ExperimentSpec, "An experiment spec", "experiment"),
    (DatasetSpec, "A data-set spec", "dataset"),
)


@cache
def pages() -> dict[str, str]:
    """Return the Markdown of each page by its path: one for each kind of spec, and one for each of its sections."""
    markdown: dict[str, str] = {}
    for kind, title, folder in KINDS:
        schema = spec_schema(kind)
        sections = {name: section for name, section in schema["properties"].items() if _has_page(section, schema)}
        markdown[f"reference/{folder}.md"] = _overview_page(kind, title, folder, schema, sections)
        for name, section in sections.items():
            markdown[f"reference/{folder}-{name}.md"] = _section_page(name, section, schema)
    return markdown


def navigation() -> list[dict[str, list[str]]]:
    """Return the navigation entries: the pages of each kind of spec under its title."""
    return [
        {title: [page for page in pages() if page.startswith((f"reference/{folder}.", f"reference/{folder}-"))]}
        for _, title, folder in KINDS
    ]


def _overview_page(
    kind: type[Specification], title: str, folder: str, schema: Schema, sections: dict[str, Schema]
) -> str:
    lines = [f"# {title}", "", (kind.__doc__ or "").strip(), ""]
    for name, option in schema["properties"].items():
        if name in sections:
            lines += [f"## [`{name}`]({folder}-{name}.md)", "", option.get("description", ""), ""]
        else:
            lines += list(_option_lines(name, option, schema, required=name in schema["anyOf"][0]["required"], level=2))
    return "\n".join(lines)


def _section_page(name: str, section: Schema, schema: Schema) -> str:
    lines = [f"# {name}", "", section.get("description", ""), ""]
    plugins = _section_plugins(section, schema)
    if plugins:
        stage = next(iter(plugins)).partition(".")[0]
        lines += [f"To write your own plugin, see [{stage}](../plugins/{stage}.md).", ""]
        for full_name, options in plugins.items():
            lines += [f"## {full_name.partition('.')[2]}", "", options.get("description", ""), ""]
            lines += _model_lines(options, schema)
        return "\n".join(lines)
    for path, model in nested_models(section, schema):
        lines += [] if model.get("description") == section.get("description") else [model.get("description", ""), ""]
        lines += _model_lines(model, schema, f"{path.removeprefix('.')}." if path else "")
    return "\n".join(lines)


def _model_lines(model: Schema, schema: Schema, prefix: str = "", type_name: str = "") -> list[str]:
    """Return the lines of each option of a model, followed by its nested options.

    The heading of an option is its path in the section, as in `--set`. Options of a model that is selected by `type`
    also name the type: `seed` with `tpe`.
    """
    lines: list[str] = []
    for name, option in model.get("properties", {}).items():
        if name == "type" and "const" in option:
            continue
        lines += _option_lines(
            prefix + name, option, schema, required=name in model.get("required", ()), type_name=type_name
        )
        for path, inner in nested_models(option, schema):
            kind = inner["properties"].get("type", {}).get("const", "")
            if "description" in inner:
                lines += [f"`type: {kind}`: {inner['description']}" if kind else inner["description"], ""]
            lines += _model_lines(inner, schema, f"{prefix}{name}{path}.", kind)
    return lines


def _option_lines(
    path: str, option: Schema, schema: Schema, *, required: bool, level: int = 3, type_name: str = ""
) -> Iterator[str]:
    heading = f"{'#' * level} `{path}`" + (f" with `{type_name}`" if type_name else "")
    requirement = "required" if required else f"default {describe_default(option)}"
    yield from (heading, "", f"*{describe_type(option, schema)}; {requirement}*", "", option.get("description", ""), "")


def _section_plugins(section: Schema, schema: Schema) -> dict[str, Schema]:
    """Return the plugins of a section by `stage.name`; none for a section of the engine itself."""
    value = section.get("items", section)
    value = next((variant for variant in value.get("anyOf", ()) if "allOf" in variant), value)
    references = [branch["then"]["$ref"].rpartition("/")[2] for branch in value.get("allOf", ())]
    return {name: schema["$defs"][name] for name in references}


def _has_page(section: Schema, schema: Schema) -> bool:
    return bool(_section_plugins(section, schema)) or any(nested_models(section, schema))
