"""Statistics of a comparison: means over seeds, paired tests between two groups, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev, variance
from typing import Any

import numpy as np
from scipy import stats

from runner.compare.groups import Group
from runner.compare.recompute_metrics import RunMetric
from runner.compare.resampling import (
    TIE_TOLERANCE,
    AggregatedReduction,
    Floats,
    Resampling,
    percentile_interval,
)
from runner.compare.studentised_test import (
    Contributions,
    difference_p_value,
    difference_variance,
    draws_variance,
    sample_contributions,
    studentised_p_value,
)
from runner.compare.variance_components import (
    BothSources,
    VarianceComponents,
    both_sources,
    seed_variance,
)


@dataclass(frozen=True)
class SeedSummary:
    """A metric over runs that differ in their seed.

    Attributes:
        mean: Mean over the runs.
        std: Sample standard deviation, with n - 1 in the denominator; None for one run.
        low: Lower end of the t-interval of the mean; None for one run.
        high: Upper end of that interval.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise_seeds(values: Sequence[float], confidence: float) -> SeedSummary:
    """Compute the mean, the standard deviation, and Student's interval of the mean."""
    mean = fmean(values)
    if len(values) < 2:
        return SeedSummary(mean, None, None, None)
    deviation = stdev(values)
    half_width = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return SeedSummary(mean, deviation, mean - half_width, mean + half_width)


@dataclass(frozen=True)
class SeedDifference:
    """Result of Welch's t-test between the runs of two groups.

    Attributes:
        low: Lower end of the interval of the difference of means.
        high: Upper end of that interval.
        p_value: Two-sided p-value.
    """

    low: float
    high: float
    p_value: float


def welch_test(a: Sequence[float], b: Sequence[float], confidence: float) -> SeedDifference | None:
    """Compare the means of two groups of runs without assuming equal variances (Welch 1947).

    Values that differ only by rounding count as equal. If the values of one group are equal, the variance of this group
    is 0, and the degrees of freedom are those of the other group.

    Returns:
        None if a group has a single run, or if the values do not vary within either group: then nothing is known of the
        effect of the seed.
    """
    if len(a) < 2 or len(b) < 2:
        return None
    squared_errors = [0.0 if stdev(values) <= TIE_TOLERANCE else variance(values) / len(values) for values in (a, b)]
    error = math.sqrt(sum(squared_errors))
    if not error:
        return None
    freedom = error**4 / sum(
        squared**2 / (len(values) - 1) for squared, values in zip(squared_errors, (a, b), strict=True)
    )
    difference = fmean(a) - fmean(b)
    half_width = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return SeedDifference(difference - half_width, difference + half_width, p_value)


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests by Holm's method (1979), which controls the family-wise error rate.

    The smallest p-value is multiplied by the number of tests, the next by one less, and so on. No corrected value is
    smaller than the one before it.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


