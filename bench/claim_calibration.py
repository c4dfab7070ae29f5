"""Measures how often the verdicts of `runner compare` on claims are wrong, and how often they decide.

    python bench/claim_calibration.py [--claims 1000] [--samples 600] [--resamples 300]

Simulates claims that one arm exceeds another one by a threshold. An answer is right with a chance that depends on the
sample, on the arm, and on a random effect of each seed. Prints a Markdown table with one row for each scenario: the
number of seeds of each arm, the standard deviation of the seed's effect on the accuracy, that of the arm's effect on
single samples, and the true difference; the threshold is 0. The other columns are percentages of the claims:

- supported, refuted: the verdict of `runner compare`, for a single claim at the level of 5 %;
- by samples: the claim would be supported if the test over samples alone decided;
- by seeds: the claim would be supported if the test over seeds alone decided;
- by each: the claim would be supported if these two tests decided, without the one over both together.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product

import numpy as np
from simulated_runs import Floats, measure_pair

from runner.compare.claim_evidence import Evidence, decide, measure_evidence
from runner.compare.resampling import Resampling

LEVEL = 0.05
ACCURACY = 0.6
DIFFICULTY = 0.25
"""Standard deviation of the chance of a right answer over samples."""


@dataclass(frozen=True)
class Scenario:
    """Two arms with a true difference.

    Attributes:
        num_seeds: The number of runs of each arm.
        seed_deviation: The standard deviation over seeds of the accuracy.
        arm_deviation: The standard deviation over samples of each arm's own effect on the chance of a right answer.
        difference: The true difference of the accuracies, before chances are cut to the range from 0 to 1.
    """

    num_seeds: int
    seed_deviation: float
    arm_deviation: float
    difference: float


def draw_answers(scenario: Scenario, num_samples: int, random: np.random.Generator) -> Floats:
    """Draw whether each run (a row; first those of the first arm) answers each sample (a column) rightly."""
    difficulty = random.normal(0, DIFFICULTY, num_samples)
    rows = []
    for difference in (scenario.difference, 0.0):
        effect = random.normal(0, scenario.arm_deviation, num_samples)
        for _ in range(scenario.num_seeds):
            chance = ACCURACY + difference + random.normal(0, scenario.seed_deviation) + difficulty + effect
            rows.append(random.random(num_samples) < chance)
    return np.array(rows, dtype=np.float64)


def measure(scenario: Scenario, num_samples: int, resampling: Resampling) -> Evidence:
    """Simulate the runs of both arms, and collect the evidence as `runner compare` does."""
    answers = draw_answers(scenario, num_samples, np.random.default_rng([11, resampling.seed]))
    counts = [[{"exact": value} for value in row] for row in answers.tolist()]
    simulated = measure_pair("exact_match", counts, resampling)
    return measure_evidence(simulated.metric, simulated.pair, 0.0, resampling)


def rates(scenario: Scenario, num_claims: int, num_samples: int, num_resamples: int) -> dict[str, float]:
    """Return the share of claims that are supported, that are refuted, and that one test alone would support."""
    found = [measure(scenario, num_samples, Resampling(num_resamples, seed)) for seed in range(num_claims)]
    verdicts = [decide([each.combined], [LEVEL])[0].verdict for each in found]
    return {
        "supported": verdicts.count("supported") / num_claims,
        "refuted": verdicts.count("refuted") / num_claims,
        "by samples": float(np.mean([each.samples.greater <= LEVEL for each in found])),
        "by seeds": float(np.mean([each.seeds is not None and each.seeds.greater <= LEVEL for each in found])),
        "by each": float(
            np.mean(
                [each.seeds is not None and max(each.samples.greater, each.seeds.greater) <= LEVEL for each in found]
            )
        ),
    }


RUNS = ((3, 0.0, 0.0), (3, 0.03, 0.0), (3, 0.01, 0.3), (3, 0.03, 0.3), (5, 0.03, 0.3), (10, 0.04, 0.3))
"""Numbers of seeds, standard deviations over seeds, and of the arm's effect over samples."""
SCENARIOS = [Scenario(*runs, difference) for difference, runs in product((0.0, 0.04), RUNS)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=1000, help="simulated claims of each scenario")
    parser.add_argument("--samples", type=int, default=600, help="test samples")
    parser.add_argument("--resamples", type=int, default=300, help="bootstrap resamples")
    options = parser.parse_args()
    print("| seeds | over seeds | over samples | difference | supported | refuted | by samples | by seeds | by each |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for scenario in SCENARIOS:
        shares = rates(scenario, options.claims, options.samples, options.resamples).values()
        names = (scenario.num_seeds, scenario.seed_deviation, scenario.arm_deviation, f"{scenario.difference:.2f}")
        print(f"| {' | '.join([*map(str, names), *(f'{share:.1%}' for share in shares)])} |", flush=True)


if __name__ == "__main__":
    main()
