"""A row for every trial: what it was told, how it stands, and what came out, read from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.artifacts import RunDirectory
from runner.plan import SEPARATE, flatten
from runner.standing.standing import TrialStanding, find, standing
from runner.standing.sweep_folder import FOLDER, sweep_as_told

SEED = "seed"
FINISHED = "finished"


def rows(names: Sequence[str], storage: Path) -> list[dict[str, Any]]:
    """List trials, those of a sweep in its order.

    Args:
        names: Experiments and trials, as `runner.standing.standing.find` takes them; none of them means everything.
        storage: The folder of all runs.

    Returns:
        For each `experiment`, `trial`, `arm` and `group` (None outside of a sweep), `seed`, `status`, the options in
        which the trials differ by dotted path, the metrics of those that are finished, `fingerprint` and `run_dir`.
        All rows have the same keys; None where a trial has no such option or figure. A list is a tuple.

    Raises:
        SpecError: There is nothing of a name, or more than one.
    """
    found = [row for each in find(names, storage) for row in _of_experiment(each.experiment, standing(each).trials)]
    options = _differing([row.options for row in found])
    figures = list(dict.fromkeys(name for row in found for name in row.metrics))
    return [
        {
            **row.standing,
            **{path: row.options.get(path) for path in options},
            **{name: row.metrics.get(name) for name in figures},
            **row.origin,
        }
        for row in found
    ]


class _Row(NamedTuple):
    """A trial: how it stands and where it belongs, what it was told, what came out, and where that is from."""

    standing: dict[str, Any]
    options: dict[str, Any]
    metrics: Mapping[str, float | None]
    origin: dict[str, Any]


def _of_experiment(experiment: Path, trials: Sequence[TrialStanding]) -> Iterator[_Row]:
    swept = {each["name"]: each for each in sweep_as_told(experiment / FOLDER).get("trials", ())}
    order = {name: place for place, name in enumerate(swept)}
    for trial in sorted(trials, key=lambda each: order.get(each.name, len(order))):
        run = RunDirectory(trial.run_dir)
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
        of_sweep = swept.get(trial.name, {})
        yield _Row(
            standing={
                "experiment": experiment.name,
                "trial": trial.name,
                "arm": of_sweep.get("arm") or None,
                "group": of_sweep.get("group") or None,
                "seed": plan[SEED],
                "status": trial.status,
            },
            options=_options(plan),
            metrics=run.read_metrics() if trial.status == FINISHED else {},
            origin={"fingerprint": plan["pinned"]["fingerprint"], "run_dir": str(trial.run_dir.resolve())},
        )


def _options(plan: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in plan.items() if name not in SEPARATE | {SEED}}
    return {path: tuple(value) if isinstance(value, list) else value for path, value in flatten(told)}


def _differing(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = dict.fromkeys(path for told in trials for path in told)
    return [path for path in paths if len({json.dumps(told.get(path)) for told in trials}) > 1]
