"""Simulated runs of two arms on the same test samples: answers depend on samples, clusters of samples, and seeds.

Whether a run answers a sample right is decided by a normal variable, the sum of independent parts: what the sample and
its cluster are for both arms and for one arm, what the seed is for a run, and the rest, which is another one for each
run and sample. The parts' variances sum to 1, so each arm's expected value is known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from plugins.metric.extraction import ExactMatch, ExactMatchOptions, NerF1, NerF1Options
from runner.compare.clusters import Clusters
from runner.compare.finished_runs import Run
from runner.compare.groups import Group
from runner.compare.recompute_metrics import RunMetric
from runner.compare.resampling import NUM_PROBE_DRAWS, AggregatedReduction, Resampling, bootstrap, bootstrap_weights
from runner.compare.statistics import GroupPair, PairedTest, paired_tests

Floats = NDArray[np.float64]
MEAN_REFERENCE = 2.0
"""Mean number of reference pairs of a sample, for F1."""
MEAN_EXTRA = 0.3
"""Mean number of predicted pairs of a sample that no reference has, for F1."""


@dataclass(frozen=True)
class Study:
    """Two arms with several runs each.

    Attributes:
        rates: The expected share of right answers of both arms.
        num_samples: Number of test samples.
        num_seeds: Number of runs of each arm.
        metric: `exact_match`, a mean over samples, or `ner_f1`, a ratio of sums.
        num_clusters: Number of clusters; None: each sample is one.
        skew: How unequal the clusters are: the expected number of samples that the cluster with rank r has besides its
            first one is proportional to r to the power of -skew.
        both: Variance of the sample's part for both arms.
        arm: Variance of the sample's part for one arm.
        cluster: Variance of the cluster's part for one arm.
        seed: Variance of the run's part.
    """

    rates: tuple[float, float]
    num_samples: int = 1660
    num_seeds: int = 1
    metric: str = "exact_match"
    num_clusters: int | None = None
    skew: float = 0.0
    both: float = 0.5
    arm: float = 0.2
    cluster: float = 0.0
    seed: float = 0.0

    @property
    def rest(self) -> float:
        """Variance of what is another value for each run and sample."""
        return 1 - self.both - self.arm - self.cluster - self.seed

    @property
    def difference(self) -> float:
        """The expected difference of the metric."""
        a, b = self.rates
        return (a - b) * (1.0 if self.metric == "exact_match" else self._pairs_factor)

    @property
    def _pairs_factor(self) -> float:
        return 2 * MEAN_REFERENCE / (2 * MEAN_REFERENCE + MEAN_EXTRA)

    @cached_property
    def clusters(self) -> Clusters:
        """The clusters of the samples."""
        if self.num_clusters is None:
            return Clusters.from_labels("none", range(self.num_samples))
        weights = np.arange(1.0, self.num_clusters + 1) ** -self.skew
        extra = np.random.default_rng(5).choice(
            self.num_clusters, size=self.num_samples - self.num_clusters, p=weights / weights.sum()
        )
        return Clusters.from_labels("content", [*range(self.num_clusters), *extra.tolist()])

    def draw(self, rng: np.random.Generator) -> list[Sequence[Mapping[str, Any]]]:
        """Draw the counts of all runs, those of the first arm first."""
        shared = self._normal(rng, self.both, self.num_samples)
        reference = 1 + rng.poisson(MEAN_REFERENCE - 1, size=self.num_samples)
        runs = []
        for rate in self.rates:
            of_arm = self._normal(rng, self.arm, self.num_samples)
            of_clusters = self._normal(rng, self.cluster, self.clusters.num_clusters)[self.clusters.indices]
            for _ in range(self.num_seeds):
                rest = self._normal(rng, self.rest, self.num_samples)
                latent = shared + of_arm + of_clusters + self._normal(rng, self.seed, 1) + rest
                is_right = latent < stats.norm.ppf(rate)
                runs.append(self._counts(is_right, reference, rng.poisson(MEAN_EXTRA, size=self.num_samples)))
        return runs

    def _counts(self, is_right: NDArray[np.bool_], reference: Any, extra: Any) -> Sequence[Mapping[str, Any]]:
        if self.metric == "exact_match":
            return [{"exact": float(right)} for right in is_right.tolist()]
        rows = zip((reference + extra).tolist(), reference.tolist(), (reference * is_right).tolist(), strict=True)
        return [dict(zip(("predicted", "reference", "matched"), row, strict=True)) for row in rows]

    @staticmethod
    def _normal(rng: np.random.Generator, variance: float, size: int) -> Floats:
        return np.sqrt(variance) * rng.standard_normal(size)


@dataclass(frozen=True)
class SimulatedPair:
    """The simulated runs of both arms, with their metric, as `runner compare` computes it."""

    pair: GroupPair
    metric: RunMetric
    resampling: Resampling

    @property
    def test(self) -> PairedTest:
        """The comparison of both arms."""
        [test] = paired_tests([self.pair], [self.metric], self.resampling)
        return test


def simulate_pair(study: Study, seed: int, num_resamples: int, *, use_clusters: bool = True) -> SimulatedPair:
    """Draw the runs of a study and compute their metric.

    Args:
        study: The study.
        seed: The seed of answers and resamples.
        num_resamples: Number of bootstrap draws.
        use_clusters: Resample clusters; False: resample the same samples one by one.
    """
    counts = study.draw(np.random.default_rng([11, seed]))
    resampling = Resampling(num_resamples, seed, clusters=study.clusters if use_clusters else None)
    return measure_pair(study.metric, counts, resampling)


def measure_pair(name: str, counts: Sequence[Sequence[Mapping[str, Any]]], resampling: Resampling) -> SimulatedPair:
    """Compute the metric of runs as `runner compare` does.

    Args:
        name: The metric: `exact_match` or `ner_f1`.
        counts: The counts of each run, sample by sample; those of the first arm first, equally many of both arms.
        resampling: Number and seed of the resamples, and the clusters.
    """
    is_mean, num_samples = name == "exact_match", len(counts[0])
    plugin = ExactMatch(ExactMatchOptions()) if is_mean else NerF1(NerF1Options())
    reduction = AggregatedReduction(plugin, counts, mean=is_mean)
    reduction.use_means_directly(next(bootstrap_weights(num_samples, NUM_PROBE_DRAWS, 0)))
    runs = [cast(Run, SimpleNamespace(name=str(index), plan={"trainer": {}})) for index in range(len(counts))]
    everything = np.ones((1, num_samples))
    draws = bootstrap(reduction, range(len(runs)), num_samples, resampling)
    metric = RunMetric(
        name=name,
        reduction=reduction,
        indices={run.name: index for index, run in enumerate(runs)},
        values={run.name: float(reduction.reduce_draws(index, everything)[name][0]) for index, run in enumerate(runs)},
        draws={run.name: draw[name] for run, draw in zip(runs, draws, strict=True)},
        # Of F1, only the number of samples on which it is defined matters here.
        sample_values={
            run.name: np.array([row.get("exact", 0.0) for row in rows]) for run, rows in zip(runs, counts, strict=True)
        },
    )
    num_seeds = len(runs) // 2
    return SimulatedPair(GroupPair(Group("a", runs[:num_seeds]), Group("b", runs[num_seeds:])), metric, resampling)
