"""Validates a spec's tree against the options of the installed plugins and reports every error at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from runner.errors import PluginError, Problem, SpecError, SpecPath
from runner.spec.experiment_spec import NONE, ExperimentSpec, Section, Specification
from runner.spec.tree import Mark, Tree
from runner.stages import Options, Stage, descriptions
from runner.stages.registry import find, installed, nearest, unknown_plugin


def problems_of(error: ValidationError, model: type[BaseModel], tree: Tree, above: SpecPath) -> list[Problem]:
    """List the problems of a validation error.

    Args:
        error: From `model.model_validate`.
        model: Whose fields are the valid names.
        tree: Where the values were written.
        above: The place in the spec that was validated.
    """
    return [_problem(details, model, tree, above) for details in error.errors(include_url=False)]


def _problem(details: Any, model: type[BaseModel], tree: Tree, above: SpecPath) -> Problem:
    path = _in_tree((*above, *details["loc"]), tree, keep_last=details["type"] == "missing")
    mark = tree.mark(path) or Mark("spec")
    return mark.problem(_message(details, model, len(above)), path)


def _in_tree(path: SpecPath, tree: Tree, *, keep_last: bool) -> SpecPath:
    """Leave out the parts that pydantic adds for unions and tagged types; a missing key is kept."""
    known: SpecPath = ()
    for part in path:
        if (*known, part) in tree.marks:
            known = (*known, part)
    return (*known, path[-1]) if keep_last and path and known[-1:] != path[-1:] else known


def _message(details: Any, model: type[BaseModel], depth: int) -> str:
    kind, location, given = details["type"], details["loc"], details.get("input")
    if kind == "extra_forbidden":
        return _unknown_key(model, location)
    if kind == "missing":
        return f"is missing{_described(model, location)}"
    if kind in {"literal_error", "enum"}:
        expected = [part.strip("' ") for part in details["ctx"]["expected"].replace(" or ", ",").split(",")]
        return f"{given!r} is not valid{nearest(str(given), expected)}"
    if kind == "union_tag_invalid":
        tags = [part.strip("' ") for part in details["ctx"]["expected_tags"].split(",")]
        return f"{details['ctx']['tag']!r} is not valid{nearest(details['ctx']['tag'], tags)}"
    if kind == "union_tag_not_found":
        return "needs a `type` that says which it is, such as {type: random}"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    lowered = message[:1].lower() + message[1:]
    shown = given is not None and not isinstance(given, dict | list) and kind != "value_error"
    return f"{lowered}, not {_short(given)}" if shown else lowered


def _unknown_key(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    key = str(location[-1])
    if new_name := _new_name(model, location):
        return f"{key!r} has been renamed; write {new_name}"
    return f"unknown key {key!r}{nearest(key, _names(model, location[:-1]))}"


def _new_name(model: type[BaseModel], location: tuple[Any, ...]) -> str | None:
    """What to write instead of a key that a class or one of its bases had under another name; see `Options`."""
    owner = _model_at(model, location[:-1])
    declared = [each.former_names for each in owner.__mro__ if issubclass(each, Options)] if owner else []
    return next((names[location[-1]] for names in declared if location[-1] in names), None)


def _short(value: Any) -> str:
    text = repr(str(value) if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "…"


def _names(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The valid keys at a place: the fields of the model that a validation of `model` meets there."""
    found = _model_at(model, location)
    return list(found.model_fields) if found else []


def _described(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    owner = _model_at(model, location[:-1])
    told = descriptions(owner).get(str(location[-1])) if owner else None
    return f": {told}" if told else ""


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    if not location:
        return model
    field = model.model_fields.get(str(location[0]))
    if field is None:
        return None
    rest = location[1:]
    models = _models_in(field.annotation)
    by_name = [each for each in models if rest and rest[0] in {each.__name__, *_tags(each)}]
    if by_name:
        return _model_at(by_name[0], rest[1:])
    for each in models:
        # A key or an index of a container stands between the field and the model inside it.
        found = _model_at(each, rest) or (_model_at(each, rest[1:]) if rest else None)
        if found is not None:
            return found
    return None


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """What `type` may say where the model is one of several."""
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in get_args(annotation) for found in _models_in(each)]


