"""A point of a sweep, and the trials that it is: one for each seed, composed from the spec and resolved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import Problem, SpecError
from runner.plan import Survey, Trial, trial_name
from runner.spec.check import check
from runner.spec.dimension import Drawn
from runner.spec.models import ExperimentSpec
from runner.spec.variants import Variants


@dataclass(frozen=True)
class Point:
    """One setting that is tried.

    Attributes:
        arm: The arm that it belongs to; None where there are no arms.
        number: Its place among the points of its arm, from 0.
        parameters: What was drawn for each path of the space, labels for values that are no numbers.
        trials: One for each seed, in the order of the seeds.
    """

    arm: str | None
    number: int
    parameters: Mapping[str, Drawn]
    trials: tuple[Trial, ...]

    @property
    def group(self) -> str:
        """What its trials have in common, by name."""
        return self.trials[0].group


def as_it_is(spec: ExperimentSpec) -> ExperimentSpec:
    """Adjust nothing."""
    return spec


@dataclass(frozen=True)
class Composer:
    """Makes the trials of a sweep.

    Attributes:
        swept: The spec and its sweep.
        survey: What is known of data sets and models.
        adjust: Applied to the spec of each trial, such as `runner.plan.smoke`.
    """

    swept: Variants
    survey: Survey
    adjust: Callable[[ExperimentSpec], ExperimentSpec] = as_it_is

    def point(self, arm: str | None, number: int, parameters: Mapping[str, Drawn]) -> Point:
        """Compose the trials of a point.

        Raises:
            SpecError: The values are each right, and do not go together.
        """
        seeds: Iterable[int | None] = self.swept.sweep.seeds or (None,)
        group = self.group(arm, number)
        return Point(arm, number, parameters, tuple(self._trial(arm, parameters, seed, group) for seed in seeds))

    def _trial(self, arm: str | None, parameters: Mapping[str, Drawn], seed: int | None, group: str) -> Trial:
        spec = check(self.swept.compose(arm, parameters, seed), ExperimentSpec)
        plan = self.survey.resolve(self.adjust(spec))
        return Trial(trial_name(plan), plan, self.swept.shown(arm, parameters, seed), group, arm or "")

    def refuse(self, arm: str | None, points: Iterable[Mapping[str, Drawn]]) -> None:
        """Check that the values of points go together.

        Raises:
            SpecError: With what is wrong with all of them, each mistake once.
        """
        problems: dict[Problem, None] = {}
        for parameters in points:
            try:
                check(self.swept.compose(arm, parameters), ExperimentSpec)
            except SpecError as error:
                problems |= dict.fromkeys(error.problems)
        if problems:
            raise SpecError(list(problems))

    def group(self, arm: str | None, number: int) -> str:
        """Name a point: by its arm, and by its number where an arm has several."""
        numbered = f"point-{number + 1}" if arm is None else f"{arm}-{number + 1}"
        return numbered if self.swept.sweep.space or arm is None else arm

    def known(self, arm: str | None) -> list[dict[str, Drawn]]:
        """The points that are known before any result: those to try first, and all of a grid, each once."""
        sweep = self.swept.sweep
        first = [self.swept.place(arm, written) for written in sweep.first]
        grid = self.swept.grid(arm) if sweep.search.type == "grid" else ()
        return unique([*first, *grid])

    def expected(self) -> int | None:
        """How many trials there are at most; None where only time ends the sweep. Pruning leaves some seeds out."""
        sweep = self.swept.sweep
        seeds = len(sweep.seeds or (0,))
        within = sweep.budget.trials // seeds if sweep.budget.trials else None
        total = 0
        for arm in self.swept.arms:
            limits = [limit for limit in (self.num_points(arm), within) if limit is not None]
            if not limits:
                return None
            total += min(limits) * seeds
        return total

    def num_points(self, arm: str | None) -> int | None:
        """How many different points an arm has; None where there is no end of them, or conditions hide it."""
        sweep = self.swept.sweep
        if sweep.search.type == "grid":
            return len(self.known(arm))
        values = [dimension.values() for dimension in sweep.space.values()]
        if any(dimension.when for dimension in sweep.space.values()):
            return None
        return math.prod(len(each or ()) for each in values) or None


def unique(points: Iterable[Mapping[str, Drawn]]) -> list[dict[str, Drawn]]:
    """Keep the first of equal points."""
    return [dict(each) for each in {frozen(point): point for point in points}.values()]


def frozen(parameters: Mapping[str, Drawn]) -> frozenset[tuple[str, Any]]:
    """A point as something that can be looked up."""
    return frozenset(parameters.items())
