"""A killed and relaunched training ends with the same weights: one kill with a seed for each setting, for CI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).parent.parent.parent / "bench" / "kill_drill.py"


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "strategy"), [(1, "ddp"), (2, "fsdp")])
def test_one_kill_changes_no_bit_of_the_weights(workers, strategy):
    options = ["--kills", "1", "--workers", workers, "--strategy", strategy, "--seed", 4, "--moments", "write"]
    command = [sys.executable, DRILL, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [result] = json.loads(done.stdout)
    [kill] = result["kills"]
    assert kill["same_weights"]
