"""Creates the trials of a sweep: a point of the search space, resolved into one trial per seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from runner.errors import Problem, SpecError
from runner.resolved_plan import PlanResolver, Trial, trial_name
from runner.spec.check import check_spec
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.sweep_section import ParamValue

if TYPE_CHECKING:
    from runner.spec.variants import SweepVariants


@dataclass(frozen=True)
class ScoredTrial:
    """The parameters and the objective of a trial.

    Attributes:
        parameters: The values by dotted path.
        value: The value of the objective.
    """

    parameters: Mapping[str, Any]
    value: float


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Abbreviate each dotted path to its last parts, as few as keep the names unique."""
    names = {}
    for path in paths:
        parts = path.split(".")
        suffixes = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[path] = next(
            (suffix for suffix in suffixes if sum(f".{other}".endswith(f".{suffix}") for other in paths) == 1), path
        )
    return names


@dataclass(frozen=True)
class SweepPoint:
    """One point of the search space with its trials.

    Attributes:
        arm: The arm that it belongs to; None if there are no arms.
        number: Its index among the points of its arm, from 0.
        parameters: The value of each path of the space: a number or a label.
        trials: One trial for each seed, in the order of the seeds.
    """

    arm: str | None
    number: int
    parameters: Mapping[str, ParamValue]
    trials: tuple[Trial, ...]

    @property
    def group(self) -> str:
        """The name that its trials share."""
        return self.trials[0].group


def keep_spec(spec: ExperimentSpec) -> ExperimentSpec:
    """Return the spec unchanged."""
    return spec


@dataclass(frozen=True)
class TrialFactory:
    """Creates the trials of a sweep.

    Attributes:
        variants: The spec and its sweep.
        resolver: Resolves the specs of trials to plans.
        adjust: Applied to the spec of each trial, such as `runner.resolved_plan.smoke_spec`.
    """

    variants: SweepVariants
    resolver: PlanResolver
    adjust: Callable[[ExperimentSpec], ExperimentSpec] = keep_spec

    def point(self, arm: str | None, number: int, parameters: Mapping[str, ParamValue]) -> SweepPoint:
        """Create the trials of a point.

        Raises:
            SpecError: The values are each valid but conflict with one another.
        """
        seeds: Iterable[int | None] = self.variants.sweep.seeds or (None,)
        group = self.group(arm, number)
        return SweepPoint(arm, number, parameters, tuple(self._trial(arm, parameters, seed, group) for seed in seeds))

    def _trial(self, arm: str | None, parameters: Mapping[str, ParamValue], seed: int | None, group: str) -> Trial:
        spec = check_spec(self.variants.compose(arm, parameters, seed), ExperimentSpec)
        plan = self.resolver.resolve(self.adjust(spec))
        return Trial(trial_name(plan), plan, self.variants.display_values(arm, parameters, seed), group, arm or "")

    def check_points(self, arm: str | None, points: Iterable[Mapping[str, ParamValue]]) -> None:
        """Check that the values of each point do not conflict with one another.

        Raises:
            SpecError: Values conflict; with the problems of all points, each problem once.
        """
        problems: dict[Problem, None] = {}
        for parameters in points:
            try:
                check_spec(self.variants.compose(arm, parameters), ExperimentSpec)
            except SpecError as error:
                problems |= dict.fromkeys(error.problems)
        if problems:
            raise SpecError(list(problems))

    def group(self, arm: str | None, number: int) -> str:
        """Return the name of a point: its arm, and its number if an arm has several points."""
        name = f"point-{number + 1}" if arm is None else f"{arm}-{number + 1}"
        return name if self.variants.sweep.space or arm is None else arm

    def predetermined_points(self, arm: str | None) -> list[dict[str, ParamValue]]:
        """List the points that do not depend on results, without duplicates: enqueued points and all of a grid."""
        sweep = self.variants.sweep
        enqueued = [self.variants.parse_point(arm, point) for point in sweep.enqueue]
        grid = self.variants.grid_points(arm) if sweep.search.type == "grid" else ()
        unique = {point_key(point): point for point in (*enqueued, *grid)}
        return [dict(point) for point in unique.values()]

    def max_trials(self) -> int | None:
        """Return the maximum number of trials; None if only time limits the sweep. Pruning can skip some seeds."""
        sweep = self.variants.sweep
        seeds = len(sweep.seeds or (0,))
        point_limit = sweep.budget.trials // seeds if sweep.budget.trials else None
        total = 0
        for arm in self.variants.arms:
            limits = [limit for limit in (self.num_points(arm), point_limit) if limit is not None]
            if not limits:
                return None
            total += min(limits) * seeds
        return total

    def num_points(self, arm: str | None) -> int | None:
        """Return the number of points of an arm; None if it is infinite, or unknown because of conditions."""
        sweep = self.variants.sweep
        if sweep.search.type == "grid":
            return len(self.predetermined_points(arm))
        values = [dimension.values() for dimension in sweep.space.values()]
        if any(dimension.when for dimension in sweep.space.values()):
            return None
        return math.prod(len(dimension_values or ()) for dimension_values in values) or None


def point_key(parameters: Mapping[str, ParamValue]) -> frozenset[tuple[str, Any]]:
    """Return a hashable key of a point."""
    return frozenset(parameters.items())


def predetermined_trials(factory: TrialFactory) -> list[Trial]:
    """List the trials that do not depend on results: all of a grid, else the enqueued ones; arms alternate.

    Raises:
        SpecError: Values conflict with one another; with all problems.
        DataError: A data set is missing or broken.
        RequirementError: A model's checkpoint is not available.
    """
    sweep = factory.variants.sweep
    limit = sweep.budget.trials // len(sweep.seeds or (0,)) if sweep.budget.trials else None
    by_arm = []
    for arm in factory.variants.arms:
        predetermined = factory.predetermined_points(arm)[:limit]
        factory.check_points(arm, predetermined)
        by_arm.append([factory.point(arm, number, parameters) for number, parameters in enumerate(predetermined)])
    points = [point for row in zip_longest(*by_arm) for point in row if point is not None]
    return list({trial.name: trial for point in points for trial in point.trials}.values())


def describe_sweep(factory: TrialFactory) -> dict[str, Any]:
    """Describe a sweep as plain data.

    Returns:
        `num_trials`: the maximum number, None if only time limits the sweep; `space`: a description of the values of
        each path; `arms`: the values that each arm sets; `seeds`, `search`, `pruning`, `objective`, `budget`: as in the
        spec, with every default written out.
    """
    sweep = factory.variants.sweep
    return {
        "num_trials": factory.max_trials(),
        "space": {name: str(dimension) for name, dimension in sweep.space.items()},
        "arms": {arm: factory.variants.display_values(arm, {}) for arm in sweep.arms},
        **sweep.model_dump(mode="json", include={"seeds", "search", "pruning", "objective", "budget"}),
    }
