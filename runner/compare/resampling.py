"""Paired bootstrap and approximate randomisation over test samples, on counts that the metrics reduce."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runner.stages import Metric

Floats = NDArray[np.float64]
MetricDraws = dict[str, Floats]
"""A figure's name to its values, one a draw; NaN where the metric gives None, or no such figure."""

PROBES = 8
"""Draws on which it is proven that a metric can be reduced from its pooled counts."""
TOLERANCE = 1e-9
"""Up to which two ways to reduce the same draw must agree."""
TIGHT = 1e-12
"""Up to which a figure is the mean of a count."""


class Reduction(Protocol):
    """Reduces draws of samples: `weights` says how often each draw (a row) holds each sample (a column)."""

    def drawn(self, run: int, weights: Floats) -> MetricDraws:
        """Reduce draws from one run."""

    def exchanged(self, one: int, other: int, swaps: Floats) -> tuple[MetricDraws, MetricDraws]:
        """Reduce two runs after they exchange the samples that a row of `swaps` has 1 for."""


class PerSampleReduction:
    """Reduces the samples of each draw one by one, as any metric can be."""

    def __init__(self, metric: Metric, runs: Sequence[Sequence[Mapping[str, Any] | None]]) -> None:
        """Take the counts of each run, None for a sample that the metric does not count."""
        self._metric, self._runs = metric, runs

    def drawn(self, run: int, weights: Floats) -> MetricDraws:
        """Reduce draws from one run."""
        rows = self._runs[run]
        return _columns([self._metric.reduce(list(_repeated(rows, times))) for times in weights.astype(int)])

    def exchanged(self, one: int, other: int, swaps: Floats) -> tuple[MetricDraws, MetricDraws]:
        """Reduce two runs after an exchange of samples."""
        left, right = self._runs[one], self._runs[other]
        mixed: tuple[list[Mapping[str, float | None]], ...] = ([], [])
        for swap in swaps.astype(bool):
            for told, (kept, given) in zip(mixed, ((left, right), (right, left)), strict=True):
                chosen = [given[place] if swapped else kept[place] for place, swapped in enumerate(swap)]
                told.append(self._metric.reduce([each for each in chosen if each is not None]))
        return _columns(mixed[0]), _columns(mixed[1])


class AggregatedReduction:
    """Adds the counts of a draw up by a product of matrices, and has the metric reduce the sum as if it were a sample.

    That is right for ratios of sums (corpus F1, accuracy, corpus BLEU); and, with the mean in place of the sum, for
    means over samples (ROUGE, sentence BLEU). Whether it is right is proven by `reduction`, not believed.
    """

    def __init__(self, metric: Metric, runs: Sequence[Sequence[Mapping[str, Any] | None]], *, mean: bool) -> None:
        """Lay the counts out, a matrix a run: a sample a row, a count a column, and last whether it is counted."""
        self._metric, self._mean = metric, mean
        self._columns: dict[str, int] = {}
        self._keys = list(dict.fromkeys(key for rows in runs for row in rows if row is not None for key in row))
        self._runs = [self._matrix(rows) for rows in runs]

    def _matrix(self, rows: Sequence[Mapping[str, Any] | None]) -> Floats:
        told = [[0.0] * len(self._keys) + [0.0] if row is None else self._row(row) for row in rows]
        return np.array(told, dtype=np.float64).reshape(len(rows), len(self._keys) + 1)

    def _row(self, row: Mapping[str, Any]) -> list[float]:
        return [*(float(row.get(key, 0.0)) for key in self._keys), 1.0]

    def drawn(self, run: int, weights: Floats) -> MetricDraws:
        """Reduce draws from one run."""
        return self._reduce(weights @ self._runs[run])

    def exchanged(self, one: int, other: int, swaps: Floats) -> tuple[MetricDraws, MetricDraws]:
        """Reduce two runs after an exchange of samples: what one gains the other loses."""
        moved = swaps @ (self._runs[other] - self._runs[one])
        return self._reduce(self._runs[one].sum(0) + moved), self._reduce(self._runs[other].sum(0) - moved)

    def shorten(self, draws: Floats) -> None:
        """Take means as they are where every figure is the mean of one count: it is on these draws of each run."""
        if not self._mean:
            return
        sums = np.vstack([draws @ run for run in self._runs])
        figures, means = self._reduce(sums), sums[:, :-1] / np.maximum(sums[:, -1:], 1)
        columns = {
            name: next(
                (place for place, mean in enumerate(means.T) if np.allclose(mean, values, rtol=0, atol=TIGHT)), -1
            )
            for name, values in figures.items()
        }
        if -1 not in columns.values():
            self._columns = columns

    def _reduce(self, sums: Floats) -> MetricDraws:
        counted = sums[:, -1]
        pooled = sums[:, :-1]
        if self._mean:
            pooled = pooled / np.maximum(counted, 1)[:, None]
        if self._columns:
            return {name: np.where(counted > 0, pooled[:, place], np.nan) for name, place in self._columns.items()}
        rows = zip(pooled.tolist(), (counted > 0).tolist(), strict=True)
        reduce, keys = self._metric.reduce, self._keys
        return _columns([reduce([dict(zip(keys, row, strict=True))] if any_ else []) for row, any_ in rows])


