"""The training benchmark runs, its ways learn the same, and it notices one that does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.mark.slow
def test_it_prints_ratios_of_ways_that_learn_the_same():
    command = [sys.executable, BENCH / "training.py", "--steps", "2", "--repeats", "1", "--models", "balanced"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)["balanced"]
    assert told["times_faster"]["as it comes"] > 1
    assert told["share_of_memory"]["as it comes"] < 1
    assert max(told["largest_difference_of_loss"].values()) < 1e-4


def test_losses_that_differ_end_it(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import training

    def trained(task, way):
        loss = 2.0 if way == training.THEIRS else 2.002
        return {"cpu_seconds_a_sample": 1.0, "peak_bytes": 1, "peak_bytes_beyond_state": 1, "losses": [loss]}

    monkeypatch.setattr(training, "_in_a_process", trained)
    with pytest.raises(SystemExit, match="losses differ"):
        training.measured(training.Task("balanced", steps=1, seed=0), repeats=1)


def test_ratios_are_medians_of_repeats(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import training

    theirs = iter([4.0, 40.0, 4.0])

    def trained(task, way):
        seconds = next(theirs) if way == training.THEIRS else 2.0
        return {
            "cpu_seconds_a_sample": seconds,
            "peak_bytes": seconds,
            "peak_bytes_beyond_state": seconds,
            "losses": [2.0],
        }

    monkeypatch.setattr(training, "_in_a_process", trained)
    told = training.measured(training.Task("balanced", steps=1, seed=0), repeats=3)
    assert told["times_faster"]["as it comes"] == 2.0
    assert told["share_of_memory"]["as it comes"] == 0.5
    assert told["cpu_seconds_a_sample"][training.THEIRS] == 4.0
