"""Checks a sweep with the spec it stands in: every value that it may set is tried on the fields' own schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from runner.errors import Problem, SpecError, SpecPath
from runner.spec.check import check, in_order, located
from runner.spec.models import ExperimentSpec, Specification
from runner.spec.sweep import SweepOptions
from runner.spec.sweep_rules import rule_problems
from runner.spec.sweep_values import value_problems
from runner.spec.tree import Tree
from runner.spec.variants import OutsideSpaceError, Variants

S = TypeVar("S", bound=Specification)


def check_swept(tree: Tree, kind: type[S]) -> S:
    """Check a tree, and what its sweep, if it has one, would make of it.

    Raises:
        SpecError: With every problem found, in the order of the file.
    """
    try:
        spec, problems = check(tree, kind), list[Problem]()
    except SpecError as error:
        spec, problems = None, list(error.problems)
    if kind is ExperimentSpec and isinstance(tree.value.get("sweep"), dict):
        found = _swept_problems(tree, cast("ExperimentSpec | None", spec), problems)
        problems += [problem for problem in dict.fromkeys(found) if problem not in problems]
    if problems or spec is None:
        raise SpecError(in_order(problems))
    return spec


def _swept_problems(tree: Tree, spec: ExperimentSpec | None, known: list[Problem]) -> Iterator[Problem]:
    written = tree.value["sweep"]
    try:
        swept = Variants(tree, SweepOptions.model_validate(written))
    except ValidationError as error:
        # What its fields refuse has been told with the spec; the values of the others are tried all the same.
        right = _without(written, [details["loc"] for details in error.errors(include_url=False)])
        swept = Variants(tree, SweepOptions.model_validate(right))
        found = value_problems(swept, known)
    else:
        found = _problems(swept, spec, known)
    yield from (located(problem, tree) for problem in found)


def _without(written: dict[str, Any], refused: list[tuple[int | str, ...]]) -> dict[str, Any]:
    """Leave out what is refused: a path of the space or an arm alone, anything else whole."""
    left = {key: dict(value) if isinstance(value, dict) else value for key, value in written.items()}
    for head, *rest in refused:
        if head in {"space", "arms"} and rest and isinstance(left.get(str(head)), dict):
            left[str(head)].pop(rest[0], None)
        else:
            left.pop(str(head), None)
    return left


def _problems(swept: Variants, spec: ExperimentSpec | None, known: list[Problem]) -> Iterator[Problem]:
    yield from rule_problems(swept, spec)
    wrong = list(value_problems(swept, known))
    yield from wrong
    # Points are composed of the values, which must be right for that.
    if spec is not None and not wrong:
        yield from _first_problems(swept)


def _first_problems(swept: Variants) -> Iterator[Problem]:
    for number, written in enumerate(swept.sweep.first):
        for arm in swept.arms:
            try:
                swept.place(arm, written)
            except OutsideSpaceError as error:
                where: SpecPath = ("sweep", "first", number)
                yield Problem(f"{error}", (*where, error.name) if error.name in written else where)
                break
