"""Creates the trials of a sweep: a point of the search space, resolved into one trial per seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from runner.errors import Problem, SpecError
from runner.plan import PlanResolver, Trial, trial_name
from runner.spec.check import check
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.sweep_section import Drawn
from runner.spec.variants import Variants


@dataclass(frozen=True)
class ScoredTrial:
    """A trial that has a value.

    Attributes:
        parameters: By dotted path.
        value: The objective's.
    """

    parameters: Mapping[str, Any]
    value: float


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Name each dotted path by its last parts, as few as tell it from the others."""
    names = {}
    for path in paths:
        parts = path.split(".")
        tails = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[path] = next(
            (tail for tail in tails if sum(f".{each}".endswith(f".{tail}") for each in paths) == 1), path
        )
    return names


@dataclass(frozen=True)
class SweepPoint:
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


def unchanged(spec: ExperimentSpec) -> ExperimentSpec:
    """Adjust nothing."""
    return spec


@dataclass(frozen=True)
class TrialFactory:
    """Makes the trials of a sweep.

    Attributes:
        swept: The spec and its sweep.
        survey: What is known of data sets and models.
        adjust: Applied to the spec of each trial, such as `runner.plan.smoke`.
    """

    swept: Variants
    survey: PlanResolver
    adjust: Callable[[ExperimentSpec], ExperimentSpec] = unchanged

    def point(self, arm: str | None, number: int, parameters: Mapping[str, Drawn]) -> SweepPoint:
        """Compose the trials of a point.

        Raises:
            SpecError: The values are each right, and do not go together.
        """
        seeds: Iterable[int | None] = self.swept.sweep.seeds or (None,)
        group = self.group(arm, number)
        return SweepPoint(arm, number, parameters, tuple(self._trial(arm, parameters, seed, group) for seed in seeds))

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
        first = [self.swept.place(arm, written) for written in sweep.enqueue]
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


def known_trials(composer: TrialFactory) -> list[Trial]:
    """List the trials that do not depend on results: of a grid all, else those to try first, arms in turn.

    Raises:
        SpecError: Their values do not go together; all mistakes.
        DataError: A data set is missing or broken.
        UnmetError: A model's checkpoint cannot be had.
    """
    sweep = composer.swept.sweep
    limit = sweep.budget.trials // len(sweep.seeds or (0,)) if sweep.budget.trials else None
    by_arm = []
    for arm in composer.swept.arms:
        known = composer.known(arm)[:limit]
        composer.refuse(arm, known)
        by_arm.append([composer.point(arm, number, parameters) for number, parameters in enumerate(known)])
    points = [point for row in zip_longest(*by_arm) for point in row if point is not None]
    return list({trial.name: trial for point in points for trial in point.trials}.values())


def describe_sweep(composer: TrialFactory) -> dict[str, Any]:
    """Describe a sweep.

    Returns:
        `num_trials`: at most, None where only time ends it; `space`: path to its values, in words; `arms`: name to what
        it sets; `seeds`; `search`, `pruning`, `objective`, `budget`: as in the spec, every default written out.
    """
    sweep = composer.swept.sweep
    told = sweep.model_dump(mode="json", include={"seeds", "search", "pruning", "objective", "budget"})
    return {
        "num_trials": composer.expected(),
        "space": {name: str(dimension) for name, dimension in sweep.space.items()},
        "arms": {arm: composer.swept.shown(arm, {}) for arm in sweep.arms},
        **told,
    }
