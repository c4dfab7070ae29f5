"""Validates claims and criterion: the arms, metrics, tasks and points that they name must be those of the spec."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from runner.errors import PluginError, Problem, SpecPath
from runner.spec.check import spec_with_defaults, with_location
from runner.spec.claims_section import Claim, Criterion, single_task_candidates
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.sweep_section import Dimension, value_label
from runner.spec.yaml_layers import Tree
from runner.stages.registry import find_plugin, suggestion

CLAIMS, CRITERION = "claims", "criterion"


@dataclass(frozen=True)
class _Names:
    """What a claim of a spec can name.

    Attributes:
        arms: The arms of the sweep, with the values that they set.
        space: The valid dimensions of the space.
        metrics: The metrics of the test samples; None if a section of `metrics` is invalid.
        spec: The spec with the defaults of its valid sections.
    """

    arms: Mapping[str, Any]
    space: Mapping[str, Dimension]
    metrics: Collection[str] | None
    spec: Mapping[str, Any]

    @classmethod
    def of(cls, tree: Tree) -> _Names:
        sweep = tree.value.get("sweep")
        arms, space = (sweep.get(name) if isinstance(sweep, dict) else None for name in ("arms", "space"))
        dimensions = _valid(space, Dimension)
        spec = spec_with_defaults(tree, ExperimentSpec)
        return cls(arms if isinstance(arms, dict) else {}, dimensions, _metric_names(tree.value.get("metrics")), spec)


def _valid(values: Any, kind: Any) -> dict[str, Any]:
    """Parse the valid values of a mapping; `check_spec` reports the others."""
    valid = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        try:
            valid[str(name)] = kind.model_validate(value)
        except ValidationError:
            continue
    return valid


def _metric_names(sections: Any) -> list[str] | None:
    try:
        return [name for section in sections for name in find_plugin("metric", section["type"]).metric_names()]
    except (PluginError, TypeError, KeyError):
        return None


def claims_problems(tree: Tree) -> Iterator[Problem]:
    """Yield the claims, and the parts of the criterion, that name what the spec does not have.

    Args:
        tree: The spec. Other parts of it may be invalid; claims that are invalid in themselves are not checked.
    """
    names = _Names.of(tree)
    for name, claim in _valid(tree.value.get(CLAIMS), Claim).items():
        yield from (with_location(problem, tree) for problem in _claim_problems(claim, (CLAIMS, name), names))
    for criterion in _valid({CRITERION: tree.value.get(CRITERION)}, Criterion).values():
        yield from (with_location(problem, tree) for problem in _criterion_problems(criterion, names))


def _claim_problems(claim: Claim, path: SpecPath, names: _Names) -> Iterator[Problem]:
    yield from _arm_problem(claim.arm, (*path, "arm"), names)
    if claim.reinforces is None:
        for index, metric in enumerate(claim.metrics):
            yield from _metric_problem(metric, (*path, "metrics", index), names)
        baselines = {(*path, claim.form): next(iter(claim.baselines.values()))}
    else:
        for metric in claim.reinforces:
            yield from _metric_problem(metric, (*path, "reinforces", metric), names)
        baselines = {(*path, "reinforces", metric): arm for metric, arm in claim.reinforces.items()}
    for location, baseline in baselines.items():
        if baseline == claim.arm:
            yield Problem(f"compares the arm {claim.arm!r} with itself; name another arm", location)
        else:
            yield from _arm_problem(baseline, location, names)
    for name, value in claim.where.items():
        yield from _point_problem(name, value, (*path, "where", name), names)


def _arm_problem(arm: str, path: SpecPath, names: _Names) -> Iterator[Problem]:
    if not names.arms:
        yield Problem(f"there is no arm {arm!r}, because the spec has no `sweep.arms`; add the arms", path)
    elif arm not in names.arms:
        yield Problem(f"there is no arm {arm!r}{suggestion(arm, list(names.arms))}", path)


def _metric_problem(metric: str, path: SpecPath, names: _Names) -> Iterator[Problem]:
    if names.metrics is not None and metric not in names.metrics:
        yield Problem(f"the spec has no metric {metric!r}{suggestion(metric, list(names.metrics))}", path)


def _point_problem(name: str, value: Any, path: SpecPath, names: _Names) -> Iterator[Problem]:
    if name not in names.space:
        hint = suggestion(name, list(names.space)) if names.space else "; the sweep has no `space`, remove it"
        yield Problem(f"the sweep does not vary {name!r}{hint}", path)
        return
    dimension = names.space[name]
    if dimension.to_param_value(value) is None:
        hint = suggestion(value_label(value), list(dimension.labelled_values)) if dimension.labelled_values else ""
        yield Problem(f"{value_label(value)} is no value of {dimension}{hint}", path)


def _criterion_problems(criterion: Criterion, names: _Names) -> Iterator[Problem]:
    tasks = _known_tasks(names)
    for task, metric in criterion.metrics.items():
        path = (CRITERION, "metrics", task)
        if tasks and task not in tasks:
            yield Problem(f"no arm has the task {task!r}{suggestion(task, tasks)}", path)
            continue
        yield from _metric_problem(metric, path, names)
        if task not in criterion.single_task_arms:
            yield from _derived_arm_problem(task, path, names)
    for task, arm in criterion.single_task_arms.items():
        path = (CRITERION, "single_task_arms", task)
        if task not in criterion.metrics:
            hint = suggestion(task, list(criterion.metrics))
            yield Problem(f"criterion.metrics has no task {task!r}{hint}", path)
        yield from _arm_problem(arm, path, names)


def _derived_arm_problem(task: str, path: SpecPath, names: _Names) -> Iterator[Problem]:
    found = list(single_task_candidates(task, names.arms, names.spec.get("adapter"), names.spec.get("trainer")))
    if len(found) != 1:
        which = f"the arms {', '.join(found)} train" if found else "no arm trains"
        yield Problem(f"{which} on the task {task!r} alone; name one in criterion.single_task_arms", path)


def _known_tasks(names: _Names) -> list[str]:
    adapter = names.spec.get("adapter")
    lists = [adapter.get("tasks") if isinstance(adapter, dict) else None]
    for values in names.arms.values():
        if isinstance(values, dict):
            own = values.get("adapter")
            lists += [values.get("adapter.tasks"), own.get("tasks") if isinstance(own, dict) else None]
    return list(dict.fromkeys(str(task) for tasks in lists if isinstance(tasks, list) for task in tasks))
