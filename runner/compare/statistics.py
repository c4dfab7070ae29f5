"""What few numbers can tell: means over seeds with their intervals, and p-values corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats


@dataclass(frozen=True)
class SeedSummary:
    """A figure over runs that differ in their seed.

    Attributes:
        mean: Over the runs.
        std: The sample's standard deviation, over n - 1; None of one run.
        low: Lower end of the t-interval of the mean; None of one run.
        high: Its upper end.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None


def over_seeds(values: Sequence[float], confidence: float) -> SeedSummary:
    """Summarise a figure over seeds: mean, standard deviation, and Student's interval of the mean."""
    mean = fmean(values)
    if len(values) < 2:
        return SeedSummary(mean, None, None, None)
    deviation = stdev(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return SeedSummary(mean, deviation, mean - half, mean + half)


@dataclass(frozen=True)
class SeedDifference:
    """How far a difference of means could be chance of the seeds, by Welch's t-test.

    Attributes:
        low: Lower end of the interval of the difference.
        high: Its upper end.
        p_value: Two-sided.
    """

    low: float
    high: float
    p_value: float


def seed_difference(one: Sequence[float], other: Sequence[float], confidence: float) -> SeedDifference | None:
    """Compare the means of two sets of runs without taking their deviations for equal (Welch 1947).

    Returns:
        None where one of them has a single run, or where no run differs from the others of its set: nothing is then
        known of what a seed does.
    """
    if len(one) < 2 or len(other) < 2 or not (stdev(one) or stdev(other)):
        return None
    test = stats.ttest_ind(one, other, equal_var=False)
    interval = test.confidence_interval(confidence)
    return SeedDifference(float(interval.low), float(interval.high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's method (1979): one wrong finding in all is as rare as in one test.

    The smallest is multiplied by their number, the next by one less, and so on; none is smaller than the one before.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
