"""What a metric counted of each sample, ready to be drawn anew many thousand times and reduced by the metric itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runner.stages import Metric

Floats = NDArray[np.float64]
Figures = dict[str, Floats]
"""A figure's name to its values, one a draw; NaN where the metric gives None, or no such figure."""

PROBES = 8
"""Draws on which it is proven that a metric can be reduced from its pooled counts."""
TOLERANCE = 1e-9
"""Up to which two ways to reduce the same draw must agree."""
TIGHT = 1e-12
"""Up to which a figure is the mean of a count."""


class Reduction(Protocol):
    """Reduces draws of samples: `weights` says how often each draw (a row) holds each sample (a column)."""

    def drawn(self, run: int, weights: Floats) -> Figures:
        """Reduce draws from one run."""

    def exchanged(self, one: int, other: int, swaps: Floats) -> tuple[Figures, Figures]:
        """Reduce two runs after they exchange the samples that a row of `swaps` has 1 for."""


class Slow:
    """Reduces the samples of each draw one by one, as any metric can be."""

    def __init__(self, metric: Metric, runs: Sequence[Sequence[Mapping[str, Any] | None]]) -> None:
        """Take the counts of each run, None for a sample that the metric does not count."""
        self._metric, self._runs = metric, runs

    def drawn(self, run: int, weights: Floats) -> Figures:
        """Reduce draws from one run."""
        rows = self._runs[run]
        return _columns([self._metric.reduce(list(_repeated(rows, times))) for times in weights.astype(int)])

    def exchanged(self, one: int, other: int, swaps: Floats) -> tuple[Figures, Figures]:
        """Reduce two runs after an exchange of samples."""
        left, right = self._runs[one], self._runs[other]
        mixed: tuple[list[Mapping[str, float | None]], ...] = ([], [])
        for swap in swaps.astype(bool):
            for told, (kept, given) in zip(mixed, ((left, right), (right, left)), strict=True):
                chosen = [given[place] if swapped else kept[place] for place, swapped in enumerate(swap)]
                told.append(self._metric.reduce([each for each in chosen if each is not None]))
        return _columns(mixed[0]), _columns(mixed[1])


class Pooled:
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

    def drawn(self, run: int, weights: Floats) -> Figures:
        """Reduce draws from one run."""
        return self._reduce(weights @ self._runs[run])

    def exchanged(self, one: int, other: int, swaps: Floats) -> tuple[Figures, Figures]:
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

    def _reduce(self, sums: Floats) -> Figures:
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
    slow = Slow(metric, runs)
    draws = _probes(len(runs[0]))
    right = [slow.drawn(run, draws) for run in range(len(runs))]
    for mean in (False, True):
        try:
            pooled = Pooled(metric, runs, mean=mean)
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


def _agree(one: Figures, other: Figures) -> bool:
    return one.keys() == other.keys() and all(
        np.allclose(one[name], other[name], rtol=0, atol=TOLERANCE, equal_nan=True) for name in one
    )


def _repeated(rows: Sequence[Mapping[str, Any] | None], times: NDArray[np.int_]) -> Iterator[Mapping[str, Any]]:
    for row, number in zip(rows, times.tolist(), strict=True):
        if row is not None:
            yield from (row for _ in range(number))


def _columns(draws: Sequence[Mapping[str, float | None]]) -> Figures:
    """Lay figures out by name."""
    names = dict.fromkeys(name for draw in draws for name in draw)
    return {name: np.array([_number(draw.get(name)) for draw in draws], dtype=np.float64) for name in names}


def joined(blocks: Sequence[Figures], lengths: Sequence[int]) -> Figures:
    """Put draws that were reduced in blocks of these lengths together; a block may lack a figure."""
    names = dict.fromkeys(name for block in blocks for name in block)
    gaps = [np.full(length, np.nan) for length in lengths]
    return {
        name: np.concatenate([block.get(name, gap) for block, gap in zip(blocks, gaps, strict=True)]) for name in names
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
