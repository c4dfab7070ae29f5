"""Small versions of bench/clusters.py, bench/seeds.py and bench/power.py."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import clusters as clusters_bench
import power as power_bench
import seeds as seeds_bench
from simulated_runs import Study, simulate_pair

SMALL = replace(clusters_bench.CORRELATED, num_samples=300, num_clusters=150, skew=0.4)


def test_clusters_repair_intervals_and_tests_of_correlated_samples():
    with_clusters, independent = (
        clusters_bench.simulate(SMALL, 200, 200, use_clusters=use_clusters) for use_clusters in (True, False)
    )
    assert independent["covered"] < 0.88
    assert independent["rejected"] > 0.12
    assert 0.905 <= with_clusters["covered"] <= 0.985
    assert 0.015 <= with_clusters["rejected"] <= 0.095
    assert with_clusters["design_effect"] > 1.4 > independent["design_effect"] == 1


@pytest.mark.parametrize("shared", [0.9, 0.6])
def test_the_interval_over_both_sources_covers_the_difference_of_training_methods(shared):
    study = Study((0.8, 0.8), 200, num_seeds=3, both=shared - 0.2, arm=0.2 - 0.02, seed=0.02)
    found = seeds_bench.simulate(study, 200, 100)
    assert found["over_samples"] < 0.93
    assert 0.92 <= found["both"] <= 0.995
    assert found["both"] <= found["sum"]


def test_a_study_of_the_computed_size_finds_the_difference_as_often_as_promised():
    study = Study((0.9, 0.8), 200, num_seeds=3, both=0.4, arm=0.2, seed=0.001)
    goal = replace(power_bench.GOAL, difference=study.difference)
    scenario = power_bench.Scenario(power_bench.KNOWN, study)
    number = power_bench.computed_samples(scenario, 100, goal)
    assert 0.74 <= power_bench.found_share(study, number, 300, 100) <= 0.87
    # A third of the samples finds it clearly less often.
    assert power_bench.found_share(study, number // 3, 100, 100) < 0.6


@pytest.mark.parametrize("metric", ["exact_match", "ner_f1"])
def test_the_simulated_difference_is_the_expected_one(metric):
    study = Study((0.9, 0.7), 20_000, metric=metric, num_clusters=15_000, cluster=0.2, seed=0.0)
    test = simulate_pair(study, 1, 100).test
    assert test.difference == pytest.approx(study.difference, abs=0.015)
    assert np.bincount(study.clusters.indices).sum() == 20_000
