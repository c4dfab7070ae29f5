"""The training benchmark runs, its variants give the same losses, and it detects a variant with other losses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.mark.slow
def test_it_prints_ratios_of_variants_with_equal_losses():
    command = [sys.executable, BENCH / "training.py", "--steps", "2", "--repeats", "1", "--models", "balanced"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)["balanced"]
    assert results["times_faster"]["as it comes"] > 1
    assert results["share_of_memory"]["as it comes"] < 1
    assert max(results["largest_difference_of_loss"].values()) < 1e-4


def test_different_losses_are_an_error(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import training

    def fake_measurement(task, variant):
        loss = 2.0 if variant == training.THEIRS else 2.002
        return {"cpu_seconds_a_sample": 1.0, "peak_bytes": 1, "peak_bytes_beyond_state": 1, "losses": [loss]}

    monkeypatch.setattr(training, "_run_in_process", fake_measurement)
    with pytest.raises(SystemExit, match="losses differ"):
        training.measure(training.Task("balanced", steps=1, seed=0), repeats=1)


def test_ratios_are_medians_of_repeats(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import training

    theirs = iter([4.0, 40.0, 4.0])

    def fake_measurement(task, variant):
        seconds = next(theirs) if variant == training.THEIRS else 2.0
        return {
            "cpu_seconds_a_sample": seconds,
            "peak_bytes": seconds,
            "peak_bytes_beyond_state": seconds,
            "losses": [2.0],
        }

    monkeypatch.setattr(training, "_run_in_process", fake_measurement)
    results = training.measure(training.Task("balanced", steps=1, seed=0), repeats=3)
    assert results["times_faster"]["as it comes"] == 2.0
    assert results["share_of_memory"]["as it comes"] == 0.5
    assert results["cpu_seconds_a_sample"][training.THEIRS] == 4.0
