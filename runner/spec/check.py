"""Validates the tree of a spec against the options of the installed plugins, and reports all errors at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from runner.errors import PluginError, Problem, SpecError, SpecPath
from runner.spec.experiment_spec import NONE, ExperimentSpec, Section, Specification
from runner.spec.yaml_layers import Mark, Tree
from runner.stages import Options, Stage, field_descriptions
from runner.stages.registry import installed_plugins, suggestion, unknown_plugin_message


def validation_problems(error: ValidationError, model: type[BaseModel], tree: Tree, prefix: SpecPath) -> list[Problem]:
    """Convert a validation error to problems with locations in the spec.

    Args:
        error: The error that `model.model_validate` raised.
        model: The model that was validated; its fields are the valid names.
        tree: The spec with the locations of its values.
        prefix: The path of the validated value in the spec.
    """
    return [_to_problem(details, model, tree, prefix) for details in error.errors(include_url=False)]


def _to_problem(details: Any, model: type[BaseModel], tree: Tree, prefix: SpecPath) -> Problem:
    path = _path_in_tree((*prefix, *details["loc"]), tree, keep_last=details["type"] == "missing")
    mark = tree.mark(path) or Mark("spec")
    return mark.problem(_message(details, model), path)


def _path_in_tree(path: SpecPath, tree: Tree, *, keep_last: bool) -> SpecPath:
    """Remove the parts that pydantic adds for unions and tagged types; the key of a missing value is kept."""
    known: SpecPath = ()
    for part in path:
        if (*known, part) in tree.marks:
            known = (*known, part)
    return (*known, path[-1]) if keep_last and path and known[-1:] != path[-1:] else known


_EXPECTED_TYPES = {
    **dict.fromkeys(("model_type", "dict_type", "mapping_type"), "a mapping of keys to values"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list of values"),
}
"""What pydantic expects of a value, by kind of error; pydantic's own messages name types of Python."""


def _message(details: Any, model: type[BaseModel]) -> str:
    kind, location, value = details["type"], details["loc"], details.get("input")
    if kind == "extra_forbidden":
        return _unknown_key_message(model, location)
    if kind == "missing":
        description = _field_description(model, location)
        return f"is missing: {description}" if description else "is missing"
    if kind in {"literal_error", "enum"}:
        expected = [part.strip("' ") for part in details["ctx"]["expected"].replace(" or ", ",").split(",")]
        return f"{_abbreviate(value)} is not valid{suggestion(str(value), expected)}"
    if kind == "union_tag_invalid":
        tags = [part.strip("' ") for part in details["ctx"]["expected_tags"].split(",")]
        return f"{_abbreviate(details['ctx']['tag'])} is not valid{suggestion(details['ctx']['tag'], tags)}"
    if kind == "union_tag_not_found":
        return "needs a `type`, such as {type: random}"
    return _other_message(details)


def _other_message(details: Any) -> str:
    kind, value = details["type"], details.get("input")
    if kind in _EXPECTED_TYPES:
        return f"must be {_EXPECTED_TYPES[kind]}, not {_abbreviate(value)}"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    lowered = message[:1].lower() + message[1:]
    show_value = value is not None and not isinstance(value, dict | list) and kind != "value_error"
    return f"{lowered}, not {_abbreviate(value)}" if show_value else lowered


