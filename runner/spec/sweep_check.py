"""Validates a sweep: each value of each parameter against the spec's schema, then the rules between options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError

from runner.errors import Problem, SpecError, SpecPath, dotted_path
from runner.spec.check import check_spec, sorted_by_location, spec_with_defaults, with_location
from runner.spec.claims_check import claims_problems
from runner.spec.experiment_spec import (
    VALIDATION_PREFIX,
    ExperimentSpec,
    Specification,
    selection_metric_error,
    validation_metrics,
)
from runner.spec.sweep_section import ParamValue, SweepOptions, value_label
from runner.spec.variants import ARMS_PATH, SPACE_PATH, OutsideSpaceError, SweepVariants, get_path, value_at
from runner.spec.yaml_layers import Tree, split_path

OBJECTIVE_EXAMPLE = "objective: {metric: validation/loss, mode: min}"


def value_problems(variants: SweepVariants, known: Sequence[Problem]) -> Iterator[Problem]:
    """Yield the sweep's values that the schema of the spec rejects.

    Args:
        variants: The sweep and its spec.
        known: The problems of the spec without the sweep, which are not reported again.
    """
    reported: set[tuple[SpecPath, str]] = {(problem.path, problem.message) for problem in known}
    for problem in (*_arm_problems(variants), *_space_problems(variants)):
        # Each bound and each choice can cause the same problem, such as an unknown key.
        if (problem.path, problem.message) not in reported:
            reported.add((problem.path, problem.message))
            yield problem


def _arm_problems(variants: SweepVariants) -> Iterator[Problem]:
    base = variants.base_tree()
    known = set(_problems_in(base))
    for arm, values in variants.sweep.arms.items():
        unknown = [problem for name in values for problem in _unknown_path(base, name, (*ARMS_PATH, arm, name))]
        yield from unknown
        if not unknown:
            problems = _problems_when(variants.base_tree, arm)
            yield from (problem for problem in problems if problem not in known)


def _space_problems(variants: SweepVariants) -> Iterator[Problem]:
    for name, dimension in variants.sweep.space.items():
        if dimension.when:
            yield from _unreachable_condition(variants, name)
        values: Sequence[ParamValue] = list(dimension.labelled_values) or dimension.bounds
        for tree in _trees_to_check(variants, name):
            unknown = list(_unknown_path(tree, name, (*SPACE_PATH, name)))
            yield from unknown
            if unknown:
                continue
            known = set(_problems_in(tree))
            integer_problem = _integer_problem(variants, tree, name, known)
            if integer_problem is not None:
                yield integer_problem
            for value in values:
                if integer_problem is not None and float(value) != round(float(value)):
                    continue
                problems = _problems_when(variants.set_parameter, tree, name, value)
                yield from (problem for problem in problems if problem not in known)


def _integer_problem(variants: SweepVariants, tree: Tree, name: str, known: set[Problem]) -> Problem | None:
    """Return the problem of a dimension with fractions for an option that takes only integers; None if there is none.

    The bounds can be valid all the same: such a search would draw no valid point.
    """
    dimension = variants.sweep.space[name]
    fraction, bounds = dimension.fraction(), (math.ceil(dimension.bounds[0]), math.floor(dimension.bounds[1]))
    if fraction is None or bounds[0] > bounds[1] or not _is_refused(variants, tree, name, fraction, known):
        return None
    if all(_is_refused(variants, tree, name, bound, known) for bound in bounds):
        return None
    message = (
        f"{dimension.kind} draws numbers such as {fraction:.4g}, but {name} takes only integers; use "
        f"{{int: [{bounds[0]}, {bounds[1]}]}}, or `logint` for a logarithmic scale"
    )
    return Problem(message, (*SPACE_PATH, name, dimension.kind))


def _is_refused(variants: SweepVariants, tree: Tree, name: str, value: ParamValue, known: set[Problem]) -> bool:
    return not known.issuperset(_problems_when(variants.set_parameter, tree, name, value))


def _problems_when(make_tree: Callable[..., Tree], *args: Any) -> list[Problem]:
    """List the problems of creating a tree, or else those in it."""
    try:
        return _problems_in(make_tree(*args))
    except SpecError as error:
        return list(error.problems)


def _problems_in(tree: Tree) -> list[Problem]:
    try:
        check_spec(tree, ExperimentSpec)
    except SpecError as error:
        return list(error.problems)
    return []


def _unknown_path(tree: Tree, name: str, location: SpecPath) -> Iterator[Problem]:
    """Yield a problem if the parent of a path does not exist; the schema validates the last part."""
    known = spec_with_defaults(tree, ExperimentSpec)
    path = split_path(name)
    exists, parent = get_path(known, path[:-1])
    if exists and (parent is None or isinstance(parent, dict | list)):
        return
    if any(get_path(known, path[:depth]) == (True, None) for depth in range(1, len(path))):
        return
    close = get_close_matches(name, _list_paths(known), n=1, cutoff=0.6)
    yield Problem("the spec has no such path" + (f"; did you mean {close[0]!r}?" if close else ""), location)


def _list_paths(value: Any, prefix: SpecPath = ()) -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    own_path = [dotted_path(prefix)] if prefix else []
    return own_path + [path for key, item in items for path in _list_paths(item, (*prefix, key))]


def _trees_to_check(variants: SweepVariants, name: str) -> list[Tree]:
    """Build the trees in which a path's values are checked.

    There is one for each arm that sets the same section, and for each value of a section that contains the path. In all
    of them the path's condition holds.
    """
    bases = [
        variants.base_tree(arm)
        for arm in (None, *variants.sweep.arms)
        if arm is None or _sets_section_of(variants, arm, name)
    ]
    if variants.sweep.arms and len(bases) > 1:
        bases = bases[1:]
    trees = []
    for base in bases:
        satisfying = _satisfy_condition(variants, base, name)
        containing = [path for path in _earlier_paths(variants, name) if _is_inside(name, path)]
        for path in containing:
            for label in variants.sweep.space[path].labelled_values:
                tree = variants.set_parameter(base, path, label)
                trees += [tree] if variants.is_active(tree, name) else []
        trees += [satisfying] if satisfying is not None and (not containing or not trees) else []
    return trees


def _sets_section_of(variants: SweepVariants, arm: str, name: str) -> bool:
    return any(split_path(path)[0] == split_path(name)[0] for path in variants.sweep.arms[arm])


def _earlier_paths(variants: SweepVariants, name: str) -> list[str]:
    names = list(variants.sweep.space)
    return names[: names.index(name)]


def _satisfy_condition(variants: SweepVariants, tree: Tree, name: str) -> Tree | None:
    """Choose values of earlier paths so that a path's condition holds; None if it never does."""
    for path, required in (variants.sweep.space[name].when or {}).items():
        if value_at(tree, path) != required:
            satisfying = _set_to_required(variants, tree, name, path, required)
            if satisfying is None:
                return None
            tree = satisfying
    return tree


