"""The instrument on known truth: the mutual reinforcement that is measured follows the dial of the synthetic data."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from dial import effect

pytestmark = pytest.mark.slow

SEEDS = [1, 2, 3]
CONFIDENCE = 0.99
"""Of the intervals: at 95 % a test would fail one time in twenty where there is nothing."""


def test_the_measured_effect_follows_the_dial(tmp_path):
    """None where the summary tells nothing of the match, and the more the more it tells.

    An effect is one that neither other samples nor other seeds could have made: intervals over samples know nothing of
    how far another seed would be from these.
    """
    none, quarter, half, whole = (
        effect(setting, SEEDS, tmp_path / "runs", f"data.path={tmp_path / 'data'}", confidence=CONFIDENCE)
        for setting in (0.0, 0.25, 0.5, 1.0)
    )
    over_samples, over_seeds = (none["low"], none["high"]), (none["seed_low"], none["seed_high"])
    assert any(low <= 0 <= high for low, high in (over_samples, over_seeds) if low is not None), none
    assert none["high"] < half["low"], (none, half)
    assert quarter["high"] < whole["low"], (quarter, whole)
    assert half["difference"] < whole["difference"], (half, whole)
