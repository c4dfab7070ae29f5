"""The error rate of the test and the coverage of the intervals on simulated systems of equal quality."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from calibration import calibrate
from claim_calibration import Scenario, rates

NUM_SAMPLES, NUM_RESAMPLES = 300, 250
"""Smaller than a test split, so that a thousand take seconds; `python bench/calibration.py` is the whole."""


@pytest.mark.slow
def test_claims_without_a_difference_are_seldom_supported_although_seeds_differ():
    """The test over samples or over seeds would often support such claims, and so would these two without both."""
    found = rates(Scenario(num_seeds=10, seed_deviation=0.05, arm_deviation=0.3, difference=0.0), 300, 300, 200)
    assert max(found["supported"], found["refuted"]) <= 0.07
    assert min(found["by samples"], found["by seeds"], found["by each"]) > 0.08


@pytest.mark.slow
def test_5_percent_of_equal_systems_differ_and_95_percent_of_intervals_cover_the_truth():
    counts = calibrate(1000, NUM_SAMPLES, NUM_RESAMPLES)
    assert 30 <= counts["rejected"] <= 70
    assert 930 <= counts["difference_covered"] <= 970
    assert 930 <= counts["figure_covered"] <= 970