def reduction(metric: Metric, runs: Sequence[Sequence[Mapping[str, Any] | None]]) -> Reduction:
    """Find the fastest way that gives what the metric's own `reduce` of all drawn samples gives.

    Both ways to pool are tried on all samples and on draws of each run; a metric for which neither is right, such as
    a median, is reduced sample by sample, which takes some hundred times as long.

    Args:
        metric: Whatever its plugin.
        runs: The counts of each run, a sample each, in one order; None for one that the metric does not count.
    """
    slow = PerSampleReduction(metric, runs)
    draws = _probes(len(runs[0]))
    right = [slow.drawn(run, draws) for run in range(len(runs))]
    for mean in (False, True):
        try:
            pooled = AggregatedReduction(metric, runs, mean=mean)
            found = [pooled.drawn(run, draws) for run in range(len(runs))]
        except Exception:  # counts of any kind, reduced by anybody's plugin: then not in this way
            continue
        if all(_agree(one, other) for one, other in zip(right, found, strict=True)):
            pooled.shorten(draws)
            return pooled
    return slow


def _probes(num_samples: int) -> Floats:
    drawn = np.random.default_rng(0).multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=PROBES)
    return np.vstack([np.ones(num_samples), drawn]).astype(np.float64)


def _agree(one: MetricDraws, other: MetricDraws) -> bool:
    return one.keys() == other.keys() and all(
        np.allclose(one[name], other[name], rtol=0, atol=TOLERANCE, equal_nan=True) for name in one
    )


def _repeated(rows: Sequence[Mapping[str, Any] | None], times: NDArray[np.int_]) -> Iterator[Mapping[str, Any]]:
    for row, number in zip(rows, times.tolist(), strict=True):
        if row is not None:
            yield from (row for _ in range(number))


def _columns(draws: Sequence[Mapping[str, float | None]]) -> MetricDraws:
    """Lay figures out by name."""
    names = dict.fromkeys(name for draw in draws for name in draw)
    return {name: np.array([_number(draw.get(name)) for draw in draws], dtype=np.float64) for name in names}