def _unknown_key_message(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    key = str(location[-1])
    if new_name := _new_name(model, location):
        return f"{key!r} has been renamed; write {new_name}"
    owner = _model_at(model, location[:-1])
    return f"unknown key {key!r}{suggestion(key, owner.model_fields if owner else ())}"


def _new_name(model: type[BaseModel], location: tuple[Any, ...]) -> str | None:
    """Return the new name of a renamed key, as a class or one of its bases declares it; see `Options`."""
    owner = _model_at(model, location[:-1])
    declared = [base.former_names for base in owner.__mro__ if issubclass(base, Options)] if owner else []
    return next((names[location[-1]] for names in declared if location[-1] in names), None)


def _abbreviate(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(str(value) if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "…"


def _field_description(model: type[BaseModel], location: tuple[Any, ...]) -> str | None:
    owner = _model_at(model, location[:-1])
    description = field_descriptions(owner).get(str(location[-1])) if owner else None
    return description and " ".join(description.split())


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    """Find the model that a validation of `model` reaches at a location; None if there is none."""
    if not location:
        return model
    field = model.model_fields.get(str(location[0]))
    if field is None:
        return None
    rest = location[1:]
    candidates = _models_in(field.annotation)
    by_name = [candidate for candidate in candidates if rest and rest[0] in {candidate.__name__, *_tags(candidate)}]
    if by_name:
        return _model_at(by_name[0], rest[1:])
    for candidate in candidates:
        # In a container, a key or an index comes between the field and the model.
        found = _model_at(candidate, rest) or (_model_at(candidate, rest[1:]) if rest else None)
        if found is not None:
            return found
    return None


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values of `type` that select the model in a union."""
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


S = TypeVar("S", bound=Specification)


def with_location(problem: Problem, tree: Tree) -> Problem:
    """Add file, line and column to a problem, looked up by its path."""
    mark = tree.mark(problem.path)
    return problem if problem.file or mark is None else mark.problem(problem.message, problem.path)


def check_spec(tree: Tree, kind: type[S]) -> S:
    """Validate a tree as a kind of spec, including the options of the plugins that it names.

    Raises:
        SpecError: With every problem found, in the order of the file.
    """
    problems = list(tree.problems)
    sections = {
        name: _check_field(tree, (name,), tree.value[name], stage, problems)
        for name, stage in kind.stages().items()
        if name in tree.value and not (name in kind.optional_stages() and tree.value[name] == NONE)
    }
    absent = {name: None for name in kind.optional_stages() if tree.value.get(name) == NONE}
    spec = None
    try:
        spec = kind.model_validate({**tree.value, **sections, **absent})
    except ValidationError as error:
        reported = {problem.path[:1] for problem in problems}
        problems += [
            problem
            for problem in validation_problems(error, kind, tree, ())
            if not (problem.path[:1] in reported and problem.path[0] in sections)
        ]
    # A section that failed is None in `spec`, so conflicts with it cannot be checked yet.
    failed = {problem.path[0] for problem in problems if problem.path}
    if spec is not None and not failed & {*kind.optional_stages(), "generator"}:
        problems += [with_location(problem, tree) for problem in spec.conflicts()]
    if problems or spec is None:
        raise SpecError(sorted_by_location(problems))
    return spec


def sorted_by_location(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by file, line and column."""
    return sorted(problems, key=lambda problem: (problem.file or "", problem.line or 0, problem.column or 0))


def spec_with_defaults(tree: Tree, kind: type[Specification]) -> dict[str, Any]:
    """Return the values of a tree, with the defaults of all valid sections written out."""
    values: dict[str, Any] = {
        name: field.default.model_dump(mode="json") if isinstance(field.default, Options) else field.default
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }
    for name, stage in kind.stages().items():
        problems: list[Problem] = []
        value = tree.value.get(name)
        checked = _check_field(tree, (name,), value, stage, problems) if value not in (None, NONE) else None
        if checked is not None and not problems:
            is_list = isinstance(checked, tuple)
            values[name] = [section.as_json() for section in checked] if is_list else checked.as_json()
    return {**tree.value, **values}


def _check_field(tree: Tree, path: SpecPath, value: Any, stage: Stage, problems: list[Problem]) -> Any:
    if isinstance(value, list):
        return tuple(_check_section(tree, (*path, index), item, stage, problems) for index, item in enumerate(value))
    return _check_section(tree, path, value, stage, problems)


def _check_section(tree: Tree, path: SpecPath, value: Any, stage: Stage, problems: list[Problem]) -> Section | None:
    mark = tree.mark(path) or Mark("spec")
    plugins = installed_plugins(stage)
    if not isinstance(value, dict) or "type" not in value:
        hint = f"; valid types: {', '.join(plugins)}" if plugins else ""
        misspelt = get_close_matches("type", value, n=1) if isinstance(value, dict) else []
        if misspelt:
            mark, hint = tree.mark((*path, misspelt[0])) or mark, f"; did you mean `type` instead of {misspelt[0]!r}?"
        if path and path[0] in ExperimentSpec.optional_stages():
            hint += ", or `none` instead of the section"
        problems.append(mark.problem(f"needs a `type` that names a {stage} plugin{hint}", path))
        return None
    name = str(value["type"])
    if name not in plugins:
        type_mark = tree.mark((*path, "type")) or mark
        problems.append(type_mark.problem(unknown_plugin_message(stage, name), (*path, "type")))
        return None
    options = {key: option for key, option in value.items() if key != "type"}
    try:
        options_class = plugins[name].options_class()
        return Section(stage, name, options_class.model_validate(options))
    except ValidationError as error:
        problems += validation_problems(error, options_class, tree, path)
    except PluginError as error:
        problems.append((tree.mark((*path, "type")) or mark).problem(str(error), (*path, "type")))
    except Exception as error:  # of a validator of the plugin
        message = f"{plugins[name]}: its check of the options raised {type(error).__name__}: {error}"
        problems.append(mark.problem(message, path))
    return None


def make_section(stage: Stage, value: Mapping[str, Any]) -> Section:
    """Create a section from plain values that do not come from a file.

    Raises:
        PluginError: The plugin is not installed, or the options are invalid.
    """
    problems: list[Problem] = []
    section = _check_section(Tree(dict(value)), (), dict(value), stage, problems)
    if section is None:
        raise PluginError("; ".join(str(problem) for problem in problems))
    return section
