"""The mutual reinforcement effect: the gain of training on several tasks over training on one, and on all but one.

Runs are matched by the tasks they were trained on, not by the names of arms. Two runs are compared only if all their
other settings are equal. So a spec that trains its arms for equal steps, and again for equal tokens, has two effects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runner.compare.finished_runs import Run
from runner.compare.groups import Group, differing_settings, format_setting, run_settings
from runner.compare.statistics import GroupPair
from runner.errors import SpecError
from runner.trial_factory import short_names

TASKS_PATH = "adapter.tasks"


def mre_pairs(runs: Sequence[Run]) -> tuple[list[Group], list[GroupPair]]:
    """Pair the runs on all tasks with those on each single task, and with those on all but one.

    Returns:
        The groups, and the pairs. The details of a pair are the `effect` that it measures (`summary alone`,
        `without ner`) and, where there are several, the `budget`: the settings in which the budgets differ.

    Raises:
        SpecError: A run has no tasks, or no pair exists; the message lists the tasks of the runs.
    """
    for run in runs:
        if not isinstance(run.plan["adapter"].get("tasks"), list):
            raise SpecError(f"--mre: {run.name} has no list adapter.tasks")
    runs_by_budget: dict[str, list[Run]] = {}
    for run in runs:
        other_settings = {path: value for path, value in run_settings(run).items() if path != TASKS_PATH}
        runs_by_budget.setdefault(json.dumps(other_settings, sort_keys=True), []).append(run)
    names = _budget_names(runs, list(runs_by_budget.values()))
    uses_arms = _have_different_regimes(runs)
    groups: list[Group] = []
    pairs: list[GroupPair] = []
    for name, members in zip(names, runs_by_budget.values(), strict=True):
        groups_by_tasks = _group_by_tasks(members, name, uses_arms=uses_arms)
        groups += groups_by_tasks.values()
        budget = next(iter(groups_by_tasks.values())).label if uses_arms else name
        pairs += _budget_pairs(groups_by_tasks, budget)
    if not pairs:
        raise SpecError(
            "--mre: no run on several tasks has a counterpart on one of them, or on all but one, with otherwise equal "
            f"settings. The runs have the tasks: {'; '.join(group.label for group in groups)}. "
            "specs/mre_ablation.yaml trains all that are needed"
        )
    return groups, pairs


def _budget_names(runs: Sequence[Run], budgets: Sequence[Sequence[Run]]) -> list[str]:
    """Name each budget by the settings in which it differs, without those that are null unless all of them are."""
    if len(budgets) == 1:
        return [""]
    differing: Mapping[str, list[Any]] = {
        path: values for path, values in differing_settings(runs).items() if path != TASKS_PATH
    }
    short = short_names(list(differing))
    indices = [list(runs).index(members[0]) for members in budgets]
    settings = [{path: values[index] for path, values in differing.items()} for index in indices]
    set_values = [{path: value for path, value in each.items() if value is not None} or each for each in settings]
    return [", ".join(f"{short[path]}={format_setting(value)}" for path, value in each.items()) for each in set_values]


def _have_different_regimes(runs: Sequence[Run]) -> bool:
    """Return whether runs of sweeps differ in what they learn from, whose settings would be a long name of a group."""
    return all(run.group for run in runs) and len({json.dumps(run.plan.get("regime")) for run in runs}) > 1


def _group_by_tasks(runs: Sequence[Run], budget: str, *, uses_arms: bool) -> dict[frozenset[str], Group]:
    """Group the runs of one budget by their tasks; the largest set of tasks comes first.

    Args:
        runs: The runs.
        budget: The name of the budget.
        uses_arms: Name the groups by the groups of their sweeps instead of tasks and budget.
    """
    runs_by_tasks: dict[frozenset[str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: -len(run.plan["adapter"]["tasks"])):
        runs_by_tasks.setdefault(frozenset(run.plan["adapter"]["tasks"]), []).append(run)
    groups = {}
    for tasks, members in runs_by_tasks.items():
        label = format_setting(members[0].plan["adapter"]["tasks"])
        label = f"{label} ({budget})" if budget else label
        if uses_arms:
            label = ", ".join(dict.fromkeys(run.group for run in members))
        groups[tasks] = Group(label, sorted(members, key=lambda run: run.seed))
    return groups


def _budget_pairs(groups: Mapping[frozenset[str], Group], budget: str) -> list[GroupPair]:
    """Pair the group on all tasks, if there is one, with those on a single task, then with those on all but one."""
    joint, *others = groups
    if not all(tasks < joint for tasks in others):
        return []
    single = {f"{next(iter(tasks))} alone": tasks for tasks in others if len(tasks) == 1}
    all_but_one = {
        f"without {next(iter(joint - tasks))}": tasks for tasks in others if len(tasks) == len(joint) - 1 > 1
    }
    details = {"budget": budget} if budget else {}
    return [
        GroupPair(groups[joint], groups[tasks], {"effect": effect, **details})
        for effect, tasks in {**single, **all_but_one}.items()
    ]
