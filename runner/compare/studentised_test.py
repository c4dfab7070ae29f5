"""The p-value of a difference between two groups: the studentised difference, compared with the normal distribution.

Exchanging the answers of two systems (approximate randomisation, Noreen 1989) tests that the systems are
interchangeable, not that a metric is equal. Two systems with equal precision and unequal numbers of predictions are not
interchangeable, so this test rejects equality too often if both systems make few errors. Dividing the difference by its
standard error removes this dependence (Chung and Romano 2013). `bench/calibration.py` measures how often this test, and
the test by exchange, reject equality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runner.compare.resampling import TIE_TOLERANCE, AggregatedReduction, Floats, MetricDraws, Resampling, block_sizes

PRIOR_SAMPLES = 10
"""Weight of the pooled variance, in samples. In the simulations of `bench/calibration.py`, 5 to 20 give about the same
rates of rejection. The variance of each group alone is needed if the groups have many errors and these are distributed
differently; the pooled one is needed if a group has few errors."""
DENOMINATOR_TOLERANCE = 1e-5
"""Largest relative change of a difference by unequal denominators at which these count as equal."""
EXCHANGE_TOLERANCE = 1e-4
"""Relative difference up to which two sums of contributions count as equal. Contributions are computed by differences.
This adds errors of about this size to equal contributions in a test split of 100 samples, and smaller ones in larger
splits."""
MAX_EXCHANGED = 14
"""Largest number of differing samples of which all exchanges are enumerated: 16,384."""
SMALLEST_P_VALUE = 1e-15
"""Smaller p-values are replaced by this one: that far from the centre, the normal distribution is no approximation."""


@dataclass(frozen=True)
class Contributions:
    """How each sample contributes to a metric of two groups; with clusters, how each cluster does.

    A contribution is the change of the metric if a sample counts once more, minus the change if it counts once less,
    divided by two. The sum of the squares is the variance of the metric over samples (infinitesimal jackknife, Efron
    1982). For a ratio of sums, such as precision, a contribution is proportional to the sample's numerator minus the
    ratio times the sample's denominator. The contribution of a cluster is the sum over its samples; the sum of the
    squares is then the cluster-robust variance (Liang and Zeger 1986).

    Attributes:
        difference: The contribution to the difference of the groups' values.
        pooled: For each group, the contribution of its answers to the metric of all answers of both groups together, in
            which each group has the same weight, however many runs it has. None for a metric that changes if all counts
            of a group are doubled, as corpus BLEU with smoothing does: its value for both groups together is not
            comparable to its values for each group.
        randomisation_p_value: The p-value of approximate randomisation for a metric without `pooled`; else 1.
        design_effect: The variance of the difference divided by its variance if all samples were independent (Kish
            1965); 1 without clusters.
    """

    difference: Floats
    pooled: tuple[Floats, Floats] | None
    randomisation_p_value: float = 1.0
    design_effect: float = 1.0


def sample_contributions(
    reduction: AggregatedReduction, groups: tuple[Sequence[int], Sequence[int]], resampling: Resampling
) -> dict[str, Contributions]:
    """Measure how each sample contributes to each metric of two groups; 0 where a metric is undefined without it.

    Args:
        reduction: The reduction of the metrics.
        groups: The indices of the runs of both groups.
        resampling: Number and seed of the exchanges of approximate randomisation, and the clusters of the samples.
    """
    a, b = (_mean_over_runs(reduction, runs) for runs in groups)
    # Whole numbers of copies, because a metric may expect whole counts.
    num_copies = math.lcm(len(groups[0]), len(groups[1]))
    counts = [num_copies // len(runs) * np.sum([reduction.counts(run) for run in runs], axis=0) for runs in groups]
    total = counts[0].sum(axis=0) + counts[1].sum(axis=0)
    pooled_a, pooled_b = (_contributions(reduction, total, group_counts) for group_counts in counts)
    once, twice = (
        reduction.reduce_sums(copies * np.array([group.sum(axis=0) for group in counts])) for copies in (1, 2)
    )
    contributions = {}
    for name in a.keys() & b.keys() & pooled_a.keys() & pooled_b.keys():
        of_samples = a[name] - b[name]
        difference = resampling.sum_by_cluster(of_samples)
        independent = float(of_samples @ of_samples)
        design_effect = float(difference @ difference) / independent if independent else 1.0
        if np.allclose(once[name], twice[name], equal_nan=True):
            pooled = resampling.sum_by_cluster(pooled_a[name]), resampling.sum_by_cluster(pooled_b[name])
            contributions[name] = Contributions(difference, pooled, design_effect=design_effect)
        else:
            p_value = randomisation_p_value(reduction, (counts[0], counts[1]), name, resampling)
            contributions[name] = Contributions(difference, None, p_value, design_effect)
    return contributions


def randomisation_p_value(
    reduction: AggregatedReduction, counts: tuple[Floats, Floats], name: str, resampling: Resampling
) -> float:
    """Return the p-value of a metric by approximate randomisation (Noreen 1989).

    The counts of each sample, or of each cluster together, are exchanged with chance 1/2. The p-value is the share of
    exchanges with at least the observed difference; the observed counts are one of them.
    """
    a, b = (resampling.sum_by_cluster(group) for group in counts)
    random = np.random.default_rng([resampling.seed, 1])
    differences: list[Floats] = []
    for num_rows in block_sizes(len(a), resampling.num_resamples):
        exchanged = random.integers(2, size=(num_rows, len(a))).astype(np.float64)
        if not differences:
            exchanged[0] = 0
        moved = exchanged @ (b - a)
        sums = (a.sum(axis=0) + moved, b.sum(axis=0) - moved)
        differences.append(np.abs(reduction.reduce_sums(sums[0])[name] - reduction.reduce_sums(sums[1])[name]))
    found = np.concatenate(differences)
    return float(np.mean(found >= found[0] - TIE_TOLERANCE))


def _mean_over_runs(reduction: AggregatedReduction, runs: Sequence[int]) -> MetricDraws:
    by_run = [_contributions(reduction, reduction.counts(run).sum(axis=0), reduction.counts(run)) for run in runs]
    shared = set.intersection(*(set(contributions) for contributions in by_run))
    return {name: np.mean([contributions[name] for contributions in by_run], axis=0) for name in shared}


def _contributions(reduction: AggregatedReduction, total: Floats, counts: Floats) -> MetricDraws:
    distinct, inverse = np.unique(counts, axis=0, return_inverse=True)
    more, less = (reduction.reduce_sums(total + sign * distinct) for sign in (1, -1))
    return {name: (np.nan_to_num(more[name] - less[name]) / 2)[inverse] for name in more.keys() & less.keys()}


def draws_variance(difference: float, draws: Floats, num_samples: float) -> float:
    """Return the variance of a difference over samples from its bootstrap draws.

    This is for metrics that cannot be computed from aggregated counts, such as a median.
    """
    defined = draws[np.isfinite(draws)]
    variance = float(np.var(defined)) if defined.size else 0.0
    return variance + difference**2 / max(num_samples, 1)


def difference_p_value(difference: float, draws: Floats, num_samples: float) -> float:
    """Return the two-sided p-value of a difference, with the variance of its bootstrap draws; see `draws_variance`."""
    return _normal_p_value(difference, draws_variance(difference, draws, num_samples))


def difference_variance(
    difference: float, num_samples: float, contributions: Contributions, prior_samples: float = PRIOR_SAMPLES
) -> float:
    """Return the variance of a difference over samples, as `studentised_p_value` explains it.

    For a metric that changes if all counts are doubled, it is the first of the two estimates. It is infinite if the
    metric cannot be compared with that of both groups together.
    """
    # Under the hypothesis of equality, the variance of the contributions is their second moment.
    variance = float(contributions.difference @ contributions.difference) + difference**2 / max(num_samples, 1)
    num_effective = min(map(_effective_number, contributions.pooled)) if contributions.pooled else 0.0
    # Without effective samples in a group, its value is fixed by definition, as is precision without predictions.
    if not num_effective:
        return variance
    exchanged, factor = _exchanged(difference, contributions)
    pooled = max(factor, 1.0) * float(exchanged @ exchanged)
    return (num_effective * variance + prior_samples * pooled) / (num_effective + prior_samples)


def _exchanged(difference: float, contributions: Contributions) -> tuple[Floats, float]:
    """Return by how much exchanging each sample's answers changes the difference, and the factor of its variance.

    For a mean over samples, the factor is 1. For a ratio with denominators A and B in the two groups, the factor is
    (A + B)² / 4AB, and the variance is larger by it too, if each unit of a denominator has the same variance.
    """
    assert contributions.pooled is not None
    exchanged = 2 * (contributions.pooled[0] - contributions.pooled[1])
    total = float(exchanged.sum())
    if abs(difference) <= TIE_TOLERANCE:
        return exchanged, 1.0
    return exchanged, difference / total if total else math.inf


def studentised_p_value(
    difference: float, num_samples: float, contributions: Contributions, prior_samples: float = PRIOR_SAMPLES
) -> float:
    """Return the two-sided p-value of a difference between two groups on the same samples.

    The difference is divided by its standard error, and compared with the normal distribution. The variance of the
    difference is a weighted mean of two estimates. The first one treats each group separately, so it is right for
    groups of different kinds, but unreliable if a group has few errors (or, for a metric near 0, few matches). The
    second one assumes that the metric is equal in both groups, and estimates the variance from both together. The
    weight of the first one is the effective number of samples that determine the metric of a group, in the group where
    this number is smaller; the weight of the second one is `prior_samples`.

    If exchanging answers leaves the denominators of the metric unchanged, as for a mean over samples or for recall, and
    the groups differ on at most `MAX_EXCHANGED` samples, the smaller one of this p-value and of that of
    `exchange_p_value` is returned. With so few differing samples, each of them rejects equality too rarely: the first
    one if the contributions have unequal sizes, the second one if they have equal sizes.

    For a metric that changes if all counts are doubled, such as corpus BLEU if no sequence of four words is right, the
    p-value of approximate randomisation is returned: the variance of so nonlinear a metric cannot be estimated.

    Args:
        difference: The observed difference.
        num_samples: The number of samples to which the metric applies; with clusters, their effective number.
        contributions: The contributions of each sample.
        prior_samples: The weight of the second estimate of the variance.

    Returns:
        A value between `SMALLEST_P_VALUE` and 1; 1 if the groups are equal.
    """
    if abs(difference) <= TIE_TOLERANCE:
        return 1.0
    if contributions.pooled is None:
        return contributions.randomisation_p_value
    p_value = _normal_p_value(difference, difference_variance(difference, num_samples, contributions, prior_samples))
    exchanged, factor = _exchanged(difference, contributions)
    nonzero = exchanged[np.abs(exchanged) > TIE_TOLERANCE]
    if not min(map(_effective_number, contributions.pooled)):
        return p_value
    if abs(factor - 1) > DENOMINATOR_TOLERANCE or nonzero.size > MAX_EXCHANGED:
        return p_value
    return min(p_value, exchange_p_value(nonzero))


def _normal_p_value(difference: float, variance: float) -> float:
    if abs(difference) <= TIE_TOLERANCE:
        return 1.0
    return max(float(2 * stats.norm.sf(abs(difference) / math.sqrt(variance))), SMALLEST_P_VALUE)


def exchange_p_value(differences: Floats) -> float:
    """Return the mid-p-value of the sum of paired differences, if each of them changes its sign with chance 1/2.

    This is the randomisation test with all exchanges (Noreen 1989). Ties count as one half, as in the mean of a test
    that breaks ties at random (Lancaster 1961; Fagerland, Lydersen and Laake 2013).

    Args:
        differences: At most about 20 nonzero differences, because their number is an exponent of memory and time.
    """
    observed = abs(float(differences.sum()))
    signs = 1 - 2.0 * (np.arange(2**differences.size)[:, None] >> np.arange(differences.size) & 1)
    sums = np.abs(signs @ differences)
    ties = np.abs(sums - observed) <= EXCHANGE_TOLERANCE * observed
    return float(np.mean((sums > observed) & ~ties) + np.mean(ties) / 2)


def _effective_number(contributions: Floats) -> float:
    """Return the number of equal contributions that would have the same second and fourth moments; 0 without any."""
    squares = contributions**2
    fourth = float(squares @ squares)
    return float(squares.sum()) ** 2 / fourth if fourth else 0.0
