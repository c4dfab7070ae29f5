"""The spec reference: a page for each section, generated from the schema of the installed plugins."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from words import Schema, default, variants, within, words

from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import ExperimentSpec, Specification
from runner.spec.schema import spec_schema

KINDS: tuple[tuple[type[Specification], str, str], ...] = (
    (ExperimentSpec, "An experiment spec", "experiment"),
    (DatasetSpec, "A data-set spec", "dataset"),
)


@cache
def pages() -> dict[str, str]:
    """Markdown by the page's path: a page for each kind of spec, and one for each of its sections."""
    made: dict[str, str] = {}
    for kind, title, folder in KINDS:
        schema = spec_schema(kind)
        sections = {name: each for name, each in schema["properties"].items() if _has_page(each, schema)}
        made[f"reference/{folder}.md"] = _overview(kind, title, folder, schema, sections)
        for name, section in sections.items():
            made[f"reference/{folder}-{name}.md"] = _section(name, section, schema)
    return made


def navigation() -> list[dict[str, list[str]]]:
    """The pages of each kind of spec under its title."""
    return [
        {title: [page for page in pages() if page.startswith((f"reference/{folder}.", f"reference/{folder}-"))]}
        for _, title, folder in KINDS
    ]


def _overview(kind: type[Specification], title: str, folder: str, schema: Schema, sections: dict[str, Schema]) -> str:
    lines = [f"# {title}", "", (kind.__doc__ or "").strip(), ""]
    for name, each in schema["properties"].items():
        if name in sections:
            lines += [f"## [`{name}`]({folder}-{name}.md)", "", each.get("description", ""), ""]
        else:
            lines += list(_option(name, each, schema, required=name in schema["anyOf"][0]["required"], level=2))
    return "\n".join(lines)


def _section(name: str, section: Schema, schema: Schema) -> str:
    lines = [f"# {name}", "", section.get("description", ""), ""]
    plugins = _plugins(section, schema)
    if plugins:
        stage = next(iter(plugins)).partition(".")[0]
        lines += [f"A plugin of one's own: [{stage}](../plugins/{stage}.md).", ""]
        for full_name, options in plugins.items():
            lines += [f"## {full_name.partition('.')[2]}", "", options.get("description", ""), ""]
            lines += _options(options, schema)
        return "\n".join(lines)
    for model in variants(section, schema):
        lines += [] if model.get("description") == section.get("description") else [model.get("description", ""), ""]
        lines += _options(model, schema)
    return "\n".join(lines)


def _options(model: Schema, schema: Schema, prefix: str = "", with_type: str = "") -> list[str]:
    """Every option of a model, each followed by those inside it, under the path that `--set` takes in the section.

    A model that its `type` tells from others names it: `seed` with `tpe`.
    """
    lines: list[str] = []
    for name, option in model.get("properties", {}).items():
        if name == "type" and "const" in option:
            continue
        lines += _option(prefix + name, option, schema, required=name in model.get("required", ()), mark=with_type)
        for below, inner in within(option, schema):
            kind = inner["properties"].get("type", {}).get("const", "")
            if "description" in inner:
                lines += [f"`type: {kind}`: {inner['description']}" if kind else inner["description"], ""]
            lines += _options(inner, schema, f"{prefix}{name}{below}.", kind)
    return lines


def _option(
    path: str, option: Schema, schema: Schema, *, required: bool, level: int = 3, mark: str = ""
) -> Iterator[str]:
    heading = f"{'#' * level} `{path}`" + (f" with `{mark}`" if mark else "")
    worth = "needed" if required else f"default {default(option)}"
    yield from (heading, "", f"*{words(option, schema)}; {worth}*", "", option.get("description", ""), "")


def _plugins(section: Schema, schema: Schema) -> dict[str, Schema]:
    """The plugins that may stand in a section, by `stage.name`; none where the section is the engine's own."""
    one = section.get("items", section)
    one = next((each for each in one.get("anyOf", ()) if "allOf" in each), one)
    references = [branch["then"]["$ref"].rpartition("/")[2] for branch in one.get("allOf", ())]
    return {name: schema["$defs"][name] for name in references}


def _has_page(section: Schema, schema: Schema) -> bool:
    return bool(_plugins(section, schema)) or any("properties" in each for each in variants(section, schema))
