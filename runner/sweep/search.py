"""The search of a sweep: arms in turn, points that are repeated with each seed, budgets, the best so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from runner.plan import PlanResolver, Trial
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.sweep_section import SweepOptions
from runner.spec.tree import Tree
from runner.spec.variants import Variants
from runner.stages import Reporter
from runner.sweep.study import ArmStudy, open_journal, studies_by_arm
from runner.trial.run_directory import RunDirectory
from runner.trial.run_trial import Status
from runner.trial_factory import SweepPoint, TrialFactory, unchanged


@dataclass(frozen=True)
class End:
    """How a trial ended.

    Attributes:
        status: Its status.
        value: The objective's, where it has one.
    """

    status: Status
    value: float | None


class Search:
    """Proposes the trials of a sweep; see `runner.sweep.trial_source.TrialSource`.

    A point's objective is the mean over its seeds. With pruning, a point goes by its first seed: the others are asked
    once that one has finished, and never where it was pruned.
    """

    def __init__(self, composer: TrialFactory, folder: Path) -> None:
        """Take up a search, or begin it.

        Args:
            composer: Makes trials.
            folder: `sweep` in the experiment's folder, where the trials' folders are; this process holds it.

        Raises:
            SpecError: Points that are known beforehand have values that do not go together.
        """
        self._composer, self._sweep = composer, composer.swept.sweep
        self._runs = folder.parent
        storage = open_journal(folder)
        earlier = studies_by_arm(storage)
        self._arms = [ArmStudy(composer, name, storage) for name in composer.swept.arms]
        self._dropped = [told for arm in self._arms for told in arm.dropped]
        if any(arm.is_new for arm in self._arms):
            gone = [name for name in earlier if name not in composer.swept.arms]
            self._dropped += [f"dropped {'all points' if name is None else f'the arm {name}'}" for name in gone]
        self._asked: dict[str, Trial] = {}
        self._ended: dict[str, End] = {}
        self._expected = composer.expected()
        self._before, self._began = self._arms[0].seconds, time.monotonic()

    def ask(self) -> Trial | None:
        """Give the next trial to run; see `Proposals`."""
        if self._sweep.parallel is not None and self._num_open >= self._sweep.parallel:
            return None
        trial = next(self._waiting(), None)
        if trial is None and not self._spent():
            self._propose()
            trial = next(self._waiting(), None)
        if trial is not None:
            self._asked[trial.name] = trial
        return trial

    @property
    def _num_open(self) -> int:
        return len(self._asked.keys() - self._ended.keys())

    def _points(self) -> Iterator[tuple[ArmStudy, SweepPoint]]:
        """All points, the first of each arm before the second of any."""
        several = [(point.number, place, arm, point) for place, arm in enumerate(self._arms) for point in arm]
        yield from ((arm, point) for _, _, arm, point in sorted(several, key=lambda each: each[:2]))

    def _waiting(self) -> Iterator[Trial]:
        """What is to be asked now, of the points that were proposed; what is finished, whatever is spent."""
        spent = self._spent()
        for _, point in self._points():
            for trial in self._ready(point):
                if trial.name not in self._asked and not (spent and not self._is_finished(trial)):
                    yield trial

    def _is_finished(self, trial: Trial) -> bool:
        return RunDirectory(self._runs / trial.name).finished("score")

    def _ready(self, point: SweepPoint) -> tuple[Trial, ...]:
        """The trials of a point that need not wait for its first."""
        if self._sweep.pruning is None:
            return point.trials
        first = self._ended.get(point.trials[0].name)
        return point.trials if first and first.status == "finished" else point.trials[:1]

    def _propose(self) -> None:
        """Make the next point, of the arm that has fewest; where a point is only what was run before, one more."""
        while arm := min(
            (arm for arm in self._arms if not arm.exhausted and self._within(arm)),
            key=lambda arm: len(arm.points),
            default=None,
        ):
            point = arm.propose()
            if point is not None:
                self._settle(arm, point)
                if any(trial.name not in self._asked for trial in point.trials):
                    return

    def _within(self, arm: ArmStudy) -> bool:
        """Whether an arm's budget has room for a point with all its seeds."""
        limit = self._sweep.budget.trials
        num_seeds = len(self._sweep.seeds or (0,))
        return limit is None or sum(self._num_trials(point) for point in arm) + num_seeds <= limit

    def _num_trials(self, point: SweepPoint) -> int:
        """How many trials a point is: one, where it was pruned."""
        first = self._ended.get(point.trials[0].name)
        return 1 if first and first.status == "pruned" else len(point.trials)

    def _spent(self) -> bool:
        """Whether a budget of the whole sweep is spent."""
        budget = self._sweep.budget
        failures = sum(end.status == "failed" for end in self._ended.values())
        return bool(
            (budget.failures and failures >= budget.failures)
            or (budget.hours and self._hours() >= budget.hours)
            or (budget.gpu_hours and self._gpu_hours() >= budget.gpu_hours)
        )

    def _hours(self) -> float:
        return (self._before + time.monotonic() - self._began) / 3600

    def _gpu_hours(self) -> float:
        """Hours of GPUs of the trials that ended, by the records of their last launch."""
        total = 0.0
        for name in self._ended:
            compute = self._asked[name].plan.spec.compute
            steps = RunDirectory(self._runs / name).read_record().get("steps", {})
            total += sum(step["seconds"] for step in steps.values()) * compute.workers * compute.gpus_per_worker
        return total / 3600

    def done(self) -> bool:
        """Whether nothing will be asked any more; see `Proposals`."""
        if next(self._waiting(), None) is not None:
            return False
        if self._num_open and self._sweep.pruning is not None:
            return False  # A point's other seeds may follow, or its pruning leave room in the budget.
        return self._spent() or not any(self._within(arm) and not arm.exhausted for arm in self._arms)

    def report(self, trial: Trial, step: int, values: Mapping[str, float]) -> bool:
        """Note the objective of a trial that trains; see `Proposals`."""
        objective = self._sweep.objective
        if self._sweep.pruning is None or objective is None or objective.metric not in values:
            return False
        first = [(arm, point) for arm, point in self._points() if point.trials[0].name == trial.name]
        return any([arm.report(point, step, values[objective.metric]) for arm, point in first])

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], validation: Mapping[str, float]
    ) -> None:
        """Take note of a trial's end; see `Proposals`."""
        objective = self._sweep.objective
        value = validation.get(objective.metric) if objective and status == "finished" else None
        self._asked.setdefault(trial.name, trial)
        self._ended[trial.name] = End(status, value)
        for arm, point in self._points():
            if any(each.name == trial.name for each in point.trials):
                self._settle(arm, point)
        if self._sweep.budget.hours:
            self._arms[0].seconds = self._hours() * 3600

    def _settle(self, arm: ArmStudy, point: SweepPoint) -> None:
        """Tell the study of a point, once all its trials have ended; what failed or was interrupted is run again."""
        ends = [self._ended.get(trial.name) for trial in point.trials]
        if ends[0] is not None and ends[0].status == "pruned":
            arm.end(point, None, pruned=True)
        elif self._sweep.objective is not None and all(end is not None and end.status == "finished" for end in ends):
            arm.end(point, self._value(point))

    def _value(self, point: SweepPoint) -> float | None:
        """The mean of the objective over a point's seeds; None before all have one that is a number."""
        values = [self._ended[trial.name].value for trial in point.trials if trial.name in self._ended]
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        return fmean(numbers) if len(numbers) == len(point.trials) else None

    def summary(self) -> Mapping[str, Any]:
        """What is known so far; see `Proposals`."""
        objective = self._sweep.objective
        return {
            "expected": self._expected,
            "objective": objective.model_dump() if objective else None,
            "best": self._best(),
            "dropped": self._dropped,
            "refused": [told for arm in self._arms for told in arm.refused],
        }

    def _best(self) -> dict[str, Any] | None:
        valued = [(value, point) for _, point in self._points() if (value := self._value(point)) is not None]
        if not valued or self._sweep.objective is None:
            return None
        choose = max if self._sweep.objective.mode == "max" else min
        value, point = choose(valued, key=lambda each: each[0])
        parameters = self._composer.swept.shown(point.arm, point.parameters)
        names = [trial.name for trial in point.trials]
        return {"group": point.group, "value": value, "parameters": parameters, "trials": names}


def open_search(
    tree: Tree,
    sweep: SweepOptions,
    folder: Path,
    reporter: Reporter,
    adjust: Callable[[ExperimentSpec], ExperimentSpec] = unchanged,
) -> Search:
    """Take up the search of a sweep, or begin it.

    Args:
        tree: The spec as read (`LoadedSpec.tree`).
        sweep: Its sweep, or a smaller one (`runner.plan.smoke`).
        folder: `sweep` in the experiment's folder; this process holds it.
        reporter: Told of data that are made on the way.
        adjust: Applied to the spec of each trial, such as `runner.plan.smoke`.

    Raises:
        SpecError: Points that are known beforehand have values that do not go together.
        DataError: A data set is missing or broken.
        UnmetError: A model's checkpoint cannot be had.
    """
    return Search(TrialFactory(Variants(tree, sweep), PlanResolver(reporter), adjust), folder)