def joined(blocks: Sequence[MetricDraws], lengths: Sequence[int]) -> MetricDraws:
    """Put draws that were reduced in blocks of these lengths together; a block may lack a figure."""
    names = dict.fromkeys(name for block in blocks for name in block)
    gaps = [np.full(length, np.nan) for length in lengths]
    return {
        name: np.concatenate([block.get(name, gap) for block, gap in zip(blocks, gaps, strict=True)]) for name in names
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


BLOCK_VALUES = 2_000_000
"""Draws are made in blocks of so many numbers, 16 MB, however many samples there are."""
TIE = 1e-12
"""By so little a difference may fall short of the observed one and still count as large, as sums are rounded."""


@dataclass(frozen=True)
class Resampling:
    """How samples are drawn anew.

    Attributes:
        num_resamples: Draws of the bootstrap, and exchanges of the randomisation.
        seed: Of both.
        confidence: The share of draws that lies inside an interval.
    """

    num_resamples: int = 10_000
    seed: int = 0
    confidence: float = 0.95


def bootstrap_weights(num_samples: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield draws of as many samples with replacement, in blocks: a draw a row, how often it has each sample.

    The same for every run and metric that is given the same numbers, so that all are compared on the same draws.
    """
    random = np.random.default_rng([seed, 0])
    for rows in _blocks(num_samples, num_resamples):
        places = random.integers(num_samples, size=(rows, num_samples))
        places += num_samples * np.arange(rows)[:, None]
        counted = np.bincount(places.ravel(), minlength=rows * num_samples)
        yield counted.reshape(rows, num_samples).astype(np.float64)


def exchanges(num_samples: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield exchanges in blocks: an exchange a row, 1 for each sample that two systems swap, each with chance 1/2."""
    random = np.random.default_rng([seed, 1])
    for rows in _blocks(num_samples, num_resamples):
        bits = np.frombuffer(random.bytes((rows * num_samples + 7) // 8), dtype=np.uint8)
        yield np.unpackbits(bits)[: rows * num_samples].reshape(rows, num_samples).astype(np.float64)


def _blocks(num_samples: int, num_resamples: int) -> Iterator[int]:
    most = max(1, BLOCK_VALUES // num_samples)
    for start in range(0, num_resamples, most):
        yield min(most, num_resamples - start)


def bootstrap(reduction: Reduction, runs: Sequence[int], num_samples: int, how: Resampling) -> list[MetricDraws]:
    """Draw the samples anew and reduce each run on the same draws.

    Differences between the runs' figures are then paired by sample (Efron and Tibshirani 1993, chapter 16; for corpus
    figures of texts, Koehn 2004).

    Returns:
        Each run's figures, in the order of `runs`.
    """
    blocks: list[list[MetricDraws]] = [[] for _ in runs]
    lengths: list[int] = []
    for weights in bootstrap_weights(num_samples, how.num_resamples, how.seed):
        lengths.append(len(weights))
        for told, run in zip(blocks, runs, strict=True):
            told.append(reduction.drawn(run, weights))
    return [joined(each, lengths) for each in blocks]


def randomisation(
    reduction: Reduction, sides: tuple[Sequence[int], Sequence[int]], num_samples: int, how: Resampling
) -> MetricDraws:
    """Exchange the answers of two systems on random samples, and tell their difference after it, seeds averaged.

    Where neither system is better, which of the two gave an answer makes no difference (approximate randomisation:
    Noreen 1989; Yeh 2000). Runs are exchanged in pairs, in the order that they stand in; with unequal numbers of runs
    each is repeated until the pairs come out even, which leaves both means as they are.

    Returns:
        A figure's name to the difference of the means after each exchange.
    """
    number = lcm(len(sides[0]), len(sides[1]))
    pairs = [(sides[0][each % len(sides[0])], sides[1][each % len(sides[1])]) for each in range(number)]
    blocks: list[MetricDraws] = []
    lengths: list[int] = []
    for swaps in exchanges(num_samples, how.num_resamples, how.seed):
        lengths.append(len(swaps))
        total: MetricDraws = {}
        for one, other in pairs:
            left, right = reduction.exchanged(one, other, swaps)
            for name in left.keys() & right.keys():
                total[name] = total.get(name, np.zeros(len(swaps))) + (left[name] - right[name]) / number
        blocks.append(total)
    return joined(blocks, lengths)


def interval(draws: Floats, confidence: float) -> tuple[float, float] | None:
    """The percentile interval of bootstrap draws; those where the figure is not defined are left out.

    Percentiles, and not the BCa interval: over hundreds of samples the two agree, and BCa has no value where nothing
    varies, as for two runs that give the same answers.
    """
    defined = draws[np.isfinite(draws)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def p_value(differences: Floats, observed: float) -> float:
    """The two-sided p-value of a randomisation: (1 + exchanges with as large a difference) / (1 + exchanges).

    The observed one counts as an exchange too, so that the test is exact for any number of them (Phipson and Smyth
    2010) and the value is never zero.
    """
    defined = np.abs(differences[np.isfinite(differences)])
    return float((1 + np.count_nonzero(defined >= abs(observed) - TIE)) / (1 + defined.size))
