"""Which runs repeat one another, and what a group of them is called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.compare.runs import Run
from runner.errors import SpecError
from runner.plan import OUTSIDE_PLUGINS, flatten
from runner.stages.registry import nearest
from runner.trial_factory import short_names

ARM, EXPERIMENT = "arm", "experiment"
"""What runs can be grouped by that is no path of the spec."""
BESIDE = {*OUTSIDE_PLUGINS, "seed", "data", "metrics"}
"""Fields of a plan that make no difference between runs which were tested on the same samples by the same counts."""
FEW_RUNS = 5
"""With fewer runs a group's deviation is hardly known; at five, Student's interval is 2.8 standard errors wide to
each side, at three 4.3."""


@dataclass(frozen=True)
class Group:
    """Runs that are taken together.

    Attributes:
        value: What they share: a value of the spec as JSON has it, or a name.
        runs: In the order of their seeds.
    """

    value: Any
    runs: Sequence[Run]

    @property
    def label(self) -> str:
        """The value as it is shown, and as `--baseline` takes it."""
        return label(self.value)


def label(value: Any) -> str:
    """Write a value of a spec in one line: a list by its items, `none` for null."""
    if isinstance(value, list) and not any(isinstance(each, dict | list) for each in value):
        return ", ".join(label(each) for each in value)
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def settings(run: Run) -> dict[str, Any]:
    """What a run was told that can change a number, by dotted path, less its seed, data and metrics."""
    plan = {name: value for name, value in run.plan.items() if name not in BESIDE}
    return {**dict(flatten(plan)), "model.revision": run.plan["pinned"]["model"]}


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which runs differ, by dotted path: each run's value, None where it has no such setting."""
    told = [settings(run) for run in runs]
    paths = dict.fromkeys(path for each in told for path in each)
    values = {path: [each.get(path) for each in told] for path in paths}
    return {path: each for path, each in values.items() if any(one != each[0] for one in each)}


def group_runs(runs: Sequence[Run], by: str | None) -> list[Group]:
    """Put runs together, in the order in which the first of each group stands.

    Args:
        runs: All of them.
        by: A dotted path of the spec, `arm` or `experiment`; None: runs that differ in their seed alone.

    Raises:
        SpecError: No run has such a setting, or a run has no arm.
    """
    values = [_value(run, by) for run in runs] if by else _names(runs)
    members: dict[str, list[Run]] = {}
    first: dict[str, Any] = {}
    for run, value in zip(runs, values, strict=True):
        key = json.dumps(value, sort_keys=True)
        members.setdefault(key, []).append(run)
        first.setdefault(key, value)
    if by and by not in {ARM, EXPERIMENT} and all(value is None for value in first.values()):
        _refuse_unknown(by, runs)
    return [Group(first[key], sorted(each, key=lambda run: run.seed)) for key, each in members.items()]


def _value(run: Run, by: str) -> Any:
    if by == EXPERIMENT:
        return run.experiment
    if by == ARM:
        if not run.arm:
            raise SpecError(f"--by arm: {run.name} is no trial of a sweep; use --by experiment or a path of the spec")
        return run.arm
    value: Any = run.plan
    for part in by.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _refuse_unknown(by: str, runs: Sequence[Run]) -> None:
    known = {path for run in runs for path, _ in flatten(run.plan)}
    if by not in known:
        raise SpecError(f"--by {by}: no run has such a setting{nearest(by, [ARM, EXPERIMENT, *sorted(known)])}")


def _names(runs: Sequence[Run]) -> list[str]:
    """Name each run by what it shares with those that differ from it in their seed alone, as shortly as tells apart."""
    keys = [json.dumps(settings(run), sort_keys=True) for run in runs]
    candidates = (
        [run.group for run in runs],
        [f"{run.experiment}/{run.group}" if run.group else run.experiment for run in runs],
        _by_settings(runs),
    )
    for names in candidates:
        if all(names) and len(set(zip(keys, names, strict=True))) == len(set(keys)) == len(set(names)):
            return names
    first = {key: run.name for key, run in reversed(list(zip(keys, runs, strict=True)))}
    return [first[key] for key in keys]


def _by_settings(runs: Sequence[Run]) -> list[str]:
    apart = differing(runs)
    short = short_names(list(apart))
    return [
        ", ".join(f"{short[path]}={label(values[place])}" for path, values in apart.items())
        for place in range(len(runs))
    ]


def find_baseline(groups: Sequence[Group], baseline: str) -> Group:
    """Find the group that a user names by its value, as it is shown or as JSON.

    Raises:
        SpecError: There is none; the message lists them.
    """
    for group in groups:
        if _bare(baseline) in {_bare(group.label), _bare(json.dumps(group.value, ensure_ascii=False))}:
            return group
    known = "; ".join(group.label for group in groups)
    raise SpecError(f"--baseline {baseline}: no group has that value; there are: {known}")


def _bare(text: str) -> str:
    return "".join(text.split())


def group_warnings(groups: Sequence[Group], by: str | None) -> list[str]:
    """Say what makes groups less than they look: few seeds, or runs that differ in more than the seed."""
    told = []
    few = [group for group in groups if len(group.runs) < FEW_RUNS]
    if few:
        least = min(len(group.runs) for group in few)
        told.append(
            "one seed a group says nothing about what another seed would give"
            if least == 1
            else f"{least} seeds a group say little about what another seed would give: intervals over seeds are wide"
        )
    for group in groups:
        apart = [path for path in differing(group.runs) if by is None or not f"{path}.".startswith(f"{by}.")]
        if apart:
            shown: Mapping[str, str] = short_names(apart)
            told.append(f"the runs of {group.label} differ in more than their seed: {', '.join(shown.values())}")
        elif len({run.seed for run in group.runs}) < len(group.runs):
            told.append(f"{group.label} has runs of the same seed, which are counted as if they were different ones")
    return told
