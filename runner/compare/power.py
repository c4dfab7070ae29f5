"""Power: how many test samples and seeds find a difference, and which difference a study can find.

The variance of a difference between two arms, with n test samples and K runs with different seeds of each arm, is

    (samples + interaction / K) / n + seeds / K

(for test questions that are answered several times, Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640).
More seeds do not reduce the first part, and more test samples do not reduce the last one. The power is that of the test
of `runner.compare.variance_components.both_sources`. Without seeds, this is a t-test, whose power is given
by the noncentral t distribution (Cohen 1988). `bench/power.py` measures how often studies of the computed sizes find
the difference.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from runner.compare.statistics import PairedTest
from runner.compare.variance_components import SeedVariance, VarianceComponents

Floats = NDArray[np.float64]

MAX_SAMPLES = 1_000_000
"""A larger number of test samples is reported as impossible."""
MAX_SEEDS = 1_000
"""A larger number of seeds is reported as impossible."""
SEED_CHOICES = (2, 3, 5, 10)
"""Numbers of seeds for which a plan gives the number of test samples."""
QUANTILES = (np.arange(500) + 0.5) / 500
"""The quantiles at which the distribution of an estimated variance is evaluated: the power is then exact to about
0.001."""
ARM_QUANTILES = (np.arange(25) + 0.5) / 25
"""The same for each of two arms, whose estimates are independent: all pairs of these are evaluated."""
MIN_EFFECTIVE = 2.0
"""The smallest effective number of test samples: one alone has no variance."""


def samples_needed(
    difference: float, standard_error: float, num_samples: int, level: float, power: float
) -> int | None:
    """Return how many test samples find a difference between trained models, without regard to seeds.

    With z the quantile of the normal distribution, the number is `num_samples` times the square of
    (z(1 - level / 2) + z(power)) standard_error / difference (Miller 2024, arXiv 2411.00640).

    Args:
        difference: The true difference of the metric, with any sign.
        standard_error: The standard error of the difference over samples, as measured on `num_samples` samples.
        num_samples: Number of these samples.
        level: Level of the two-sided test, such as 0.05.
        power: The probability of finding the difference, such as 0.8.

    Returns:
        None if no number up to `MAX_SAMPLES` suffices, as for a difference of 0.

    Raises:
        ValueError: The standard error is negative, there are no samples, or level or power is not between 0 and 1.
    """
    _check(standard_error, num_samples, level, power)
    if not difference:
        return None
    factor = float(stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power))
    number = num_samples * (max(factor, 0.0) * standard_error / difference) ** 2
    return max(math.ceil(number), 1) if number <= MAX_SAMPLES else None


def seeds_needed(difference: float, standard_error: float, num_seeds: int, level: float, power: float) -> int | None:
    """Return how many seeds of each arm find a difference between training methods on the same test samples.

    This is the smallest number at which a t-test with 2 (number - 1) degrees of freedom has the power.

    Args:
        difference: The true difference of the metric, with any sign.
        standard_error: The standard error of the difference over seeds, as measured with `num_seeds` seeds of each arm.
        num_seeds: Number of these seeds.
        level: Level of the two-sided test, such as 0.05.
        power: The probability of finding the difference, such as 0.8.

    Returns:
        At least 2; None if no number up to `MAX_SEEDS` suffices, as for a difference of 0.

    Raises:
        ValueError: The standard error is negative, there are no seeds, or level or power is not between 0 and 1.
    """
    _check(standard_error, num_seeds, level, power)

    def is_enough(number: int) -> bool:
        test = planned_t_test(standard_error * math.sqrt(num_seeds / number), 2.0 * (number - 1), level)
        return power_to_find(difference, test) >= power

    return _smallest(is_enough, 2, MAX_SEEDS)


def _check(standard_error: float, number: int, level: float, power: float) -> None:
    if not (standard_error >= 0 and number >= 1 and 0 < level < 1 and 0 < power < 1):
        raise ValueError(f"invalid {standard_error=}, {number=}, {level=} or {power=}")


def _smallest(is_enough: Callable[[int], bool], lowest: int, highest: int) -> int | None:
    """Return the smallest number that is enough, if all larger ones are; None if the highest is not."""
    if not is_enough(highest):
        return None
    return lowest + bisect_left(range(lowest, highest), True, key=is_enough)


@dataclass(frozen=True)
class PlannedTest:
    """A test of a future study.

    Attributes:
        standard_error: The true standard error of the difference.
        critical: The smallest difference that is significant, for equally probable estimates of the variance.
    """

    standard_error: float
    critical: Floats


def planned_t_test(standard_error: float, freedom: float, level: float) -> PlannedTest:
    """Plan a two-sided t-test whose variance is estimated with these degrees of freedom."""
    estimates = np.sqrt(stats.chi2.ppf(QUANTILES, freedom) / freedom)
    return PlannedTest(standard_error, stats.t.ppf(1 - level / 2, freedom) * estimates * standard_error)


def power_to_find(difference: float, test: PlannedTest) -> float:
    """Return the probability that a test finds a true difference of this size: its mean over the estimated variances.

    A t-test then has the power of the noncentral t distribution. Scipy's own function for it is not used: it is not a
    number for some large arguments, and a search for a number of samples tries these.
    """
    if not test.standard_error:
        return 1.0 if difference else 0.0
    critical, shift = test.critical / test.standard_error, abs(difference) / test.standard_error
    return float(np.mean(stats.norm.sf(critical - shift) + stats.norm.sf(critical + shift)))


def smallest_difference(test: PlannedTest, power: float) -> float:
    """Return the smallest true difference that a test finds with this probability; 0 if it finds any."""

    def missing(size: float) -> float:
        return power_to_find(size * test.standard_error, test) - power

    if not test.standard_error or missing(0.0) >= 0:
        return 0.0
    high = 1.0
    while missing(high) < 0:
        high *= 2
    return test.standard_error * float(optimize.brentq(missing, 0, high, xtol=1e-6))


@dataclass(frozen=True)
class ErrorModel:
    """How the standard error of a difference depends on the numbers of test samples and seeds.

    Attributes:
        samples: Variance of the difference over samples, without interaction, on `num_samples` samples.
        groups: The variances over seeds in both arms, on `num_samples` samples; None if nothing is known of the seeds.
        num_samples: Number of test samples for which these variances hold.
        effective_share: The effective number of clusters for each test sample; 1 without clusters.
    """

    samples: float
    groups: tuple[SeedVariance, SeedVariance] | None
    num_samples: int
    effective_share: float = 1.0

    @classmethod
    def from_components(cls, components: VarianceComponents, num_samples: int) -> ErrorModel:
        """Make the model from the variances of a pilot study with this number of test samples."""
        groups = components.varying_groups
        interaction = sum(group.interaction / group.num_runs for group in groups) if groups else 0.0
        samples = max(components.over_samples - interaction, 0.0)
        return cls(samples, groups, num_samples, components.num_effective / num_samples)

    def test(self, num_samples: int, num_seeds: int, level: float) -> PlannedTest:
        """Plan a study with these numbers of test samples, and of seeds of each arm, at a level."""
        scale = self.num_samples / num_samples
        freedom = max(self.effective_share * num_samples, MIN_EFFECTIVE) - 1
        if self.groups is None:
            return planned_t_test(math.sqrt(self.samples * scale), freedom, level)
        interaction = sum(group.interaction for group in self.groups) * scale / num_seeds
        of_seeds = [max(group.total - group.interaction, 0.0) for group in self.groups]
        over_seeds = [
            (own + group.interaction * scale) / num_seeds for own, group in zip(of_seeds, self.groups, strict=True)
        ]
        over_samples = self.samples * scale + interaction
        true_error = math.sqrt(over_samples + sum(of_seeds) / num_seeds)
        # What the study estimates of the seeds of each arm is uncertain, and decides its test as in `both_sources`.
        estimates = stats.chi2.ppf(ARM_QUANTILES, num_seeds - 1) / (num_seeds - 1)
        of_a, of_b = np.meshgrid(*(value * estimates for value in over_seeds))
        total = over_samples + np.maximum(of_a + of_b - interaction, 0)
        total_freedom = total**2 / (over_samples**2 / freedom + (of_a**2 + of_b**2) / (num_seeds - 1))
        return PlannedTest(true_error, (stats.t.ppf(1 - level / 2, total_freedom) * np.sqrt(total)).ravel())

    def samples_for(self, difference: float, num_seeds: int, level: float, power: float) -> int | None:
        """Return the smallest number of test samples that finds a difference with this number of seeds."""
        return _smallest(
            lambda number: power_to_find(difference, self.test(number, num_seeds, level)) >= power, 2, MAX_SAMPLES
        )

    def seeds_for(self, difference: float, num_samples: int, level: float, power: float) -> int | None:
        """Return the smallest number of seeds that finds a difference on this number of samples; None if unknown."""
        if self.groups is None:
            return None
        return _smallest(
            lambda number: power_to_find(difference, self.test(num_samples, number, level)) >= power, 2, MAX_SEEDS
        )


@dataclass(frozen=True)
class PowerGoal:
    """What a study must find.

    Attributes:
        difference: The true difference to find; None: only the smallest difference is computed.
        power: The probability of finding the difference.
        level: Level of the two-sided test.
    """

    difference: float | None = None
    power: float = 0.8
    level: float = 0.05


@dataclass(frozen=True)
class StudyPower:
    """The power of one comparison by one metric.

    Attributes:
        metric: The name of the metric.
        a: The name of the first arm.
        b: The name of the second arm.
        model: How its standard error depends on samples and seeds.
        num_samples: Number of test samples of the study; None: the study has no size yet.
        num_seeds: Number of seeds of each arm.
        goal: What the study must find.
    """

    metric: str
    a: Any
    b: Any
    model: ErrorModel
    num_samples: int | None
    num_seeds: int
    goal: PowerGoal

    @classmethod
    def from_pilot(
        cls, test: PairedTest, pilot_samples: int, goal: PowerGoal, num_samples: int | None, num_seeds: int | None
    ) -> StudyPower:
        """Plan a study from a comparison of pilot runs.

        Args:
            test: The comparison.
            pilot_samples: Number of test samples of the pilot runs.
            goal: What the study must find.
            num_samples: Number of test samples of the study; None: as in the pilot.
            num_seeds: Number of seeds of each arm; None: the smaller number of runs of both groups.
        """
        return cls(
            metric=test.metric,
            a=test.pair.a.value,
            b=test.pair.b.value,
            model=ErrorModel.from_components(test.components, pilot_samples),
            num_samples=num_samples or pilot_samples,
            num_seeds=num_seeds or min(len(test.pair.a.runs), len(test.pair.b.runs)),
            goal=goal,
        )

    @property
    def counts_seeds(self) -> bool:
        """Whether the effect of the seed is known."""
        return self.model.groups is not None

    @cached_property
    def test(self) -> PlannedTest | None:
        """The test of the study; None if it has no size yet."""
        return None if self.num_samples is None else self.model.test(self.num_samples, self.num_seeds, self.goal.level)

    @property
    def smallest_difference(self) -> float | None:
        """The smallest difference that the study finds with the probability of the goal."""
        return None if self.test is None else smallest_difference(self.test, self.goal.power)

    @property
    def power(self) -> float | None:
        """The probability that the study finds the difference of the goal."""
        if self.test is None or self.goal.difference is None:
            return None
        return power_to_find(self.goal.difference, self.test)

    @cached_property
    def samples_needed(self) -> int | None:
        """The number of test samples that finds the difference with the study's number of seeds."""
        return self._samples_for(self.num_seeds)

    @cached_property
    def seeds_needed(self) -> int | None:
        """The number of seeds of each arm that finds the difference on the study's test samples."""
        if self.goal.difference is None or self.num_samples is None:
            return None
        return self.model.seeds_for(self.goal.difference, self.num_samples, self.goal.level, self.goal.power)

    @cached_property
    def plans(self) -> list[tuple[int, int | None]]:
        """Numbers of seeds, each with the number of test samples that finds the difference; empty without either."""
        if self.goal.difference is None or not self.counts_seeds:
            return []
        return [(number, self._samples_for(number)) for number in SEED_CHOICES]

    def _samples_for(self, num_seeds: int) -> int | None:
        if self.goal.difference is None:
            return None
        return self.model.samples_for(self.goal.difference, num_seeds, self.goal.level, self.goal.power)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        return {
            "metric": self.metric,
            "a": self.a,
            "b": self.b,
            "num_samples": self.num_samples,
            "num_seeds": self.num_seeds,
            "counts_seeds": self.counts_seeds,
            "standard_error": None if self.test is None else self.test.standard_error,
            "smallest_difference": self.smallest_difference,
            "power": self.power,
            "samples_needed": self.samples_needed,
            "seeds_needed": self.seeds_needed,
            "plans": [{"seeds": seeds, "samples": samples} for seeds, samples in self.plans],
        }


