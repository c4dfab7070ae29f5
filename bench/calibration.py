"""Measures the error rate of the test and the coverage of the intervals of `runner compare`.

    python bench/calibration.py [--comparisons 1000] [--samples 1660] [--resamples 500]

Simulates pairs of systems of equal quality and compares each pair as `runner compare` does. Prints a JSON document: how
many comparisons the 5 % test rejected, how many 95 % intervals contained the true difference, which is 0, and how many
contained the true F1, that of an infinite corpus.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plugins.metric.extraction import NerF1, NerF1Options
from runner.compare.resampling import (
    AggregatedReduction,
    Resampling,
    approximate_randomisation,
    bootstrap,
    p_value,
    percentile_interval,
)

Columns = tuple[Any, Any, Any]
"""NumPy arrays with the numbers of predicted, reference and matched pairs of each sample."""


def simulate_systems(rng: np.random.Generator, num_samples: int) -> list[Columns]:
    """Draw counts of label-entity pairs for two systems of equal quality; some samples are hard for both."""
    reference = rng.integers(0, 5, size=num_samples)
    ease = rng.beta(4, 1, size=num_samples)
    systems = []
    for _ in range(2):
        matched = rng.binomial(reference, ease)
        predicted = matched + rng.binomial(2, 0.2, size=num_samples)
        systems.append((predicted, reference, matched))
    return systems


def to_counts(system: Columns) -> Sequence[Mapping[str, int]]:
    """Return the counts of each sample in the form that `NerF1` computes."""
    keys = ("predicted", "reference", "matched")
    return [
        dict(zip(keys, values, strict=True)) for values in zip(*(column.tolist() for column in system), strict=True)
    ]


def true_f1() -> float:
    """Return the F1 of a very large corpus, as an approximation of an infinite one."""
    predicted, reference, matched = simulate_systems(np.random.default_rng(0), 2_000_000)[0]
    return float(2 * matched.sum() / (predicted.sum() + reference.sum()))


def calibrate(num_comparisons: int, num_samples: int, num_resamples: int) -> dict[str, int]:
    """Compare simulated systems of equal quality.

    Returns:
        Number of comparisons that were `rejected`, whose difference interval was right (`difference_covered`), and
        whose F1 interval was right (`figure_covered`).
    """
    truth = true_f1()
    counts = {"rejected": 0, "difference_covered": 0, "figure_covered": 0}
    for number in range(num_comparisons):
        runs = [to_counts(system) for system in simulate_systems(np.random.default_rng([7, number]), num_samples)]
        # Aggregation is checked for this metric in tests/compare/test_reductions.py.
        reduction = AggregatedReduction(NerF1(NerF1Options()), runs, mean=False)
        resampling = Resampling(num_resamples, seed=number)
        first, second = (values["ner_f1"] for values in bootstrap(reduction, [0, 1], num_samples, resampling))
        observed = np.diff([reduction.reduce_draws(run, np.ones((1, num_samples)))["ner_f1"][0] for run in (1, 0)])[0]
        exchanged = approximate_randomisation(reduction, ([0], [1]), num_samples, resampling)["ner_f1"]
        counts["rejected"] += bool(p_value(exchanged, observed) <= 0.05)
        low, high = percentile_interval(first - second, 0.95)
        counts["difference_covered"] += bool(low <= 0 <= high)
        low, high = percentile_interval(first, 0.95)
        counts["figure_covered"] += bool(low <= truth <= high)
    return counts


def main() -> None:
    """Run the simulation and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1660)
    parser.add_argument("--resamples", type=int, default=500)
    arguments = parser.parse_args()
    print(json.dumps(calibrate(arguments.comparisons, arguments.samples, arguments.resamples)))


if __name__ == "__main__":
    main()
