"""Measures whether studies of the sizes that `runner power` computes find the difference as often as promised.

    python bench/power.py [--studies 800] [--resamples 250]

For each scenario, a pilot study gives the variances, `runner.compare.power` computes from them the number of test
samples that finds the difference with a probability of 80 %, and studies of this size are simulated. Prints a Markdown
table: what is assumed, the number of samples computed, and the percentage of the studies in which `runner compare`
finds the difference at the level of 5 % (of both sources of chance, or of the samples if there is one seed). The number
of samples is the median over several pilot studies, because a single pilot study with few seeds says little about them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from simulated_runs import Study, simulate_pair

from runner.compare.power import AssumedRates, PowerGoal, StudyPower

GOAL = PowerGoal(0.03, power=0.8, level=0.05)
NUM_PILOTS = 15
"""Pilot studies of each scenario."""
PILOT_SEEDS = 5
"""Seeds of each arm in a pilot study."""


@dataclass(frozen=True)
class Scenario:
    """A study whose number of samples is computed.

    Attributes:
        assumed: What is assumed, in words.
        study: The study, with the number of seeds that it has.
    """

    assumed: str
    study: Study


def scenarios() -> Iterator[Scenario]:
    """Yield the scenarios of the table."""
    one_seed = Study((0.83, 0.8), 1000, both=0.5, arm=0.3)
    yield Scenario("rates", one_seed)
    yield Scenario("pilot, one seed", one_seed)
    yield Scenario("pilot, one seed, clusters", replace(one_seed, num_clusters=500, skew=0.0, arm=0.1, cluster=0.2))
    several = Study((0.83, 0.8), 1000, num_seeds=3, both=0.4, arm=0.2, seed=0.0004)
    yield Scenario("pilot, 3 seeds", several)
    yield Scenario("pilot, 5 seeds, clusters", replace(several, num_seeds=5, num_clusters=500, arm=0.1, cluster=0.1))


def computed_samples(scenario: Scenario, num_resamples: int, goal: PowerGoal = GOAL) -> int:
    """Return the number of test samples that `runner.compare.power` computes for a scenario.

    Raises:
        ValueError: No number of samples suffices.
    """
    study = scenario.study
    numbers = []
    for seed in range(1 if scenario.assumed == "rates" else NUM_PILOTS):
        if scenario.assumed == "rates":
            plan = StudyPower("rate", "a", "b", _rates(study).model(1), None, 1, goal)
        else:
            pilot = replace(study, num_seeds=PILOT_SEEDS if study.num_seeds > 1 else 1)
            test = simulate_pair(pilot, 10_000 + seed, num_resamples).test
            plan = StudyPower.from_pilot(test, pilot.num_samples, goal, None, study.num_seeds)
        numbers.append(plan.samples_needed or np.inf)
    number = median(numbers)
    if not np.isfinite(number):
        raise ValueError(f"{scenario.assumed}: no number of samples suffices")
    return int(number)


def _rates(study: Study) -> AssumedRates:
    """Measure the correlation of both arms' answers on many samples."""
    many = replace(study, num_samples=200_000)
    a, b = ([row["exact"] for row in run] for run in many.draw(np.random.default_rng(3)))
    return AssumedRates(*study.rates, correlation=float(np.corrcoef(a, b)[0, 1]))


def found_share(study: Study, num_samples: int, num_studies: int, num_resamples: int) -> float:
    """Return the share of studies with this number of samples that find the difference."""
    scale = num_samples / study.num_samples
    clusters = None if study.num_clusters is None else round(study.num_clusters * scale)
    planned = replace(study, num_samples=num_samples, num_clusters=clusters)
    found = []
    for seed in range(num_studies):
        test = simulate_pair(planned, seed, num_resamples).test
        found.append((test.both.p_value if test.both else test.p_value) <= GOAL.level)
    return float(np.mean(found))


def main() -> None:
    """Run the simulations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=800)
    parser.add_argument("--resamples", type=int, default=250)
    arguments = parser.parse_args()
    print("| computed from | seeds | samples | found |")
    print("|---|---:|---:|---:|")
    for scenario in scenarios():
        number = computed_samples(scenario, arguments.resamples)
        share = found_share(scenario.study, number, arguments.studies, arguments.resamples)
        print(f"| {scenario.assumed} | {scenario.study.num_seeds} | {number:,} | {100 * share:.1f} |", flush=True)


if __name__ == "__main__":
    main()
