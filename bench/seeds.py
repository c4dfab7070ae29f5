"""Measures the interval of `runner compare` over samples and seeds together.

    python bench/seeds.py [--comparisons 500] [--resamples 250]

Simulates pairs of training methods with several seeds each, and compares each pair. The methods are equally good: the
mean over all seeds and samples is the same. Prints a Markdown table with one row for each scenario. The first columns
are the number of seeds of each method, and the standard deviation over seeds of a run's value in percentage points: of
what the seed changes on any test samples (`seed`), and of the interaction, that is, of what it changes on these test
samples only (`interaction`). `samples` is the standard error of the difference over samples, with the same models. The
other columns are the percentages of comparisons in which the 95 % interval contains the true difference:

- over samples: the interval for these trained models;
- over seeds: Welch's interval for these test samples;
- sum: the interval with the sum of both variances, in which the interaction counts twice;
- both: the interval over both sources of `runner compare`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from simulated_runs import Study, simulate_pair

from runner.compare.variance_components import both_sources

CONFIDENCE = 0.95
CLUSTERED = Study((0.8, 0.8), num_clusters=1100, skew=0.8, both=0.3, arm=0.1, cluster=0.2)
"""A test split of tweets that share images; seed and rest are set by each scenario."""


def scenarios() -> Iterator[Study]:
    """Yield the studies of the table, with few and with many differences between runs of different seeds."""
    for num_seeds in (3, 5):
        # The variance of what is the same for all seeds, and the variance of the seed.
        for shared, seed in ((0.95, 0.0), (0.95, 0.0004), (0.95, 0.004), (0.6, 0.0), (0.6, 0.0004), (0.6, 0.004)):
            scale = shared / (CLUSTERED.both + CLUSTERED.arm + CLUSTERED.cluster)
            yield replace(
                CLUSTERED,
                num_seeds=num_seeds,
                both=CLUSTERED.both * scale,
                arm=CLUSTERED.arm * scale,
                cluster=CLUSTERED.cluster * scale,
                seed=seed,
            )
    yield replace(CLUSTERED, num_seeds=3, seed=0.0004, metric="ner_f1")
    yield replace(CLUSTERED, num_seeds=3, seed=0.0004, rates=(0.97, 0.97))


def simulate(study: Study, num_comparisons: int, num_resamples: int) -> dict[str, float]:
    """Compare many pairs of a study.

    Returns:
        The shares of comparisons whose interval covers the true difference, `over_samples`, `over_seeds`, by the `sum`
        of the variances and over `both`; and the standard deviations `seed`, `interaction` and `samples`, in the units
        of the metric.
    """
    rows = []
    for number in range(num_comparisons):
        test = simulate_pair(study, number, num_resamples).test
        groups = test.components.varying_groups
        assert groups is not None
        a, b = (replace(group, interaction=0.0) for group in groups)
        summed = both_sources(test.difference, replace(test.components, groups=(a, b)), CONFIDENCE)
        interaction = float(np.mean([group.interaction for group in groups]))
        total = float(np.mean([group.total for group in groups]))
        rows.append(
            [
                _covers(test, study.difference),
                _covers(test.seeds, study.difference),
                _covers(summed, study.difference),
                _covers(test.both, study.difference),
                total - interaction,
                interaction,
                test.components.over_samples,
            ]
        )
    means = np.mean(rows, axis=0)
    names = ("over_samples", "over_seeds", "sum", "both", "seed", "interaction", "samples")
    found = dict(zip(names, means.tolist(), strict=True))
    return {**found, **{name: max(found[name], 0.0) ** 0.5 for name in names[-3:]}}


def _covers(interval: Any, difference: float) -> bool:
    # Without an interval, nothing is claimed.
    return interval is None or None in (interval.low, interval.high) or interval.low <= difference <= interval.high


def main() -> None:
    """Run the simulations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=250)
    arguments = parser.parse_args()
    print("| metric | value | seeds | seed | interaction | samples | over samples | over seeds | sum | both |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for study in scenarios():
        found = simulate(study, arguments.comparisons, arguments.resamples)
        deviations = " | ".join(f"{100 * found[name]:.2f}" for name in ("seed", "interaction", "samples"))
        shares = " | ".join(f"{100 * found[name]:.1f}" for name in ("over_samples", "over_seeds", "sum", "both"))
        row = f"| `{study.metric}` | {study.rates[0]:g} | {study.num_seeds} | {deviations} | {shares} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
