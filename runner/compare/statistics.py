"""Statistics of a comparison: means over seeds, paired tests between two groups, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

from runner.compare.groups import Group
from runner.compare.resampling import TIE, MetricDraws, Reduction, Resampling, interval, p_value, randomisation
from runner.compare.run_metrics import RunMetric


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


@dataclass(frozen=True)
class Pair:
    """Two groups to compare.

    Attributes:
        a: The one.
        b: The other, which is taken from it: the baseline where there is one.
        told: What is said of the pair besides, such as the `effect` that it measures.
    """

    a: Group
    b: Group
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairedTest:
    """What one figure says of a pair.

    Attributes:
        metric: The figure.
        pair: The groups.
        value_a: The figure's mean over the seeds of `a`.
        value_b: Likewise of `b`.
        low: Lower end of the bootstrap interval of the difference, samples drawn anew, seeds averaged.
        high: Its upper end.
        p_value: Of the approximate randomisation, two-sided.
        p_holm: The same, corrected for the number of tests.
        effect_size: The difference in standard deviations of a sample's contribution to it; for a mean over samples
            this is Cohen's d of paired values. None where no draw differs from another.
        relative: The difference as a share of `value_b`; None where that is 0.
        seeds: What the seeds alone say; None where a group has one run.
        better: Samples on which `a` is better, by the mean over its seeds.
        worse: Samples on which it is worse.
        equal: Samples on which they are the same.
    """

    metric: str
    pair: Pair
    value_a: float
    value_b: float
    low: float | None
    high: float | None
    p_value: float
    p_holm: float
    effect_size: float | None
    relative: float | None
    seeds: SeedDifference | None
    better: int
    worse: int
    equal: int

    @property
    def difference(self) -> float:
        """How much better `a` is."""
        return self.value_a - self.value_b

    def as_json(self) -> dict[str, Any]:
        """The test as docs/compare.md lists it."""
        told = {name: value for name, value in vars(self).items() if name not in {"pair", "seeds"}}
        groups = {"a": self.pair.a.value, "b": self.pair.b.value}
        seeds = vars(self.seeds) if self.seeds else None
        return {**told, **groups, "difference": self.difference, "seeds": seeds, **self.pair.told}


def paired_tests(pairs: Sequence[Pair], measured: Sequence[RunMetric], how: Resampling) -> list[PairedTest]:
    """Test every figure that both groups of a pair have, and correct the p-values for their number by Holm."""
    exchanged: dict[tuple[int, int], MetricDraws] = {}
    tests = []
    for number, pair in enumerate(pairs):
        for figure in measured:
            if figure.of_all([*pair.a.runs, *pair.b.runs]):
                key = (number, id(figure.reduction))
                if key not in exchanged:
                    exchanged[key] = _randomised(figure.reduction, figure, pair, how)
                tests.append(_test(figure, pair, exchanged[key], how))
    corrected = holm([test.p_value for test in tests])
    return [replace(test, p_holm=value) for test, value in zip(tests, corrected, strict=True)]


def _randomised(reducing: Reduction, figure: RunMetric, pair: Pair, how: Resampling) -> MetricDraws:
    """Exchange all figures of a metric at once."""
    one, other = ([figure.places[run.name] for run in group.runs] for group in (pair.a, pair.b))
    return randomisation(reducing, (one, other), len(pair.a.runs[0].rows), how)


def _test(figure: RunMetric, pair: Pair, exchanged: MetricDraws, how: Resampling) -> PairedTest:
    a, b = pair.a.runs, pair.b.runs
    value_a, value_b = figure.mean(a), figure.mean(b)
    draws = figure.mean_draws(a) - figure.mean_draws(b)
    found = interval(draws, how.confidence)
    by_sample = figure.by_sample(a) - figure.by_sample(b)
    defined = by_sample[np.isfinite(by_sample)]
    better, worse = int(np.sum(defined > TIE)), int(np.sum(defined < -TIE))
    own, others = ([figure.values[run.name] for run in runs] for runs in (a, b))
    p = p_value(exchanged[figure.name], value_a - value_b)
    return PairedTest(
        metric=figure.name,
        pair=pair,
        value_a=value_a,
        value_b=value_b,
        low=found[0] if found else None,
        high=found[1] if found else None,
        p_value=p,
        p_holm=p,
        effect_size=_effect_size(value_a - value_b, draws, defined.size),
        relative=(value_a - value_b) / value_b if value_b else None,
        seeds=seed_difference(own, others, how.confidence),
        better=better,
        worse=worse,
        equal=defined.size - better - worse,
    )


def _effect_size(difference: float, draws: Any, num_samples: int) -> float | None:
    """The standard error of a mean falls with the root of the samples' number: what is left is of one sample."""
    error = float(np.nanstd(draws))
    return difference / (error * math.sqrt(num_samples)) if error > TIE and num_samples else None


@dataclass(frozen=True)
class Disagreement:
    """A sample on which two groups differ.

    Attributes:
        id: The sample's.
        pair: The groups.
        figures: A figure's name to its value on this sample alone, of `a` and of `b`, seeds averaged.
    """

    id: str
    pair: Pair
    figures: Mapping[str, tuple[float, float]]

    @property
    def size(self) -> float:
        """The largest difference in any figure."""
        return max(abs(one - other) for one, other in self.figures.values())

    def as_json(self) -> dict[str, Any]:
        """The disagreement as docs/compare.md lists it."""
        figures = {name: {"a": one, "b": other} for name, (one, other) in self.figures.items()}
        return {"id": self.id, "a": self.pair.a.value, "b": self.pair.b.value, "metrics": figures, **self.pair.told}


def disagreements(pair: Pair, measured: Sequence[RunMetric], most: int) -> list[Disagreement]:
    """The samples on which two groups differ, those with the largest difference in any figure first."""
    figures = [each for each in measured if each.of_all([*pair.a.runs, *pair.b.runs])]
    sides = {each.name: (each.by_sample(pair.a.runs), each.by_sample(pair.b.runs)) for each in figures}
    found = []
    for place, sample in enumerate(pair.a.runs[0].rows):
        values = {name: (float(one[place]), float(other[place])) for name, (one, other) in sides.items()}
        defined = {name: both for name, both in values.items() if np.isfinite(both).all()}
        each = Disagreement(sample, pair, defined)
        if defined and each.size > TIE:
            found.append(each)
    return sorted(found, key=lambda each: -each.size)[:most]
