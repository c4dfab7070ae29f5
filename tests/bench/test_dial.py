"""Small version of `python bench/dial.py`, whose results are in docs/mre.md: the measured effect on known data."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from dial import measure_effect

pytestmark = pytest.mark.slow

CONFIDENCE = 0.99
"""Level of the intervals: at 95 %, a test without an effect would fail one time in twenty."""


@pytest.fixture
def one_thread():
    """Use one thread, as the spec does for workers but not for a launch in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_measured_effect_is_zero_at_dial_zero_and_large_at_dial_one(tmp_path, one_thread):
    """Uses one seed; the benchmark uses several."""
    without_effect, with_effect = (
        measure_effect(
            setting, [1], tmp_path / "runs", f"data.path={tmp_path / 'data'}", confidence=CONFIDENCE, local=True
        )
        for setting in (0.0, 1.0)
    )
    assert without_effect["low"] <= 0 <= without_effect["high"], without_effect
    assert max(without_effect["high"], 0.15) < with_effect["low"], (without_effect, with_effect)
    assert without_effect["alone"] == with_effect["alone"], (
        "training on the match task alone must not depend on the dial"
    )
