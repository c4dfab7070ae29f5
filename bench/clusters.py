"""Measures intervals and tests of `runner compare` on test samples that are not independent.

    python bench/clusters.py [--comparisons 500] [--resamples 400]

Simulates pairs of systems whose answers to the samples of one cluster are often right or wrong together, and compares
each pair twice: with the clusters, and as if all samples were independent. Prints a Markdown table with one row for
each scenario: the metric, the values of both systems, number and sizes of clusters, and the design effect (the variance
of the difference, divided by that of independent samples). The other columns are percentages of the comparisons, first
with clusters, then without:

- covered: the 95 % interval contains the true difference;
- rejected: the test rejects equality at the level of 5 %; only for systems with equal values.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from simulated_runs import Study, simulate_pair

LEVEL = 0.05
CORRELATED = Study((0.8, 0.8), num_clusters=1100, skew=0.8, both=0.2, arm=0.05, cluster=0.7)
"""As many samples and clusters as a data set of tweets that share images, with strongly correlated answers."""


def scenarios() -> Iterator[Study]:
    """Yield the studies of the table: equal and unequal values, two metrics, few clusters, and no correlation."""
    for metric in ("exact_match", "ner_f1"):
        for rates in ((0.8, 0.8), (0.83, 0.8), (0.97, 0.97)):
            yield replace(CORRELATED, rates=rates, metric=metric)
    yield replace(CORRELATED, cluster=0.0, arm=0.75)
    yield replace(CORRELATED, skew=0.0)
    for num_clusters in (20, 40, 80):
        yield replace(CORRELATED, num_samples=10 * num_clusters, num_clusters=num_clusters, skew=0.0)


def simulate(study: Study, num_comparisons: int, num_resamples: int, *, use_clusters: bool) -> dict[str, float]:
    """Compare many pairs of a study.

    Returns:
        The shares of comparisons whose interval `covered` the true difference, and in which the test `rejected`
        equality; and the mean `design_effect`.
    """
    tests = [
        simulate_pair(study, seed, num_resamples, use_clusters=use_clusters).test for seed in range(num_comparisons)
    ]
    covered = [test.low <= study.difference <= test.high for test in tests if None not in (test.low, test.high)]
    return {
        "covered": float(np.mean(covered)),
        "rejected": float(np.mean([test.p_value <= LEVEL for test in tests])),
        "design_effect": float(np.mean([test.design_effect or 1.0 for test in tests])),
    }


def main() -> None:
    """Run the simulations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=400)
    arguments = parser.parse_args()
    print(
        "| metric | values | samples | clusters | largest | design effect | covered | rejected | covered, independent "
        "| rejected, independent |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for study in scenarios():
        shares = [
            simulate(study, arguments.comparisons, arguments.resamples, use_clusters=use) for use in (True, False)
        ]
        is_null = study.rates[0] == study.rates[1]
        cells = [
            f"{100 * each[name]:.1f}" if is_null or name == "covered" else "–"
            for each in shares
            for name in ("covered", "rejected")
        ]
        clusters = study.clusters
        print(
            f"| `{study.metric}` | {study.rates[0]:g}, {study.rates[1]:g} | {study.num_samples:,} "
            f"| {clusters.num_clusters:,} | {clusters.largest} | {shares[0]['design_effect']:.2f} "
            f"| {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
