"""A row for every trial: what it was told, how it stands, and what came out, read from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.artifacts import RunDirectory
from runner.execute.standing import TrialStanding, find, standing
from runner.execute.sweep_folder import FOLDER
from runner.plan import SEPARATE, flatten

SEED = "seed"
FINISHED = "finished"


def rows(names: Sequence[str], storage: Path) -> list[dict[str, Any]]:
    """List trials, those of a sweep in its order.

    Args:
        names: Experiments and trials, as `runner.execute.standing.find` takes them; none of them means everything.
        storage: The folder of all runs.

    Returns:
        For each `experiment`, `trial`, `arm` and `group` (None outside of a sweep), `seed`, `status`, the options in
        which the trials differ by dotted path, the metrics of those that are finished, `fingerprint` and `run_dir`.
        All rows have the same keys; None where a trial has no such option or figure. A list is a tuple.

    Raises:
        SpecError: There is nothing of a name, or more than one.
    """
    found = [row for each in find(names, storage) for row in _of_experiment(each.experiment, standing(each).trials)]
    options = _differing([options for _, options, _ in found])
    figures = list(dict.fromkeys(name for _, _, metrics in found for name in metrics))
    return [
        {
            **_first(place),
            **{path: told.get(path) for path in options},
            **{name: metrics.get(name) for name in figures},
            **_last(place),
        }
        for place, told, metrics in found
    ]


_Row = tuple[dict[str, Any], dict[str, Any], Mapping[str, float | None]]
"""Where a trial belongs and how it stands; its options; its metrics."""


def _of_experiment(experiment: Path, trials: Sequence[TrialStanding]) -> Iterator[_Row]:
    file = experiment / FOLDER / "sweep.json"
    listed = json.loads(file.read_text(encoding="utf-8"))["trials"] if file.exists() else []
    swept = {each["name"]: each for each in listed}
    order = {name: place for place, name in enumerate(swept)}
    for trial in sorted(trials, key=lambda each: order.get(each.name, len(order))):
        run = RunDirectory(trial.run_dir)
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
        of_sweep = swept.get(trial.name, {})
        place = {
            "experiment": experiment.name,
            "trial": trial.name,
            "arm": of_sweep.get("arm") or None,
            "group": of_sweep.get("group") or None,
            "seed": plan[SEED],
            "status": trial.status,
            "fingerprint": plan["pinned"]["fingerprint"],
            "run_dir": str(trial.run_dir.resolve()),
        }
        yield place, _options(plan), run.read_metrics() if trial.status == FINISHED else {}


def _options(plan: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in plan.items() if name not in SEPARATE | {SEED}}
    return {path: tuple(value) if isinstance(value, list) else value for path, value in flatten(told)}


def _differing(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = dict.fromkeys(path for told in trials for path in told)
    return [path for path in paths if len({json.dumps(told.get(path)) for told in trials}) > 1]


_LAST = ("fingerprint", "run_dir")


def _first(place: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in place.items() if name not in _LAST}


def _last(place: Mapping[str, Any]) -> dict[str, Any]:
    return {name: place[name] for name in _LAST}
