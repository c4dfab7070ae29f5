"""Where nothing differs, the test finds a difference as often as it says; and intervals hold what is true as often."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from calibration import calibrate

NUM_SAMPLES, NUM_RESAMPLES = 300, 250
"""Smaller than a test split, so that a thousand take seconds; `python bench/calibration.py` is the whole."""


@pytest.mark.slow
def test_of_1000_comparisons_of_equals_one_in_twenty_is_found_different_and_95_of_100_intervals_hold_the_truth():
    told = calibrate(1000, NUM_SAMPLES, NUM_RESAMPLES)
    assert 30 <= told["rejected"] <= 70
    assert 930 <= told["difference_covered"] <= 970
    assert 930 <= told["figure_covered"] <= 970