@dataclass(frozen=True)
class GroupPair:
    """Two groups to compare; differences are `a` minus `b`.

    Attributes:
        a: The first group.
        b: The second group: the baseline, if there is one.
        details: What the pair measures: `effect` and `budget` of the mutual reinforcement effect; else empty.
    """

    a: Group
    b: Group
    details: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the name, without the runs of the groups."""
        return f"<GroupPair {self.name}>"

    @property
    def name(self) -> str:
        """The effect and the budget, or else both groups."""
        return ", ".join(self.details.values()) or f"{self.a.label} vs {self.b.label}"


@dataclass(frozen=True)
class PairedTest:
    """The comparison of a pair by one metric.

    Attributes:
        metric: The name of the metric.
        pair: The groups.
        value_a: Mean of the metric over the seeds of `a`.
        value_b: Mean of the metric over the seeds of `b`.
        low: Lower end of the bootstrap interval of the difference over samples, with seeds averaged.
        high: Upper end of that interval.
        p_value: Two-sided p-value of the studentised difference over samples, with seeds averaged.
        p_holm: The p-value after Holm's correction for the number of tests.
        interval_agrees: Whether p-value and interval lead to the same conclusion: either the interval contains 0, or
            the p-value is at most 1 - confidence, but not both. True if there is no interval.
        effect_size: The difference in standard deviations of one sample's contribution to it. For a mean over samples,
            this is Cohen's d of paired values. None if all draws are equal.
        relative: The difference as a share of `value_b`; None if that is 0.
        seeds: Welch's test over the seeds; None if a group has one run.
        both: Interval and p-value over samples and seeds together; None where `seeds` is.
        components: The variances of the difference over samples and over seeds.
        design_effect: The variance over samples divided by that of independent samples; 1 without clusters. None for a
            metric that cannot be computed from sums or means of counts.
        better: Number of samples on which `a` is better, by its mean over seeds.
        worse: Number of samples on which `a` is worse.
        equal: Number of samples on which the groups are equal.
    """

    metric: str
    pair: GroupPair
    value_a: float
    value_b: float
    low: float | None
    high: float | None
    p_value: float
    p_holm: float
    interval_agrees: bool
    effect_size: float | None
    relative: float | None
    seeds: SeedDifference | None
    both: BothSources | None
    components: VarianceComponents = field(repr=False)
    design_effect: float | None
    better: int
    worse: int
    equal: int

    def __repr__(self) -> str:
        """Return the metric, the groups, the difference and the p-value in one line."""
        interval = "" if self.low is None else f" [{self.low:+.4f}, {self.high:+.4f}]"
        return f"<PairedTest {self.metric}, {self.pair.name}: {self.difference:+.4f}{interval}, p = {self.p_value:.2g}>"

    @property
    def difference(self) -> float:
        """The value of `a` minus that of `b`."""
        return self.value_a - self.value_b

    @property
    def standard_error(self) -> float | None:
        """The standard error of the difference over samples, for these trained models; None if it is unknown."""
        variance_over_samples = self.components.over_samples
        return math.sqrt(variance_over_samples) if math.isfinite(variance_over_samples) else None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        values = {
            name: value for name, value in vars(self).items() if name not in {"pair", "seeds", "both", "components"}
        }
        groups = {"a": self.pair.a.value, "b": self.pair.b.value}
        nested = {
            "seeds": vars(self.seeds) if self.seeds else None,
            "both": vars(self.both) if self.both else None,
        }
        return {
            **values,
            **groups,
            "difference": self.difference,
            "standard_error": self.standard_error,
            **nested,
            **self.pair.details,
        }

    def as_row(self) -> dict[str, Any]:
        """Return the row of a data frame: `as_json` without nested values."""
        row = self.as_json()
        nested = {
            f"{prefix}_{name}": (values or {}).get(name)
            for prefix, values in (("seed", row.pop("seeds")), ("both", row.pop("both")))
            for name in ("low", "high", "p_value")
        }
        first = {"metric": self.metric, "a": self.pair.a.label, "b": self.pair.b.label}
        return {**first, **{name: value for name, value in row.items() if name not in first}, **nested}


def paired_tests(pairs: Sequence[GroupPair], metrics: Sequence[RunMetric], resampling: Resampling) -> list[PairedTest]:
    """Test every metric that both groups of a pair have, and apply Holm's correction to all p-values."""
    contributions: dict[tuple[int, int], dict[str, Contributions]] = {}
    tests = []
    for pair_index, pair in enumerate(pairs):
        for metric in metrics:
            if metric.is_known_for([*pair.a.runs, *pair.b.runs]):
                # One reduction computes all metrics of a plugin, so the contributions are computed once for them.
                key = (pair_index, id(metric.reduction))
                if key not in contributions and isinstance(metric.reduction, AggregatedReduction):
                    a, b = ([metric.indices[run.name] for run in group.runs] for group in (pair.a, pair.b))
                    contributions[key] = sample_contributions(metric.reduction, (a, b), resampling)
                tests.append(_paired_test(metric, pair, contributions.get(key, {}).get(metric.name), resampling))
    corrected = holm_correction([test.p_value for test in tests])
    return [replace(test, p_holm=value) for test, value in zip(tests, corrected, strict=True)]


