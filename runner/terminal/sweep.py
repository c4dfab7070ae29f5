"""What is printed when a sweep is over: a row a trial, mean and deviation where seeds repeat, the best."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from runner.execute.results import LaunchResult, TrialResult
from runner.standing.sweep_folder import SEED
from runner.sweep.point import short_names
from runner.terminal.board import shown

HEADLINE = ("ner_f1", "image_entity_accuracy", "rougeL", "bleu")
"""The results that stand beside the objective; `metrics.json` has the others."""


def sweep_tables(result: LaunchResult) -> list[Table]:
    """A row a trial, and where seeds repeat a row a group.

    Of a group stand the number of its trials that finished, and mean and the sample's standard deviation (over n - 1)
    of those that have the figure.
    """
    names = _names(result.trials)
    figures = _figures(result)
    trials = Table(title="trials; results on the test split", title_justify="left")
    for column in ("trial", "status", *names.values(), "seed"):
        trials.add_column(column, no_wrap=column in {"trial", "status"})
    for column in figures:
        trials.add_column(column, justify="right", overflow="fold")
    for trial in result.trials:
        cells = [_cell(_figure(trial, column)) for column in figures]
        seed = str(trial.trial.seed)
        trials.add_row(trial.trial.name, trial.status, *_parameters(trial, names), seed, *cells)
    groups = _groups(result.trials)
    repeated = any(len(members) > 1 for members in groups.values())
    return [trials, _group_table(groups, names, figures)] if repeated else [trials]


def sweep_lines(result: LaunchResult) -> list[str]:
    """The best, what failed, and where everything lies."""
    told = result.sweep or {}
    lines = []
    best, objective = told.get("best"), told.get("objective")
    if best is not None and objective is not None:
        at = ", ".join(f"{path} = {shown(value)}" for path, value in best["parameters"].items())
        lines.append(f"best: {objective['metric']} {best['value']:.4f} at {at or best['group']}")
    if result.trials:
        lines.append(f"runs: {result.trials[0].run_dir.parent}")
    if result.link:
        lines.append(f"tracker: {result.link}")
    return lines


def _group_table(
    groups: Mapping[str, Sequence[TrialResult]], names: Mapping[str, str], figures: Sequence[str]
) -> Table:
    table = Table(title="mean ± standard deviation over seeds", title_justify="left")
    for column in ("group", *names.values(), "n"):
        table.add_column(column)
    for column in figures:
        table.add_column(column, justify="right", overflow="fold")
    for group, members in groups.items():
        cells = [spread([_figure(each, column) for each in members]) for column in figures]
        num_finished = sum(each.status == "finished" for each in members)
        table.add_row(group, *_parameters(members[0], names), str(num_finished), *cells)
    return table


def spread(values: Sequence[float | None]) -> str:
    """Write mean and standard deviation of the values that are there; of one value itself, of none a dash."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.4f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.4f}"


def _groups(results: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(result.trial.group, []).append(result)
    return groups


def _names(results: Sequence[TrialResult]) -> dict[str, str]:
    paths = dict.fromkeys(path for result in results for path in result.trial.parameters)
    return short_names([path for path in paths if path != SEED])


def _parameters(result: TrialResult, names: Mapping[str, str]) -> list[str]:
    parameters = result.trial.parameters
    return [shown(parameters[path]) if path in parameters else "" for path in names]


def _figures(result: LaunchResult) -> list[str]:
    """The columns of figures: the objective's, and of the headline those that some trial has."""
    objective = (result.sweep or {}).get("objective")
    found = [name for name in HEADLINE if any(trial.metrics.get(name) is not None for trial in result.trials)]
    return [*([str(objective["metric"])] if objective else []), *found]


def _figure(result: TrialResult, column: str) -> float | None:
    return result.objective if column.startswith("validation/") else result.metrics.get(column)


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}"
