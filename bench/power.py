"""Measures whether studies of the sizes that `runner power` computes find the difference as often as promised.

    python bench/power.py [--studies 600] [--resamples 150]

For each scenario, `runner.compare.power` computes the number of test samples that finds a difference of three points
with a probability of 80 %, and studies of this size are simulated. Prints a Markdown table: what the number is computed
from, the number of seeds, the number of samples, and the percentage of the studies in which `runner compare` finds the
difference at the level of 5 % (of both sources of chance, or of the samples if there is one seed). With `pilots`, the
number of samples is the median over several pilot studies, because a single one with few seeds says little of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from scipy import stats
from simulated_runs import Study, simulate_pair

from runner.compare.power import AssumedRates, ErrorModel, PowerGoal, StudyPower
from runner.compare.variance_components import SeedVariance

GOAL = PowerGoal(0.03, power=0.8, level=0.05)
NUM_PILOTS = 15
"""Pilot studies of each scenario."""
PILOT_SEEDS = 5
"""Seeds of each arm in a pilot study."""


RATES, KNOWN, PILOTS = "rates", "variances", "pilots"
"""What a number of samples is computed from: assumed rates, the true variances, or simulated pilot studies."""


@dataclass(frozen=True)
class Scenario:
    """A study whose number of samples is computed.

    Attributes:
        source: What the number is computed from.
        study: The study, with the number of seeds that it has.
    """

    source: str
    study: Study


def scenarios() -> Iterator[Scenario]:
    """Yield the scenarios of the table."""
    one_seed = Study((0.83, 0.8), 1000, both=0.5, arm=0.3)
    yield Scenario(RATES, one_seed)
    yield Scenario(PILOTS, one_seed)
    yield Scenario(PILOTS, replace(one_seed, num_clusters=500, arm=0.1, cluster=0.2))
    for num_seeds, seed in ((3, 0.0004), (5, 0.0004), (5, 0.001)):
        yield Scenario(KNOWN, Study((0.83, 0.8), 1000, num_seeds=num_seeds, both=0.4, arm=0.2, seed=seed))
    several = Study((0.83, 0.8), 1000, num_seeds=3, both=0.4, arm=0.2, seed=0.0004)
    yield Scenario(PILOTS, several)
    yield Scenario(PILOTS, replace(several, num_seeds=5, num_clusters=500, arm=0.1, cluster=0.1))


def computed_samples(scenario: Scenario, num_resamples: int, goal: PowerGoal = GOAL) -> int:
    """Return the number of test samples that `runner.compare.power` computes for a scenario.

    Raises:
        ValueError: No number of samples suffices.
    """
    study = scenario.study
    if scenario.source == PILOTS:
        numbers = [_from_pilot(study, 10_000 + seed, num_resamples, goal) for seed in range(NUM_PILOTS)]
        number = median(each or np.inf for each in numbers)
    else:
        model = _rates(study).model(1) if scenario.source == RATES else known_model(study)
        number = StudyPower("rate", "a", "b", model, None, study.num_seeds, goal).samples_needed or np.inf
    if not np.isfinite(number):
        raise ValueError(f"{scenario}: no number of samples suffices")
    return int(number)


def _from_pilot(study: Study, seed: int, num_resamples: int, goal: PowerGoal) -> int | None:
    pilot = replace(study, num_seeds=PILOT_SEEDS if study.num_seeds > 1 else 1)
    test = simulate_pair(pilot, seed, num_resamples).test
    return StudyPower.from_pilot(test, pilot.num_samples, goal, None, study.num_seeds).samples_needed


def _rates(study: Study) -> AssumedRates:
    """Measure the correlation of both arms' answers on many samples."""
    many = replace(study, num_samples=200_000)
    a, b = ([row["exact"] for row in run] for run in many.draw(np.random.default_rng(3)))
    return AssumedRates(*study.rates, correlation=float(np.corrcoef(a, b)[0, 1]))


def known_model(study: Study) -> ErrorModel:
    """Return the true variances of `exact_match` for a study without clusters, for one test sample."""

    def covariance(rates: tuple[float, float], correlation: float) -> float:
        """Return that of two answers whose normal variables have this correlation."""
        normal = stats.multivariate_normal(cov=[[1, correlation], [correlation, 1]])
        return float(normal.cdf(stats.norm.ppf(rates))) - rates[0] * rates[1]

    of_samples, groups = -2 * covariance(study.rates, study.both), []
    for rate in study.rates:
        of_seed = covariance((rate, rate), study.seed)
        of_sample = covariance((rate, rate), study.both + study.arm)
        of_samples += of_sample
        interaction = rate * (1 - rate) - of_sample - of_seed
        groups.append(SeedVariance(study.num_seeds, rate, of_seed + interaction, interaction))
    return ErrorModel(of_samples, (groups[0], groups[1]), 1)


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
    parser.add_argument("--studies", type=int, default=600)
    parser.add_argument("--resamples", type=int, default=150)
    arguments = parser.parse_args()
    print("| computed from | seeds | variance of seeds | clusters | samples | found |")
    print("|---|---:|---:|---|---:|---:|")
    for scenario in scenarios():
        number = computed_samples(scenario, arguments.resamples)
        share = found_share(scenario.study, number, arguments.studies, arguments.resamples)
        clusters = "yes" if scenario.study.num_clusters else "no"
        study = f"{scenario.study.num_seeds} | {scenario.study.seed:g} | {clusters}"
        print(f"| {scenario.source} | {study} | {number:,} | {100 * share:.1f} |", flush=True)


if __name__ == "__main__":
    main()
