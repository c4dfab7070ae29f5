"""Paired bootstrap over test samples, computed from the counts of the metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runner.compare.clusters import Clusters
from runner.stages import Metric

Floats = NDArray[np.float64]
SampleCounts = Sequence[Mapping[str, Any] | None]
"""The counts of a metric for each sample of one run; None for a sample to which the metric does not apply."""
MetricDraws = dict[str, Floats]
"""Metric name to its value on each draw; NaN where the metric returns None or lacks that name."""

NUM_PROBE_DRAWS = 8
"""Draws on which `choose_reduction` checks that a metric can be computed from aggregated counts."""
AGREEMENT_TOLERANCE = 1e-9
"""Largest difference between two reductions of the same draw that are considered equal."""
MEAN_TOLERANCE = 1e-12
"""Largest difference between a metric and the mean of a count that are considered equal."""


class Reduction(Protocol):
    """Computes metrics on resamples of the test samples."""

    def reduce_draws(self, run: int, weights: Floats) -> MetricDraws:
        """Compute the metrics of one run on each draw.

        Args:
            run: The index of the run.
            weights: How often each draw (a row) contains each sample (a column).
        """


class PerSampleReduction:
    """Passes the counts of every drawn sample to the metric. Works for any metric, but is slow."""

    def __init__(self, metric: Metric, runs: Sequence[SampleCounts]) -> None:
        """Store the metric and the counts of each run."""
        self._metric, self._runs = metric, runs

    def reduce_draws(self, run: int, weights: Floats) -> MetricDraws:
        """Compute the metrics of one run on each draw."""
        counts = self._runs[run]
        return _stack_by_name([self._metric.reduce(list(_repeat(counts, row))) for row in weights.astype(int)])


class AggregatedReduction:
    """Sums the counts of a draw by a matrix product, and passes the sum to the metric as if it were one sample.

    This is correct for ratios of sums (corpus F1, accuracy, corpus BLEU). With the mean in place of the sum, it is
    correct for means over samples (ROUGE, sentence BLEU). `choose_reduction` checks it for each metric.
    """

    def __init__(self, metric: Metric, runs: Sequence[SampleCounts], *, mean: bool) -> None:
        """Build a matrix for each run: one row per sample, one column per count, and a last column.

        The last column is 1 if the metric applies to the sample.
        """
        self._metric, self._mean = metric, mean
        self._mean_columns: dict[str, int] = {}
        self._keys = list(dict.fromkeys(key for run in runs for counts in run if counts is not None for key in counts))
        self._runs = [self._matrix(run) for run in runs]

    def _matrix(self, run: SampleCounts) -> Floats:
        rows = [
            [0.0] * (len(self._keys) + 1)
            if counts is None
            else [*(float(counts.get(key, 0.0)) for key in self._keys), 1.0]
            for counts in run
        ]
        return np.array(rows, dtype=np.float64).reshape(len(run), len(self._keys) + 1)

    def counts(self, run: int) -> Floats:
        """Return the counts of a run, one sample per row, in the form that `reduce_sums` accepts."""
        return self._runs[run]

    def reduce_draws(self, run: int, weights: Floats) -> MetricDraws:
        """Compute the metrics of one run on each draw."""
        return self.reduce_sums(weights @ self._runs[run])

    def use_means_directly(self, draws: Floats) -> None:
        """Skip the metric's `reduce` from now on if each metric equals the mean of one count on these draws."""
        if not self._mean:
            return
        sums = np.vstack([draws @ run for run in self._runs])
        metrics, means = self.reduce_sums(sums), sums[:, :-1] / np.maximum(sums[:, -1:], 1)
        columns = {
            name: next(
                (
                    column
                    for column, mean in enumerate(means.T)
                    if np.allclose(mean, values, rtol=0, atol=MEAN_TOLERANCE)
                ),
                -1,
            )
            for name, values in metrics.items()
        }
        if -1 not in columns.values():
            self._mean_columns = columns

    def reduce_sums(self, sums: Floats) -> MetricDraws:
        """Compute the metrics from the counts of all samples of a draw together, one draw per row."""
        num_samples = sums[:, -1]
        totals = sums[:, :-1]
        if self._mean:
            totals = totals / np.maximum(num_samples, 1)[:, None]
        if self._mean_columns:
            return {
                name: np.where(num_samples > 0, totals[:, column], np.nan)
                for name, column in self._mean_columns.items()
            }
        rows = zip(totals.tolist(), (num_samples > 0).tolist(), strict=True)
        reduce, keys = self._metric.reduce, self._keys
        return _stack_by_name(
            [reduce([dict(zip(keys, row, strict=True))] if has_samples else []) for row, has_samples in rows]
        )


def choose_reduction(metric: Metric, runs: Sequence[SampleCounts]) -> Reduction:
    """Choose the fastest reduction that agrees with the metric's own `reduce` of all drawn samples.

    Sums and means of the counts are tried on all samples and on a few draws of each run. If neither is correct for the
    metric, as for a median, it is computed sample by sample, which takes about a hundred times as long.

    Args:
        metric: A metric of any plugin.
        runs: The counts of each run, with the samples in the same order.
    """
    per_sample = PerSampleReduction(metric, runs)
    draws = _probe_draws(len(runs[0]))
    expected = [per_sample.reduce_draws(run, draws) for run in range(len(runs))]
    for mean in (False, True):
        try:
            aggregated = AggregatedReduction(metric, runs, mean=mean)
            actual = [aggregated.reduce_draws(run, draws) for run in range(len(runs))]
        except Exception:  # a plugin may count anything and fail on sums in any way; then they do not apply
            continue
        if all(_agree(one, other) for one, other in zip(expected, actual, strict=True)):
            aggregated.use_means_directly(draws)
            return aggregated
    return per_sample


