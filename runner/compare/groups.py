"""Groups runs that repeat one another, and names the groups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.compare.finished_runs import Run
from runner.errors import SpecError
from runner.resolved_plan import NOT_FINGERPRINTED, flatten_json
from runner.stages.registry import suggestion
from runner.trial_factory import short_names

ARM, EXPERIMENT = "arm", "experiment"
"""Values of `--by` that are not a path of the spec."""
IGNORED_FIELDS = {*NOT_FINGERPRINTED, "seed", "data", "metrics"}
"""Fields of a plan that do not separate groups. `compare` checks the test samples itself, and the metrics too."""
MIN_RELIABLE_RUNS = 5
"""With fewer runs, a group's standard deviation is hardly known. Student's interval is 2.8 standard errors wide to each
side with five runs, and 4.3 with three."""


@dataclass(frozen=True)
class Group:
    """Runs that are averaged.

    Attributes:
        value: The setting they share, as in JSON, or a name.
        runs: The runs, ordered by seed.
    """

    value: Any
    runs: Sequence[Run]

    def __repr__(self) -> str:
        """Return the label and the number of runs: the runs themselves would fill pages."""
        return f"<Group {self.label}: {len(self.runs)} runs>"

    @property
    def label(self) -> str:
        """The value as text, in the form that `--baseline` accepts."""
        return format_setting(self.value)


def format_setting(value: Any) -> str:
    """Write a value of a spec in one line: a list as its items, null as `none`."""
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(format_setting(item) for item in value)
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def run_settings(run: Run) -> dict[str, Any]:
    """Return the settings that can change a run's results, by dotted path, without seed, data and metrics."""
    plan = {name: value for name, value in run.plan.items() if name not in IGNORED_FIELDS}
    return {**dict(flatten_json(plan)), "model.revision": run.plan["pinned"]["model"]}


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, by dotted path: each run's value, None where it lacks the setting."""
    settings = [run_settings(run) for run in runs]
    paths = dict.fromkeys(path for run in settings for path in run)
    values = {path: [run.get(path) for run in settings] for path in paths}
    return {path: column for path, column in values.items() if any(value != column[0] for value in column)}


def group_runs(runs: Sequence[Run], by: str | None) -> list[Group]:
    """Group runs, in the order of the first run of each group.

    Args:
        runs: All runs.
        by: A dotted path of the spec, `arm` or `experiment`; None: runs that differ only in their seed form a group.

    Raises:
        SpecError: No run has the setting, or a run has no arm.
    """
    values = [_group_value(run, by) for run in runs] if by else _group_names(runs)
    members: dict[str, list[Run]] = {}
    value_by_key: dict[str, Any] = {}
    for run, value in zip(runs, values, strict=True):
        key = json.dumps(value, sort_keys=True)
        members.setdefault(key, []).append(run)
        value_by_key.setdefault(key, value)
    if by and by not in {ARM, EXPERIMENT} and all(value is None for value in value_by_key.values()):
        _check_setting_exists(by, runs)
    return [Group(value_by_key[key], sorted(group, key=lambda run: run.seed)) for key, group in members.items()]


def _group_value(run: Run, by: str) -> Any:
    if by == EXPERIMENT:
        return run.experiment
    if by == ARM:
        if not run.arm:
            raise SpecError(
                f"--by arm: {run.name} is not a trial of a sweep; use --by experiment or a path of the spec"
            )
        return run.arm
    value: Any = run.plan
    for part in by.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _check_setting_exists(by: str, runs: Sequence[Run]) -> None:
    known = {path for run in runs for path, _ in flatten_json(run.plan)}
    if by not in known:
        raise SpecError(f"--by {by}: no run has this setting{suggestion(by, [ARM, EXPERIMENT, *sorted(known)])}")


def _group_names(runs: Sequence[Run]) -> list[str]:
    """Name the group of each run, so that runs that differ only in their seed have the same name.

    The first of these that separates the groups is used: the sweep's group, experiment and group, the settings that
    differ, the name of the group's first run.
    """
    keys = [json.dumps(run_settings(run), sort_keys=True) for run in runs]
    candidates = (
        [run.group for run in runs],
        [f"{run.experiment}/{run.group}" if run.group else run.experiment for run in runs],
        _settings_names(runs),
    )
    for names in candidates:
        if all(names) and len(set(zip(keys, names, strict=True))) == len(set(keys)) == len(set(names)):
            return names
    first_names = {key: run.name for key, run in reversed(list(zip(keys, runs, strict=True)))}
    return [first_names[key] for key in keys]


def _settings_names(runs: Sequence[Run]) -> list[str]:
    differing = differing_settings(runs)
    short = short_names(list(differing))
    return [
        ", ".join(f"{short[path]}={format_setting(values[index])}" for path, values in differing.items())
        for index in range(len(runs))
    ]


def find_baseline(groups: Sequence[Group], baseline: str) -> Group:
    """Find the group with a value that the user wrote, as in the tables or as JSON.

    Raises:
        SpecError: No group has that value; the message lists the values.
    """
    for group in groups:
        if _strip_spaces(baseline) in {
            _strip_spaces(group.label),
            _strip_spaces(json.dumps(group.value, ensure_ascii=False)),
        }:
            return group
    known = "; ".join(group.label for group in groups)
    raise SpecError(f"--baseline {baseline}: no group has this value; the groups are: {known}")


def _strip_spaces(text: str) -> str:
    return "".join(text.split())


def group_warnings(groups: Sequence[Group], by: str | None) -> list[str]:
    """Warn of few seeds, of runs of a group that differ in more than the seed, and of repeated seeds."""
    warnings = []
    small = [group for group in groups if len(group.runs) < MIN_RELIABLE_RUNS]
    if small:
        num_runs = min(len(group.runs) for group in small)
        warnings.append(
            "one seed per group: the effect of the seed is unknown"
            if num_runs == 1
            else f"only {num_runs} seeds per group: the effect of the seed is uncertain, intervals over seeds are wide"
        )
    for group in groups:
        paths = [path for path in differing_settings(group.runs) if by is None or not f"{path}.".startswith(f"{by}.")]
        if paths:
            short: Mapping[str, str] = short_names(paths)
            warnings.append(f"the runs of {group.label} differ in more than their seed: {', '.join(short.values())}")
        elif len({run.seed for run in group.runs}) < len(group.runs):
            warnings.append(f"{group.label} has several runs with the same seed; they count as independent runs")
    return warnings
