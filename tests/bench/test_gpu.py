"""The GPU benchmark proves itself on a CPU: every way gives the same loss, and the plan knows what it takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
NEEDED = "import sys; sys.modules.update(pydantic=None, accelerate=None, peft=None, ray=None, mlflow=None); import gpu"


def test_it_needs_torch_and_transformers_alone():
    subprocess.run([sys.executable, "-c", NEEDED], cwd=BENCH, check=True)


@pytest.mark.slow
def test_every_way_gives_the_same_loss_within_what_is_planned():
    command = [sys.executable, BENCH / "gpu.py", "--samples", "2", "--repeats", "1"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len({round(way["loss"], 3) for way in told["ways"].values()}) == 1
    for way in told["ways"].values():
        assert way["planned_over_peak"] == pytest.approx(1, abs=0.15)
    assert told["device"] == "cpu"