def _set_to_required(variants: SweepVariants, tree: Tree, name: str, path: str, required: Any) -> Tree | None:
    """Choose a value of a path before `name` that gives `path` its required value; None if there is none."""
    for earlier in _earlier_paths(variants, name):
        if not _is_inside(path, earlier):
            continue
        base = _satisfy_condition(variants, tree, earlier)
        if base is None:
            continue
        dimension = variants.sweep.space[earlier]
        exact = dimension.to_param_value(required) if earlier == path else None
        for value in [exact] if exact is not None else dimension.labelled_values:
            candidate = variants.set_parameter(base, earlier, value)
            if value_at(candidate, path) == required:
                return candidate
    return None


def _unreachable_condition(variants: SweepVariants, name: str) -> Iterator[Problem]:
    """Yield the parts of a path's condition that no trial can satisfy."""
    bases = [variants.base_tree(arm) for arm in variants.arms]
    if any(_satisfy_condition(variants, base, name) is not None for base in bases):
        return
    for path, required in (variants.sweep.space[name].when or {}).items():
        if any(
            value_at(base, path) == required or _set_to_required(variants, base, name, path, required) for base in bases
        ):
            continue
        location = (*SPACE_PATH, name, "when", path)
        unknown = list(_unknown_path(bases[0], path, location))
        yield from unknown
        if not unknown:
            value, needed = value_label(value_at(bases[0], path)), value_label(required)
            yield Problem(f"never holds: {path} is {value}, and no earlier path can set it to {needed}", location)