def _paired_test(
    metric: RunMetric, pair: GroupPair, contributions: Contributions | None, resampling: Resampling
) -> PairedTest:
    runs_a, runs_b = pair.a.runs, pair.b.runs
    value_a, value_b = metric.mean(runs_a), metric.mean(runs_b)
    difference = value_a - value_b
    draws = metric.mean_draws(runs_a) - metric.mean_draws(runs_b)
    low, high = percentile_interval(draws, resampling.confidence) or (None, None)
    sample_differences = metric.mean_sample_values(runs_a) - metric.mean_sample_values(runs_b)
    defined = sample_differences[np.isfinite(sample_differences)]
    better, worse = int(np.sum(defined > TIE_TOLERANCE)), int(np.sum(defined < -TIE_TOLERANCE))
    seed_values_a, seed_values_b = ([metric.values[run.name] for run in runs] for runs in (runs_a, runs_b))
    num_effective = resampling.effective_number(np.isfinite(sample_differences))
    p_value, sample_variance = _test_over_samples(difference, draws, num_effective, contributions)
    components = VarianceComponents(
        sample_variance,
        num_effective,
        (
            seed_variance(seed_values_a, metric.stack_draws(runs_a)),
            seed_variance(seed_values_b, metric.stack_draws(runs_b)),
        ),
    )
    design_effect = contributions.design_effect if contributions else None
    return PairedTest(
        metric=metric.name,
        pair=pair,
        value_a=value_a,
        value_b=value_b,
        low=low,
        high=high,
        p_value=p_value,
        p_holm=p_value,
        interval_agrees=low is None or high is None or (low <= 0 <= high) == (p_value > 1 - resampling.confidence),
        effect_size=_effect_size(difference, draws, defined.size, design_effect or 1.0),
        relative=difference / value_b if value_b else None,
        seeds=welch_test(seed_values_a, seed_values_b, resampling.confidence),
        both=both_sources(difference, components, resampling.confidence),
        components=components,
        design_effect=design_effect,
        better=better,
        worse=worse,
        equal=defined.size - better - worse,
    )


def _test_over_samples(
    difference: float, draws: Floats, num_samples: float, contributions: Contributions | None
) -> tuple[float, float]:
    """Return the p-value of a difference over samples, and its variance."""
    if contributions is None:
        return difference_p_value(difference, draws, num_samples), draws_variance(difference, draws, num_samples)
    return (
        studentised_p_value(difference, num_samples, contributions),
        difference_variance(difference, num_samples, contributions),
    )


def _effect_size(difference: float, draws: Floats, num_samples: int, design_effect: float) -> float | None:
    """Divide the difference by the standard deviation of one sample: the standard error times sqrt(num_samples).

    The standard error is that of independent samples, so that clusters do not change the effect size.
    """
    error = float(np.nanstd(draws)) / math.sqrt(design_effect)
    return difference / (error * math.sqrt(num_samples)) if error > TIE_TOLERANCE and num_samples else None


@dataclass(frozen=True)
class Disagreement:
    """A sample on which two groups differ.

    Attributes:
        id: The id of the sample.
        pair: The groups.
        values: Metric name to its values on this sample for `a` and for `b`, each the mean over seeds.
    """

    id: str
    pair: GroupPair
    values: Mapping[str, tuple[float, float]]

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference of any metric."""
        return max(abs(a - b) for a, b in self.values.values())

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        values = {name: {"a": a, "b": b} for name, (a, b) in self.values.items()}
        return {"id": self.id, "a": self.pair.a.value, "b": self.pair.b.value, "metrics": values, **self.pair.details}

    def as_row(self) -> dict[str, Any]:
        """Return the row of a data frame: the values of both groups are the columns `ner_f1/a` and `ner_f1/b`."""
        values: dict[str, float] = {}
        for name, (a, b) in self.values.items():
            values |= {f"{name}/a": a, f"{name}/b": b}
        return {"id": self.id, "a": self.pair.a.label, "b": self.pair.b.label, **self.pair.details, **values}


def find_disagreements(pair: GroupPair, metrics: Sequence[RunMetric], limit: int) -> list[Disagreement]:
    """Return the samples on which two groups differ, largest difference of any metric first, up to a limit."""
    shared = [metric for metric in metrics if metric.is_known_for([*pair.a.runs, *pair.b.runs])]
    sample_values = {
        metric.name: (metric.mean_sample_values(pair.a.runs), metric.mean_sample_values(pair.b.runs))
        for metric in shared
    }
    disagreements = []
    for index, sample_id in enumerate(pair.a.runs[0].scores):
        values = {name: (float(a[index]), float(b[index])) for name, (a, b) in sample_values.items()}
        defined = {name: both for name, both in values.items() if np.isfinite(both).all()}
        disagreement = Disagreement(sample_id, pair, defined)
        if defined and disagreement.largest_difference > TIE_TOLERANCE:
            disagreements.append(disagreement)
    return sorted(disagreements, key=lambda disagreement: -disagreement.largest_difference)[:limit]
