"""Does `runner compare` find differences where there are none, and do its intervals hold what is true?

    python bench/calibration.py [--comparisons 1000] [--samples 1660] [--resamples 500]

Draws pairs of systems of the same quality, compares each pair as `runner compare` does, and prints a JSON document: how
many comparisons the 5 % test rejected, and how many 95 % intervals held the true difference, which is none, and the
true F1, that of a corpus without end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plugins.metric.extraction import NerF1, NerF1Options
from runner.compare.resampling import AggregatedReduction, Resampling, bootstrap, interval, p_value, randomisation

Columns = tuple[Any, Any, Any]
"""Predicted, reference and matched pairs of each sample, as numpy's integers."""


def corpus(random: np.random.Generator, num_samples: int) -> list[Columns]:
    """Two systems of the same quality, over samples of which some are hard for both: counts of label-entity pairs."""
    reference = random.integers(0, 5, size=num_samples)
    ease = random.beta(4, 1, size=num_samples)
    runs = []
    for _ in range(2):
        matched = random.binomial(reference, ease)
        predicted = matched + random.binomial(2, 0.2, size=num_samples)
        runs.append((predicted, reference, matched))
    return runs


def rows(run: Columns) -> Sequence[Mapping[str, int]]:
    """The counts as `NerF1` makes them of answers."""
    keys = ("predicted", "reference", "matched")
    return [dict(zip(keys, each, strict=True)) for each in zip(*(column.tolist() for column in run), strict=True)]


def true_f1() -> float:
    """The F1 that a corpus without end would have."""
    predicted, reference, matched = corpus(np.random.default_rng(0), 2_000_000)[0]
    return float(2 * matched.sum() / (predicted.sum() + reference.sum()))


def calibrate(num_comparisons: int, num_samples: int, num_resamples: int) -> dict[str, int]:
    """Compare equals again and again.

    Returns:
        `rejected`, `difference_covered` and `figure_covered`: how many of the comparisons.
    """
    truth = true_f1()
    told = {"rejected": 0, "difference_covered": 0, "figure_covered": 0}
    for number in range(num_comparisons):
        runs = [rows(run) for run in corpus(np.random.default_rng([7, number]), num_samples)]
        reducing = AggregatedReduction(
            NerF1(NerF1Options()), runs, mean=False
        )  # proven for this metric in test_tally.py
        how = Resampling(num_resamples, seed=number)
        one, other = (each["ner_f1"] for each in bootstrap(reducing, [0, 1], num_samples, how))
        observed = np.diff([reducing.drawn(run, np.ones((1, num_samples)))["ner_f1"][0] for run in (1, 0)])[0]
        exchanged = randomisation(reducing, ([0], [1]), num_samples, how)["ner_f1"]
        told["rejected"] += bool(p_value(exchanged, observed) <= 0.05)
        low, high = interval(one - other, 0.95)
        told["difference_covered"] += bool(low <= 0 <= high)
        low, high = interval(one, 0.95)
        told["figure_covered"] += bool(low <= truth <= high)
    return told


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1660)
    parser.add_argument("--resamples", type=int, default=500)
    chosen = parser.parse_args()
    print(json.dumps(calibrate(chosen.comparisons, chosen.samples, chosen.resamples)))


if __name__ == "__main__":
    main()