SHARED_BY_TRIALS = {"name", "tracker", "pinned", "sweep", "claims", "criterion", "extends"}
"""Sections that are the same for all trials of a sweep."""


def rule_problems(variants: SweepVariants, spec: ExperimentSpec | None) -> Iterator[Problem]:
    """Yield the problems between the options of a sweep that are each valid.

    Args:
        variants: The sweep and its spec.
        spec: The spec; None if it is invalid without the sweep.
    """
    sweep = variants.sweep
    if not (sweep.space or sweep.arms or sweep.seeds):
        yield Problem("varies nothing; add `space`, `arms` or `seeds`", ("sweep",))
    if spec is not None and spec.pinned is not None:
        yield Problem("cannot be combined with `pinned`, which belongs to one trial; remove one of the two", ("sweep",))
    yield from _path_problems(sweep)
    yield from _search_problems(sweep)
    yield from _ineffective_options(sweep)
    if spec is not None and sweep.objective is not None:
        yield from _objective_problems(variants)


def _path_problems(sweep: SweepOptions) -> Iterator[Problem]:
    """Yield the paths that a sweep cannot vary, and those that would overwrite one another."""
    for name in sweep.space:
        section = str(split_path(name)[0])
        if section in {*SHARED_BY_TRIALS, "compute"}:
            yield Problem(f"`{section}` does not affect any metric, so it cannot be searched", (*SPACE_PATH, name))
        if name == "seed" and sweep.seeds:
            yield Problem("is also set by `seeds`; keep one of the two", (*SPACE_PATH, name))
        yield from _overwriting(name, list(sweep.space), (*SPACE_PATH, name))
    for arm, values in sweep.arms.items():
        for name in values:
            location = (*ARMS_PATH, arm, name)
            section = str(split_path(name)[0])
            if section in SHARED_BY_TRIALS:
                yield Problem(f"`{section}` must be the same for all trials of a sweep", location)
            if name == "seed" and sweep.seeds:
                yield Problem("would be overwritten by `seeds`; keep one of the two", location)
            containing = [path for path in sweep.space if _is_inside(name, path)]
            if containing:
                yield Problem(f"would be overwritten by the space, which varies {containing[0]}", location)
            yield from _overwriting(name, list(values), location)


def _is_inside(name: str, container: str) -> bool:
    return split_path(name)[: len(split_path(container))] == split_path(container)


def _overwriting(name: str, names: list[str], location: SpecPath) -> Iterator[Problem]:
    earlier = [path for path in names[: names.index(name)] if _is_inside(path, name)]
    if earlier:
        yield Problem(f"comes after {earlier[0]} and would overwrite it; list it before that path", location)


def _search_problems(sweep: SweepOptions) -> Iterator[Problem]:
    search, is_grid = sweep.search.type, sweep.search.type == "grid"
    for name, dimension in sweep.space.items():
        if is_grid and dimension.values() is None:
            message = f"{dimension.kind} is continuous, but the search is a grid; list the values, as in "
            yield Problem(message + "{grid: [1.0e-5, 1.0e-4]}, or use search: {type: random}", (*SPACE_PATH, name))
        if not is_grid and dimension.kind == "grid":
            message = f"a `grid` needs search: {{type: grid}}; with search type {search} use `choice`"
            yield Problem(message, (*SPACE_PATH, name, "grid"))
    budget = sweep.budget
    if not is_grid and sweep.space and not (budget.trials or budget.hours or budget.gpu_hours):
        yield Problem("a search needs a limit: budget: {trials: 20}, or hours, or gpu_hours", ("sweep", "search"))
    if search not in {"grid", "random"} and sweep.objective is None:
        yield Problem(f"{search} needs an objective, such as {OBJECTIVE_EXAMPLE}", ("sweep", "search", "type"))
    if budget.trials is not None and budget.trials < len(sweep.seeds or (0,)):
        message = (
            f"{budget.trials} is less than one point, which has {len(sweep.seeds or ())} trials, one for each seed"
        )
        yield Problem(message, ("sweep", "budget", "trials"))