S = TypeVar("S", bound=Specification)


def located(problem: Problem, tree: Tree) -> Problem:
    """Give a problem its place in the file, by its path."""
    mark = tree.mark(problem.path)
    return problem if problem.file or mark is None else mark.problem(problem.message, problem.path)


def check(tree: Tree, kind: type[S]) -> S:
    """Check a tree against a specification and the options of the plugins it names.

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
    found = None
    try:
        found = kind.model_validate({**tree.value, **sections, **absent})
    except ValidationError as error:
        reported = {problem.path[:1] for problem in problems}
        problems += [
            problem
            for problem in problems_of(error, kind, tree, ())
            if not (problem.path[:1] in reported and problem.path[0] in sections)
        ]
    # A section that failed stands as None in `found`: what depends on it cannot be told yet.
    failed = {problem.path[0] for problem in problems if problem.path}
    if found is not None and not failed & {*kind.optional_stages(), "generator"}:
        problems += [located(problem, tree) for problem in found.conflicts()]
    if problems or found is None:
        raise SpecError(in_order(problems))
    return found


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems as they stand in their files."""
    return sorted(problems, key=lambda each: (each.file or "", each.line or 0, each.column or 0))


def spec_with_defaults(tree: Tree, kind: type[Specification]) -> dict[str, Any]:
    """What a tree says, with the defaults written out of all sections that are right."""
    found: dict[str, Any] = {
        name: field.default.model_dump(mode="json") if isinstance(field.default, Options) else field.default
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }
    for name, stage in kind.stages().items():
        problems: list[Problem] = []
        value = tree.value.get(name)
        made = _check_field(tree, (name,), value, stage, problems) if value not in (None, NONE) else None
        if made is not None and not problems:
            found[name] = [each.as_json() for each in made] if isinstance(made, tuple) else made.as_json()
    return {**tree.value, **found}


def _check_field(tree: Tree, path: SpecPath, value: Any, stage: Stage, problems: list[Problem]) -> Any:
    if isinstance(value, list):
        return tuple(_check_section(tree, (*path, index), each, stage, problems) for index, each in enumerate(value))
    return _check_section(tree, path, value, stage, problems)


def _check_section(tree: Tree, path: SpecPath, value: Any, stage: Stage, problems: list[Problem]) -> Section | None:
    mark = tree.mark(path) or Mark("spec")
    plugins = installed(stage)
    if not isinstance(value, dict) or "type" not in value:
        hint = f"; valid types: {', '.join(plugins)}" if plugins else ""
        if path and path[0] in ExperimentSpec.optional_stages():
            hint += ", or `none` in place of the section"
        problems.append(mark.problem(f"needs a `type` that names a {stage} plugin{hint}", path))
        return None
    named = str(value["type"])
    if named not in plugins:
        type_mark = tree.mark((*path, "type")) or mark
        problems.append(type_mark.problem(unknown_plugin(stage, named), (*path, "type")))
        return None
    options_class = find(stage, named).options_class()
    options = {key: each for key, each in value.items() if key != "type"}
    try:
        return Section(stage, named, options_class.model_validate(options))
    except ValidationError as error:
        problems += problems_of(error, options_class, tree, path)
        return None


def section(stage: Stage, value: Mapping[str, Any]) -> Section:
    """Make a section from plain values that no file holds.

    Raises:
        PluginError: The plugin is not there, or refuses the options.
    """
    problems: list[Problem] = []
    made = _check_section(Tree(dict(value)), (), dict(value), stage, problems)
    if made is None:
        raise PluginError("; ".join(str(problem) for problem in problems))
    return made
