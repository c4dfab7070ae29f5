"""The instrument on known truth, in small; `python bench/dial.py` is the whole of it, its figures in docs/mre.md."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from dial import effect

pytestmark = pytest.mark.slow

CONFIDENCE = 0.99
"""Of the intervals: at 95 % a test would fail one time in twenty where there is nothing."""


@pytest.fixture
def one_thread():
    """As the spec has it, which does not say so of a launch in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_measured_effect_is_none_where_the_dial_is_at_zero_and_large_where_it_is_at_one(tmp_path, one_thread):
    """One seed: what another one would give is the whole proof's affair."""
    none, whole = (
        effect(setting, [1], tmp_path / "runs", f"data.path={tmp_path / 'data'}", confidence=CONFIDENCE, local=True)
        for setting in (0.0, 1.0)
    )
    assert none["low"] <= 0 <= none["high"], none
    assert max(none["high"], 0.15) < whole["low"], (none, whole)
    assert none["alone"] == whole["alone"], "a training on the match alone is the same at every setting"
