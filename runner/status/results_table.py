"""One row per trial: parameters, status and metrics, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.errors import DataError
from runner.files import read_json_object
from runner.resolved_plan import NOT_FINGERPRINTED, flatten_json
from runner.status.status import DAMAGED, TrialStatus, experiment_status, find_experiments
from runner.sweep.sweep_folder import SWEEP_FOLDER, read_sweep
from runner.trial.run_directory_and_events import RunDirectory

SEED = "seed"


FINISHED = "finished"


def result_rows(names: Sequence[str], storage: Path) -> list[dict[str, Any]]:
    """List trials with their options and results; those of a sweep are in its order.

    Args:
        names: Experiments and trials, as for `find_experiments`; no name selects everything.
        storage: The folder of all runs.

    Returns:
        For each trial: `experiment`, `trial`, `arm` and `group` (None outside of a sweep), `seed`, `status`, the
        options in which the trials differ by dotted path, its metrics if it is finished, `fingerprint` and `run_dir`.
        All rows have the same keys; the value is None where a trial has no such option or metric. A list is a tuple.

    Raises:
        SpecError: A name matches nothing, or several trials.
    """
    rows = [
        row
        for selection in find_experiments(names, storage)
        for row in _rows(selection.experiment, experiment_status(selection).trials)
    ]
    options = _differing_options([row.options for row in rows])
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return [
        {
            **row.identity,
            **{path: row.options.get(path) for path in options},
            **{name: row.metrics.get(name) for name in metrics},
            **row.origin,
        }
        for row in rows
    ]


class _Row(NamedTuple):
    """A trial: its identity and status, its options, its results, and where they come from."""

    identity: dict[str, Any]
    options: dict[str, Any]
    metrics: Mapping[str, float | None]
    origin: dict[str, Any]


def _rows(experiment: Path, trials: Sequence[TrialStatus]) -> Iterator[_Row]:
    sweep_entries = {entry["name"]: entry for entry in _sweep_trials(experiment)}
    order = {name: index for index, name in enumerate(sweep_entries)}
    for trial in sorted(trials, key=lambda trial: order.get(trial.name, len(order))):
        run = RunDirectory(trial.run_dir)
        try:
            plan = read_json_object(run.plan, "")
        except DataError:
            plan = {}
        entry = sweep_entries.get(trial.name, {})
        yield _Row(
            identity={
                "experiment": experiment.name,
                "trial": trial.name,
                "arm": entry.get("arm") or None,
                "group": entry.get("group") or None,
                "seed": plan.get(SEED),
                "status": trial.status if "pinned" in plan else DAMAGED,
            },
            options=_options(plan),
            metrics=run.read_metrics() if trial.status == FINISHED else {},
            origin={"fingerprint": plan.get("pinned", {}).get("fingerprint"), "run_dir": str(trial.run_dir.resolve())},
        )


def _sweep_trials(experiment: Path) -> Sequence[Mapping[str, Any]]:
    """The trials in `sweep.json`; none if the file is damaged, which `runner status` reports."""
    try:
        return read_sweep(experiment / SWEEP_FOLDER).get("trials", [])  # type: ignore[no-any-return]
    except DataError:
        return []


def _options(plan: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: value for name, value in plan.items() if name not in NOT_FINGERPRINTED | {SEED}}
    return {path: tuple(value) if isinstance(value, list) else value for path, value in flatten_json(sections)}


def _differing_options(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = dict.fromkeys(path for options in trials for path in options)
    return [path for path in paths if len({json.dumps(options.get(path)) for options in trials}) > 1]
