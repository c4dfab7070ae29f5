"""Both sources of chance in one interval: which test samples were drawn, and which seeds the models were trained with.

Samples and seeds are crossed: each run answers every sample. The variance of a difference is then the sum of its
variance over samples and its variance over seeds, minus that of their interaction, which both contain (two-way random
effects, Searle, Casella and McCulloch 1992; for two-way clusters of errors, Cameron, Gelbach and Miller 2011). Without
the subtraction, the interaction counts twice, as in a bootstrap of both rows and columns (McCullagh 2000; Owen 2007).
Runs that differ only in their seed answer many samples differently, so the interaction is often most of what is seen of
the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np
from scipy import stats

from runner.compare.resampling import TIE_TOLERANCE, Floats


@dataclass(frozen=True)
class SeedVariance:
    """What the seeds change in one group of runs.

    Attributes:
        num_runs: Number of runs.
        mean: Mean of the metric over the runs.
        total: Variance of a run's value over seeds, on the same test samples.
        interaction: The part of `total` that is due to the test samples: runs with different seeds are right on
            different samples. More test samples reduce it.
    """

    num_runs: int
    mean: float
    total: float
    interaction: float


def seed_variance(values: Sequence[float], draws: Floats) -> SeedVariance | None:
    """Estimate the variance over seeds of a group.

    Args:
        values: The metric of each run on all samples.
        draws: The metric of each run on each bootstrap draw of the samples; shape (num_runs, num_draws).

    Returns:
        None for a single run. Values that differ only by rounding have the variance 0.
    """
    if len(values) < 2:
        return None
    total = variance(values)
    if total <= TIE_TOLERANCE**2:
        return SeedVariance(len(values), fmean(values), 0.0, 0.0)
    defined = draws[:, np.isfinite(draws).all(axis=0)]
    # What a draw changes in one run but not in all: the interaction, once for each degree of freedom of the runs.
    own = defined - defined.mean(axis=0)
    interaction = float(own.var(axis=1).sum()) / (len(values) - 1) if defined.size else 0.0
    return SeedVariance(len(values), fmean(values), total, interaction)


@dataclass(frozen=True)
class BothSources:
    """A difference with regard to other test samples and other seeds together.

    Attributes:
        low: Lower end of the interval of the difference.
        high: Upper end of that interval.
        p_value: Two-sided p-value; at most 1 - confidence exactly if 0 is outside of the interval.
    """

    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class StandardError:
    """A standard error with its degrees of freedom."""

    value: float
    freedom: float


@dataclass(frozen=True)
class VarianceComponents:
    """The variances of a difference between two groups, by source.

    Attributes:
        over_samples: Variance over samples of the difference of means over runs, for the models at hand. It contains
            the interaction with the seeds.
        num_effective: The effective number of samples or clusters that determine the difference.
        groups: The variance over seeds in both groups; None for a group with a single run.
    """

    over_samples: float
    num_effective: float
    groups: tuple[SeedVariance | None, SeedVariance | None]

    @property
    def varying_groups(self) -> tuple[SeedVariance, SeedVariance] | None:
        """The variances over seeds; None if nothing is known of the effect of the seed.

        That is so if a group has a single run, or if the values do not vary within either group.
        """
        a, b = self.groups
        return None if a is None or b is None or not a.total + b.total else (a, b)


def both_sources(difference: float, components: VarianceComponents, confidence: float) -> BothSources | None:
    """Compute interval and p-value of a difference over test samples and seeds together.

    Args:
        difference: The difference of the groups' means over runs.
        components: Its variances.
        confidence: The confidence level.

    Returns:
        None if nothing is known of the effect of the seed, or if the variance over samples is unknown.
    """
    groups = components.varying_groups
    if groups is None or not math.isfinite(components.over_samples):
        return None
    error = combined_error(components.over_samples, components.num_effective, groups)
    half_width = float(stats.t.ppf((1 + confidence) / 2, error.freedom)) * error.value
    p_value = float(2 * stats.t.sf(abs(difference) / error.value, error.freedom))
    return BothSources(difference - half_width, difference + half_width, p_value)


def combined_error(
    sample_variance: float, num_samples: float, groups: tuple[SeedVariance, SeedVariance]
) -> StandardError:
    """Combine the variance over samples and the variance over seeds of a difference.

    The part of the seeds that is not interaction is at least 0, and the variance over samples is at least the
    interaction: it is smaller only if runs of both groups give the same answers. The degrees of freedom are
    Satterthwaite's (1946), with the whole variance over seeds, because the interaction is subtracted with hardly any
    error of its own.

    Args:
        sample_variance: The variance of the difference over samples; it contains the interaction.
        num_samples: The effective number of samples or clusters.
        groups: The variance over seeds in both groups; at least one varies.
    """
    over_seeds = [group.total / group.num_runs for group in groups]
    interaction = sum(group.interaction / group.num_runs for group in groups)
    total = max(sample_variance, interaction) + max(sum(over_seeds) - interaction, 0.0)
    uncertainty = sample_variance**2 / max(num_samples - 1, 1) + sum(
        value**2 / (group.num_runs - 1) for value, group in zip(over_seeds, groups, strict=True)
    )
    return StandardError(math.sqrt(total), total**2 / uncertainty)
