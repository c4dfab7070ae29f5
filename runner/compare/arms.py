"""The runs of a sweep by arm and by point of its space, for claims and for the criterion of mutual reinforcement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.compare.finished_runs import PRUNED, Run
from runner.compare.groups import Group
from runner.errors import DataError
from runner.files import read_json_object
from runner.spec.sweep_section import SweepOptions
from runner.sweep.claim_registry import Registry, read_registry
from runner.sweep.sweep_folder import SWEEP_FOLDER, read_sweep
from runner.trial_factory import short_names

Point = tuple[tuple[str, str], ...]
"""The values of a sweep's space by path, each as a label; empty if the sweep has no space."""


@dataclass(frozen=True)
class SweepRuns:
    """The runs of one sweep.

    Attributes:
        experiment: The name of the experiment.
        registry: The claims and the criterion that were registered for it.
        sweep: Its options; None if nothing is registered.
        runs: The runs of each arm at each point; arms and points in the order of the trials.
        missing: The names of trials of the sweep that are not compared, such as unfinished ones.
    """

    experiment: str
    registry: Registry
    sweep: SweepOptions | None
    runs: Mapping[tuple[str, Point], Sequence[Run]]
    missing: Sequence[str]

    @cached_property
    def groups(self) -> Mapping[tuple[str, Point], Group]:
        """The runs of each arm at each point as a group, named by the arm and, if there are several, the point."""
        groups = {}
        for (arm, point), runs in self.runs.items():
            where = self.describe(point)
            label = f"{arm} ({where})" if where else arm
            groups[arm, point] = Group(label, sorted(runs, key=lambda run: run.seed))
        return groups

    def matches(self, point: Point, where: Mapping[str, Any]) -> bool:
        """Return whether a point has the values of a claim's `where`."""
        labels = dict(point)
        return all(labels.get(path) == _label(self.sweep, path, value) for path, value in where.items())

    def describe(self, point: Point) -> str:
        """Describe a point in words: `trainer=equal_tokens`; empty if the sweep has only one."""
        if len({point for _, point in self.runs}) < 2:
            return ""
        short = short_names([path for path, _ in point])
        return ", ".join(f"{short[path]}={label}" for path, label in point)


def sweeps_of(runs: Sequence[Run]) -> list[SweepRuns]:
    """Group the runs of each sweep among the runs by arm and point; runs outside of sweeps are left out.

    Raises:
        DataError: The registry of a sweep's claims is damaged, or claims are registered and its plan is damaged.
    """
    folders = dict.fromkeys(run.folder.parent for run in runs if run.arm)
    return [_sweep_runs(folder, [run for run in runs if run.folder.parent == folder and run.arm]) for folder in folders]


def _sweep_runs(experiment: Path, runs: Sequence[Run]) -> SweepRuns:
    trials = {trial["name"]: trial for trial in read_sweep(experiment / SWEEP_FOLDER).get("trials", [])}
    registry = read_registry(experiment / SWEEP_FOLDER)
    # Without claims and criterion, nothing asks for the points.
    options = _sweep_options(experiment / SWEEP_FOLDER / "plan.json") if registry.sha256 else None
    members: dict[tuple[str, Point], list[Run]] = {}
    for run in runs:
        point = tuple(_point(options, trials.get(run.folder.name, {}).get("parameters", {})))
        members.setdefault((run.arm, point), []).append(run)
    compared = {run.folder.name for run in runs}
    missing = [name for name, trial in trials.items() if name not in compared and trial.get("status") != PRUNED]
    return SweepRuns(experiment.name, registry, options, members, missing)


def _sweep_options(plan: Path) -> SweepOptions:
    """Read the options of a sweep from its plan: without its space, runs at different points would be mixed.

    Raises:
        DataError: The plan is missing or damaged.
    """
    remedy = "Restore the file from a copy, or launch the spec again, which writes it"
    try:
        return SweepOptions.model_validate(read_json_object(plan, remedy).get("sweep"))
    except FileNotFoundError as error:
        raise DataError(f"{plan}: the file is missing, so that no claim can be judged. {remedy}") from error
    except ValidationError as error:
        raise DataError(f"{plan}: the file is damaged (its section `sweep` is not valid). {remedy}") from error


def _point(options: SweepOptions | None, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path in options.space if options else ():
        label = _label(options, path, parameters[path]) if path in parameters else None
        if label is not None:
            yield path, label


def _label(options: SweepOptions | None, path: str, value: Any) -> str | None:
    """Return the name or the text of a value of the space; None if it is no value of it."""
    dimension = options.space.get(path) if options else None
    parameter = dimension.to_param_value(value) if dimension else None
    # 1 and 1.0 are the same point.
    return parameter if parameter is None or isinstance(parameter, str) else f"{parameter:.12g}"
