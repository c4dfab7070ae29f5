"""How far a difference could be chance of the test samples: bootstrap and approximate randomisation, both paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np

from runner.compare.tally import Figures, Floats, Reduction, joined

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


def bootstrap(reduction: Reduction, runs: Sequence[int], num_samples: int, how: Resampling) -> list[Figures]:
    """Draw the samples anew and reduce each run on the same draws.

    Differences between the runs' figures are then paired by sample (Efron and Tibshirani 1993, chapter 16; for corpus
    figures of texts, Koehn 2004).

    Returns:
        Each run's figures, in the order of `runs`.
    """
    blocks: list[list[Figures]] = [[] for _ in runs]
    lengths: list[int] = []
    for weights in bootstrap_weights(num_samples, how.num_resamples, how.seed):
        lengths.append(len(weights))
        for told, run in zip(blocks, runs, strict=True):
            told.append(reduction.drawn(run, weights))
    return [joined(each, lengths) for each in blocks]


def randomisation(
    reduction: Reduction, sides: tuple[Sequence[int], Sequence[int]], num_samples: int, how: Resampling
) -> Figures:
    """Exchange the answers of two systems on random samples, and tell their difference after it, seeds averaged.

    Where neither system is better, which of the two gave an answer makes no difference (approximate randomisation:
    Noreen 1989; Yeh 2000). Runs are exchanged in pairs, in the order that they stand in; with unequal numbers of runs
    each is repeated until the pairs come out even, which leaves both means as they are.

    Returns:
        A figure's name to the difference of the means after each exchange.
    """
    number = lcm(len(sides[0]), len(sides[1]))
    pairs = [(sides[0][each % len(sides[0])], sides[1][each % len(sides[1])]) for each in range(number)]
    blocks: list[Figures] = []
    lengths: list[int] = []
    for swaps in exchanges(num_samples, how.num_resamples, how.seed):
        lengths.append(len(swaps))
        total: Figures = {}
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