@dataclass(frozen=True)
class AssumedRates:
    """Assumptions about a metric that is a share of right answers, such as accuracy.

    Attributes:
        a: The share of right answers of the first arm.
        b: The share of right answers of the second arm.
        correlation: The correlation between the answers of both arms to a sample, right (1) or wrong (0).
        cluster_size: Mean number of samples in the cluster of a sample; 1: no clusters.
        cluster_correlation: The correlation between two samples of a cluster, of the difference of both answers.
        seed_deviation: Standard deviation of a run's value over seeds; None or 0: the seeds are not considered.
    """

    a: float
    b: float
    correlation: float = 0.5
    cluster_size: float = 1.0
    cluster_correlation: float = 0.0
    seed_deviation: float | None = None

    def correlation_bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest correlation that is possible with these rates (Fréchet 1951)."""
        scale = math.sqrt(self.a * (1 - self.a) * self.b * (1 - self.b))
        if not scale:
            return 0.0, 0.0
        lowest, highest = max(0.0, self.a + self.b - 1), min(self.a, self.b)
        return (lowest - self.a * self.b) / scale, (highest - self.a * self.b) / scale

    def model(self, num_seeds: int) -> ErrorModel:
        """Return the model of the standard error.

        The variance of a sample's difference is that of two correlated binary answers, times the design effect
        1 + (cluster_size - 1) cluster_correlation (Kish 1965). The whole deviation over seeds counts as independent of
        the test samples, so that more samples do not reduce it.
        """
        variance_a, variance_b = self.a * (1 - self.a), self.b * (1 - self.b)
        paired = variance_a + variance_b - 2 * self.correlation * math.sqrt(variance_a * variance_b)
        design_effect = 1 + (self.cluster_size - 1) * self.cluster_correlation
        groups = None
        if self.seed_deviation:
            a, b = (SeedVariance(num_seeds, rate, self.seed_deviation**2, 0.0) for rate in (self.a, self.b))
            groups = (a, b)
        return ErrorModel(max(paired, 0.0) * design_effect, groups, 1, 1 / self.cluster_size)
