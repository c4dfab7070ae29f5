"""A sweep in which something is killed ends as one that nobody disturbed: one seeded kill of each, as CI runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).parent.parent.parent / "bench" / "sweep_kills.py"


@pytest.mark.slow
def test_one_kill_of_each_kind_changes_no_trial_and_no_metric():
    command = [sys.executable, DRILL, "--kills", "1", "--trials", "4", "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = json.loads(done.stdout)["kills"]
    assert [each["kill"] for each in kills] == ["driver", "worker", "server", "node"]
    assert not any(each["was_over"] for each in kills)
