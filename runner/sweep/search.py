"""The search of a sweep: proposes trials from each arm in turn, within budgets, and tracks the best point."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from runner.errors import DataError
from runner.resolved_plan import PlanResolver, Trial
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.sweep_section import SweepOptions
from runner.spec.variants import SweepVariants
from runner.spec.yaml_layers import Tree
from runner.stages import Reporter
from runner.sweep.study import ArmStudy, open_study_storage, studies_by_arm
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.run_trial import Status
from runner.trial_factory import SweepPoint, TrialFactory, keep_spec


@dataclass(frozen=True)
class SearchResult:
    """How a trial ended.

    Attributes:
        status: The trial's status.
        value: The value of the objective; None if the trial has none, NaN if its training diverged.
    """

    status: Status
    value: float | None

    @property
    def has_diverged(self) -> bool:
        """Whether the trial failed because its training diverged."""
        return self.status == "failed" and self.value is not None and not math.isfinite(self.value)

    @property
    def is_final(self) -> bool:
        """Whether the search can use the result. Other failed trials and interrupted trials run again instead."""
        return self.status in {"finished", "pruned"} or self.has_diverged


class Search:
    """Proposes the trials of a sweep; see `runner.sweep.trial_source.TrialSource`.

    The objective of a point is the mean over its seeds. A point with a seed whose training diverged has no value, and
    counts as the worst point. With pruning, the first seed of a point decides: the other seeds follow once it has
    finished, and are left out if it is pruned or diverges.
    """

    def __init__(self, factory: TrialFactory, folder: Path) -> None:
        """Start a search, or resume it.

        Args:
            factory: Creates the trials.
            folder: The folder `sweep` in the experiment's folder, next to the run directories. This process must hold
                its lock.

        Raises:
            SpecError: Predetermined points combine values that are not valid together.
        """
        self._factory, self._sweep = factory, factory.variants.sweep
        self._experiment_folder = folder.parent
        storage = open_study_storage(folder)
        earlier_arms = list(studies_by_arm(storage))
        self._arms = [ArmStudy(factory, name, storage) for name in factory.variants.arms]
        self._dropped = [message for arm in self._arms for message in arm.dropped]
        if any(arm.is_new for arm in self._arms):
            removed = [name for name in earlier_arms if name not in factory.variants.arms]
            self._dropped += [f"dropped {'all points' if name is None else f'the arm {name}'}" for name in removed]
        self._proposed: dict[str, Trial] = {}
        self._results: dict[str, SearchResult] = {}
        self._max_trials = factory.max_trials()
        self._earlier_seconds, self._started = self._arms[0].seconds, time.monotonic()

    def ask(self) -> Trial | None:
        """Return the next trial to run; see `TrialSource`."""
        if self._sweep.parallel is not None and self._num_running >= self._sweep.parallel:
            return None
        trial = next(self._pending_trials(), None)
        if trial is None and not self._is_budget_spent():
            self._propose_points()
            trial = next(self._pending_trials(), None)
        if trial is not None:
            self._proposed[trial.name] = trial
        return trial

    @property
    def _num_running(self) -> int:
        return len(self._proposed.keys() - self._results.keys())

    def _points(self) -> Iterator[tuple[ArmStudy, SweepPoint]]:
        """Iterate over all points: the first point of each arm, then the second of each, and so on."""
        points = [(point.number, index, arm, point) for index, arm in enumerate(self._arms) for point in arm]
        yield from ((arm, point) for _, _, arm, point in sorted(points, key=lambda row: row[:2]))

    def _pending_trials(self) -> Iterator[Trial]:
        """Yield the trials of existing points that can run now. With the budget spent, yield only finished ones."""
        is_spent = self._is_budget_spent()
        for _, point in self._points():
            for trial in self._runnable_trials(point):
                if trial.name not in self._proposed and (not is_spent or self._is_finished(trial)):
                    yield trial

    def _is_finished(self, trial: Trial) -> bool:
        return RunDirectory(self._experiment_folder / trial.name).is_finished("score")

    def _runnable_trials(self, point: SweepPoint) -> tuple[Trial, ...]:
        """The trials of a point that need not wait for its first one."""
        if self._sweep.pruning is None:
            return point.trials
        first = self._results.get(point.trials[0].name)
        return point.trials if first and first.status == "finished" else point.trials[:1]

    def _propose_points(self) -> None:
        """Let the arm with the fewest points propose one, until a point has a trial that was not proposed yet."""
        while arm := min(
            (arm for arm in self._arms if not arm.is_exhausted and self._fits_budget(arm)),
            key=lambda arm: len(arm.points),
            default=None,
        ):
            point = arm.propose_point()
            if point is not None:
                self._tell_study(arm, point)
                if any(trial.name not in self._proposed for trial in point.trials):
                    return

    def _fits_budget(self, arm: ArmStudy) -> bool:
        """Whether the arm's budget allows another point with all its seeds."""
        limit = self._sweep.budget.trials
        num_seeds = len(self._sweep.seeds or (0,))
        return limit is None or sum(self._num_trials(point) for point in arm) + num_seeds <= limit

    def _num_trials(self, point: SweepPoint) -> int:
        """The number of trials that a point takes: one if its first trial ended it."""
        return 1 if self._is_ended_by_first(point) else len(point.trials)

    def _is_ended_by_first(self, point: SweepPoint) -> bool:
        """Whether the first trial of a point was pruned, or has diverged in a sweep with pruning."""
        first = self._results.get(point.trials[0].name)
        return first is not None and (
            first.status == "pruned" or (self._sweep.pruning is not None and first.has_diverged)
        )

    def _is_budget_spent(self) -> bool:
        """Whether a budget of the whole sweep is spent."""
        budget = self._sweep.budget
        failures = sum(not result.is_final and result.status == "failed" for result in self._results.values())
        return bool(
            (budget.failures and failures >= budget.failures)
            or (budget.hours and self._hours() >= budget.hours)
            or (budget.gpu_hours and self._gpu_hours() >= budget.gpu_hours)
        )

    def _hours(self) -> float:
        return (self._earlier_seconds + time.monotonic() - self._started) / 3600

    def _gpu_hours(self) -> float:
        """The GPU hours of the ended trials, from the records of their last launch; a damaged record counts as none."""
        total = 0.0
        for name in self._results:
            compute = self._proposed[name].plan.spec.compute
            try:
                steps = RunDirectory(self._experiment_folder / name).read_record().get("steps", {})
            except DataError:  # The launch has reported it as the trial's error.
                continue
            total += sum(step["seconds"] for step in steps.values()) * compute.workers * compute.gpus_per_worker
        return total / 3600

    def done(self) -> bool:
        """Whether no further trial will be proposed; see `TrialSource`."""
        if next(self._pending_trials(), None) is not None:
            return False
        if self._num_running and self._sweep.pruning is not None:
            return False  # other seeds of a point may follow, or pruning may free budget
        return self._is_budget_spent() or not any(self._fits_budget(arm) and not arm.is_exhausted for arm in self._arms)

    def report(self, trial: Trial, step: int, values: Mapping[str, float]) -> bool:
        """Record the objective of a running trial; see `TrialSource`."""
        objective = self._sweep.objective
        if self._sweep.pruning is None or objective is None or objective.metric not in values:
            return False
        started_by = [(arm, point) for arm, point in self._points() if point.trials[0].name == trial.name]
        return any([arm.report(point, step, values[objective.metric]) for arm, point in started_by])

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], validation: Mapping[str, float]
    ) -> None:
        """Record the end of a trial; see `TrialSource`."""
        objective = self._sweep.objective
        value = validation.get(objective.metric) if objective and status in {"finished", "failed"} else None
        self._proposed.setdefault(trial.name, trial)
        self._results[trial.name] = SearchResult(status, value)
        for arm, point in self._points():
            if any(point_trial.name == trial.name for point_trial in point.trials):
                self._tell_study(arm, point)
        if self._sweep.budget.hours:
            self._arms[0].seconds = self._hours() * 3600

    def _tell_study(self, arm: ArmStudy, point: SweepPoint) -> None:
        """Tell the study of a point whose trials have all ended."""
        results = [self._results.get(trial.name) for trial in point.trials]
        if results[0] is not None and results[0].status == "pruned":
            arm.tell(point, None, is_pruned=True)
        elif self._is_ended_by_first(point):
            arm.tell(point, None)
        elif self._sweep.objective is not None and all(result and result.is_final for result in results):
            arm.tell(point, self._mean_objective(point))

    def _mean_objective(self, point: SweepPoint) -> float | None:
        """The mean of the objective over a point's seeds; None until every seed has finished with a finite value."""
        results = [self._results[trial.name] for trial in point.trials if trial.name in self._results]
        values = [result.value for result in results if result.status == "finished"]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return fmean(finite) if len(finite) == len(point.trials) else None

    def summary(self) -> Mapping[str, Any]:
        """Summarize the search so far; see `TrialSource`."""
        objective = self._sweep.objective
        return {
            "expected": self._max_trials,
            "objective": objective.model_dump() if objective else None,
            "best": self._best_point(),
            "dropped": self._dropped,
            "refused": [message for arm in self._arms for message in arm.refused],
        }

    def _best_point(self) -> dict[str, Any] | None:
        points = [(value, point) for _, point in self._points() if (value := self._mean_objective(point)) is not None]
        if not points or self._sweep.objective is None:
            return None
        choose = max if self._sweep.objective.mode == "max" else min
        value, point = choose(points, key=lambda row: row[0])
        parameters = self._factory.variants.display_values(point.arm, point.parameters)
        names = [trial.name for trial in point.trials]
        return {"group": point.group, "value": value, "parameters": parameters, "trials": names}


def open_search(
    tree: Tree,
    sweep: SweepOptions,
    folder: Path,
    reporter: Reporter,
    adjust: Callable[[ExperimentSpec], ExperimentSpec] = keep_spec,
) -> Search:
    """Start the search of a sweep, or resume it.

    Args:
        tree: The spec as read (`LoadedSpec.tree`).
        sweep: The sweep section of the spec, or a smaller one (`runner.resolved_plan.smoke_spec`).
        folder: The folder `sweep` in the experiment's folder. This process must hold its lock.
        reporter: Receives the progress of data sets that are built.
        adjust: Applied to the spec of each trial, such as `runner.resolved_plan.smoke_spec`.

    Raises:
        SpecError: Predetermined points combine values that are not valid together.
        DataError: A data set is missing or broken.
        RequirementError: A model's checkpoint is not available.
    """
    return Search(TrialFactory(SweepVariants(tree, sweep), PlanResolver(reporter), adjust), folder)
