"""A sweep in which something is killed ends as one that nobody disturbed: one seeded kill of each, as CI runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).parent.parent.parent / "bench" / "sweep_kills.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kill", ["driver", "worker", "server", "node"])
def test_one_kill_changes_no_trial_and_no_metric(kill):
    command = [sys.executable, DRILL, "--kill", kill, "--kills", "1", "--trials", "4", "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [told] = json.loads(done.stdout)["kills"]
    assert told["kill"] == kill and not told["was_over"]
