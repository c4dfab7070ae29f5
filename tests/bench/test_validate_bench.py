"""bench/validate.py runs and prints its measurements."""

import json
import subprocess
import sys
from pathlib import Path


def test_it_prints_seconds_and_their_ratio():
    script = Path(__file__).parents[2] / "bench" / "validate.py"
    done = subprocess.run([sys.executable, script, "--rounds", "1"], capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)
    assert results["validate"]["min"] > results["libraries"]["min"] > 0
    assert results["ratio"] > 1
