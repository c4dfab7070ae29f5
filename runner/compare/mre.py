"""The mutual reinforcement effect: what training on several tasks together gains over each alone, and over all but one.

Runs are known by the tasks that they were trained on, not by the names of arms. Only runs that are told the same in all
else are compared, so that a spec which trains its arms for equal steps, and again for equal tokens, has two effects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runner.compare.groups import Group, differing, label, settings
from runner.compare.runs import Run
from runner.compare.statistics import Pair
from runner.errors import SpecError
from runner.trial_factory import short_names

TASKS = "adapter.tasks"


def mre_pairs(runs: Sequence[Run]) -> tuple[list[Group], list[Pair]]:
    """Pair the runs on all tasks with those on each task alone, and on all but one.

    Returns:
        The groups, and the pairs with the `effect` that each measures (`summary alone`, `without ner`) and the
        `budget` at which, in the settings that tell budgets apart; empty where there is one.

    Raises:
        SpecError: A run has no tasks, or there is nothing to compare; the message says what would be.
    """
    for run in runs:
        if not isinstance(run.plan["adapter"].get("tasks"), list):
            raise SpecError(f"--mre: {run.name} names no tasks in adapter.tasks")
    budgets: dict[str, list[Run]] = {}
    for run in runs:
        rest = {path: value for path, value in settings(run).items() if path != TASKS}
        budgets.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    names = _budget_names(runs, list(budgets.values()))
    groups: list[Group] = []
    pairs: list[Pair] = []
    for name, members in zip(names, budgets.values(), strict=True):
        by_tasks = _by_tasks(members, name)
        groups += by_tasks.values()
        pairs += _pairs(by_tasks, name)
    if not pairs:
        raise SpecError(
            "--mre: no run on several tasks has a counterpart on one of them alone, or on all but one, that is told "
            f"the same in all else. There are: {'; '.join(group.label for group in groups)}. specs/mre_ablation.yaml "
            "trains all of them"
        )
    return groups, pairs


def _budget_names(runs: Sequence[Run], budgets: Sequence[Sequence[Run]]) -> list[str]:
    """Name each by the settings in which it differs from the others; by those that are null in it only if all are."""
    if len(budgets) == 1:
        return [""]
    apart: Mapping[str, list[Any]] = {path: each for path, each in differing(runs).items() if path != TASKS}
    short = short_names(list(apart))
    places = [list(runs).index(members[0]) for members in budgets]
    told = [{path: each[place] for path, each in apart.items()} for place in places]
    said = [{path: value for path, value in each.items() if value is not None} or each for each in told]
    return [", ".join(f"{short[path]}={label(value)}" for path, value in each.items()) for each in said]


def _by_tasks(runs: Sequence[Run], budget: str) -> dict[frozenset[str], Group]:
    """The runs of one budget by their tasks, those on most tasks first."""
    found: dict[frozenset[str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: -len(run.plan["adapter"]["tasks"])):
        found.setdefault(frozenset(run.plan["adapter"]["tasks"]), []).append(run)
    named = {tasks: label(members[0].plan["adapter"]["tasks"]) for tasks, members in found.items()}
    return {
        tasks: Group(
            f"{named[tasks]} ({budget})" if budget else named[tasks], sorted(members, key=lambda run: run.seed)
        )
        for tasks, members in found.items()
    }


def _pairs(groups: Mapping[frozenset[str], Group], budget: str) -> list[Pair]:
    """Pair the group on all tasks, where there is one, with those on each alone, then with those on all but one."""
    joint, *others = groups
    if not all(tasks < joint for tasks in others):
        return []
    told = {"budget": budget} if budget else {}
    alone = {f"{next(iter(tasks))} alone": tasks for tasks in others if len(tasks) == 1}
    rest = {f"without {next(iter(joint - tasks))}": tasks for tasks in others if len(tasks) == len(joint) - 1 > 1}
    return [Pair(groups[joint], groups[tasks], {"effect": name, **told}) for name, tasks in {**alone, **rest}.items()]