def _ineffective_options(sweep: SweepOptions) -> Iterator[Problem]:
    """Yield the options that have no effect without a space, and pruning without an objective."""
    is_set = {
        # Compared with the default, because a plan has every default written out.
        "search": sweep.search != SweepOptions.model_fields["search"].default,
        "pruning": sweep.pruning is not None,
        "enqueue": bool(sweep.enqueue),
        "budget.trials": sweep.budget.trials is not None,
    }
    for name in (name for name in is_set if is_set[name] and not sweep.space):
        yield Problem("would have no effect without a `space` to search", ("sweep", *name.split(".")))
    if sweep.pruning is not None and sweep.objective is None:
        yield Problem(f"needs an objective, such as {OBJECTIVE_EXAMPLE}", ("sweep", "pruning"))


def _objective_problems(variants: SweepVariants) -> Iterator[Problem]:
    """Yield why the objective cannot be used, in the spec or in one of its arms."""
    assert variants.sweep.objective is not None
    metric = variants.sweep.objective.metric
    for arm in variants.arms:
        try:
            spec = check_spec(variants.base_tree(arm), ExperimentSpec)
        except SpecError:
            continue  # The values of the arm are reported by `value_problems`.
        message = selection_metric_error(spec, metric)
        if message and not validation_metrics(spec) and metric.startswith(VALIDATION_PREFIX):
            hint = "; set trainer.validation_ratio, the fraction of the training samples used for it, such as 0.05"
            message = f"there is no validation during training{hint if spec.trainer else ''}"
        if message:
            yield Problem(message + (f" (in the arm {arm!r})" if arm else ""), ("sweep", "objective", "metric"))
            return


S = TypeVar("S", bound=Specification)


def check_with_sweep(tree: Tree) -> ExperimentSpec:
    """Validate an experiment spec, including its claims and the variants that its sweep would create.

    Raises:
        SpecError: With every problem found, in the order of the file.
    """
    try:
        spec, problems = check_spec(tree, ExperimentSpec), list[Problem]()
    except SpecError as error:
        spec, problems = None, list(error.problems)
    sweep_problems = list(_sweep_problems(tree, spec, problems)) if isinstance(tree.value.get("sweep"), dict) else []
    further = dict.fromkeys([*sweep_problems, *claims_problems(tree)])
    problems += [problem for problem in further if problem not in problems]
    if problems or spec is None:
        raise SpecError(sorted_by_location(problems))
    return spec


def _sweep_problems(tree: Tree, spec: ExperimentSpec | None, known: list[Problem]) -> Iterator[Problem]:
    section = tree.value["sweep"]
    try:
        variants = SweepVariants(tree, SweepOptions.model_validate(section))
    except ValidationError as error:
        # The invalid options are reported with the spec; the values of the others are checked all the same.
        valid = _without_invalid(section, [details["loc"] for details in error.errors(include_url=False)])
        problems = value_problems(SweepVariants(tree, SweepOptions.model_validate(valid)), known)
    else:
        problems = _valid_section_problems(variants, spec, known)
    yield from (with_location(problem, tree) for problem in problems)


def _without_invalid(section: dict[str, Any], invalid: list[tuple[int | str, ...]]) -> dict[str, Any]:
    """Remove invalid options: single paths of the space and single arms, any other option as a whole."""
    remaining = {key: dict(value) if isinstance(value, dict) else value for key, value in section.items()}
    for option, *rest in invalid:
        if option in {"space", "arms"} and rest and isinstance(remaining.get(str(option)), dict):
            remaining[str(option)].pop(rest[0], None)
        else:
            remaining.pop(str(option), None)
    return remaining


def _valid_section_problems(
    variants: SweepVariants, spec: ExperimentSpec | None, known: list[Problem]
) -> Iterator[Problem]:
    yield from rule_problems(variants, spec)
    problems = list(value_problems(variants, known))
    yield from problems
    # Points can be composed only of valid values.
    if spec is not None and not problems:
        yield from _enqueued_point_problems(variants)


def _enqueued_point_problems(variants: SweepVariants) -> Iterator[Problem]:
    for index, point in enumerate(variants.sweep.enqueue):
        for arm in variants.arms:
            try:
                variants.parse_point(arm, point)
            except OutsideSpaceError as error:
                location: SpecPath = ("sweep", "enqueue", index)
                yield Problem(f"{error}", (*location, error.name) if error.name in point else location)
                break
