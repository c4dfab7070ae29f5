"""A sweep with a kill ends like an undisturbed one: one kill of each kind with a seed, for CI."""

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
    assert [kill["kill"] for kill in kills] == ["driver", "worker", "server", "node"]
    assert all(kill["states"] for kill in kills), "each kill came after the first trial had begun"
