"""Checks a spec's tree against the installed plugins' options, all errors at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from runner.errors import PluginError, Problem, SpecError, SpecPath
from runner.registry import find, installed, nearest
from runner.spec.messages import problems_of
from runner.spec.models import NONE, ExperimentSpec, Section, Specification
from runner.spec.tree import Mark, Tree
from runner.stages import Options, Stage

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


def outline(tree: Tree, kind: type[Specification]) -> dict[str, Any]:
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
        message = f"no {stage} plugin {named!r}{nearest(named, plugins)}"
        problems.append(type_mark.problem(message, (*path, "type")))
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
