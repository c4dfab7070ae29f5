"""The instrument on known truth: the mutual reinforcement that is measured follows the dial of the synthetic data."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from dial import effect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SEEDS = [1, 2]


def test_the_measured_effect_follows_the_dial(tmp_path):
    """None where the summary tells nothing of the match, and the more the more it tells."""
    none, half, whole = (
        effect(setting, SEEDS, tmp_path / "runs", f"data.path={tmp_path / 'data'}") for setting in (0.0, 0.5, 1.0)
    )
    assert none["low"] <= 0 <= none["high"], none
    assert none["difference"] < half["difference"] < whole["difference"], (none, half, whole)
    assert half["low"] > none["high"], (none, half)
    assert whole["low"] > half["high"], (half, whole)