def _probe_draws(num_samples: int) -> Floats:
    random = np.random.default_rng(0)
    weights = random.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=NUM_PROBE_DRAWS)
    return np.vstack([np.ones(num_samples), weights]).astype(np.float64)


def _agree(one: MetricDraws, other: MetricDraws) -> bool:
    return one.keys() == other.keys() and all(
        np.allclose(one[name], other[name], rtol=0, atol=AGREEMENT_TOLERANCE, equal_nan=True) for name in one
    )


def _repeat(counts: SampleCounts, weights: NDArray[np.int_]) -> Iterator[Mapping[str, Any]]:
    for sample, weight in zip(counts, weights.tolist(), strict=True):
        if sample is not None:
            yield from (sample for _ in range(weight))


def _stack_by_name(draws: Sequence[Mapping[str, float | None]]) -> MetricDraws:
    """Turn a list of metrics by name into an array for each name; NaN for None and for missing names."""
    names = dict.fromkeys(name for draw in draws for name in draw)
    values = {name: [draw.get(name) for draw in draws] for name in names}
    return {
        name: np.array([math.nan if value is None else float(value) for value in column], dtype=np.float64)
        for name, column in values.items()
    }


def concatenate_draws(blocks: Sequence[MetricDraws], lengths: Sequence[int]) -> MetricDraws:
    """Concatenate blocks of draws with these lengths; where a block lacks a metric, its values are NaN."""
    names = dict.fromkeys(name for block in blocks for name in block)
    gaps = [np.full(length, np.nan) for length in lengths]
    return {
        name: np.concatenate([block.get(name, gap) for block, gap in zip(blocks, gaps, strict=True)]) for name in names
    }


BLOCK_VALUES = 2_000_000
"""Numbers in a block of draws, 16 MB, so that memory does not grow with the number of samples."""
TIE_TOLERANCE = 1e-12
"""Differences up to this size count as 0, because sums are rounded."""


@dataclass(frozen=True)
class Resampling:
    """Options of the resampling.

    Attributes:
        num_resamples: Number of bootstrap draws.
        seed: The random seed of the draws.
        confidence: The share of draws inside an interval, such as 0.95.
        clusters: The clusters that are drawn; None: each sample is drawn alone.
    """

    num_resamples: int = 10_000
    seed: int = 0
    confidence: float = 0.95
    clusters: Clusters | None = field(default=None, compare=False)

    def sum_by_cluster(self, values: Floats) -> Floats:
        """Sum the rows of the samples of each cluster; without clusters, return the values."""
        return self.clusters.sum(values) if self.clusters else values

    def effective_number(self, is_counted: NDArray[np.bool_]) -> float:
        """Return the effective number of clusters, or without clusters the number of counted samples."""
        return self.clusters.effective_number(is_counted) if self.clusters else float(np.sum(is_counted))


def bootstrap_weights(
    num_samples: int, num_resamples: int, seed: int, clusters: Clusters | None = None
) -> Iterator[Floats]:
    """Yield bootstrap draws with replacement, in blocks: one draw per row, how often it contains each sample.

    Equal arguments give equal draws, so that all runs and metrics are compared on the same ones. With clusters, each
    draw contains as many clusters as there are, and each of them as a whole.
    """
    random = np.random.default_rng([seed, 0])
    num_drawn = clusters.num_clusters if clusters else num_samples
    for num_rows in block_sizes(num_samples, num_resamples):
        indices = random.integers(num_drawn, size=(num_rows, num_drawn))
        indices += num_drawn * np.arange(num_rows)[:, None]
        counts = np.bincount(indices.ravel(), minlength=num_rows * num_drawn)
        weights = counts.reshape(num_rows, num_drawn).astype(np.float64)
        if clusters is not None and not clusters.are_single_samples:
            weights = np.take(weights, clusters.indices, axis=1)
        yield weights


def block_sizes(num_samples: int, num_resamples: int) -> Iterator[int]:
    """Divide the rows of a matrix with a column for each sample into blocks of at most `BLOCK_VALUES` numbers."""
    max_rows = max(1, BLOCK_VALUES // num_samples)
    for start in range(0, num_resamples, max_rows):
        yield min(max_rows, num_resamples - start)


def bootstrap(reduction: Reduction, runs: Sequence[int], num_samples: int, resampling: Resampling) -> list[MetricDraws]:
    """Compute the metrics of each run on the same bootstrap draws of the samples.

    Differences between runs are then paired by sample (Efron and Tibshirani 1993, chapter 16; for corpus metrics of
    texts, Koehn 2004).

    Returns:
        The metrics of each run on all draws, in the order of `runs`.
    """
    blocks: list[list[MetricDraws]] = [[] for _ in runs]
    lengths: list[int] = []
    for weights in bootstrap_weights(num_samples, resampling.num_resamples, resampling.seed, resampling.clusters):
        lengths.append(len(weights))
        for run_blocks, run in zip(blocks, runs, strict=True):
            run_blocks.append(reduction.reduce_draws(run, weights))
    return [concatenate_draws(run_blocks, lengths) for run_blocks in blocks]


def percentile_interval(draws: Floats, confidence: float) -> tuple[float, float] | None:
    """Return the percentile interval of bootstrap draws, without those on which the metric is undefined.

    Percentiles are used instead of the BCa interval. Over hundreds of samples the two agree, and BCa is undefined where
    nothing varies, as for two runs with the same answers.
    """
    defined = draws[np.isfinite(draws)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
