"""bench/host_memory.py measures both procedures, which save the same weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_both_procedures_of_a_small_model_are_measured():
    command = [sys.executable, Path(__file__).parents[2] / "bench" / "host_memory.py"]
    command += ["--workers", "2", "--shape", "small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    group = json.loads(done.stdout)["2 workers"]
    assert group["mapped"]["sha256"] == group["copies"]["sha256"]
    for phase in ("load", "train", "save"):
        assert group["mapped"][phase]["pss_gb"] >= group["mapped"][phase]["own_gb"] > 0.1
        assert group["ratios"][phase]["own_gb"] > 0
