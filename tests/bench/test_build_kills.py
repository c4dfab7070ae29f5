"""A killed and restarted build gives the same data set: one kill with a seed, for CI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).parent.parent.parent / "bench" / "build_kills.py"


@pytest.mark.slow
def test_one_kill_changes_no_byte_and_answered_requests_are_not_repeated():
    command = [sys.executable, DRILL, "--kills", "1", "--tweets", "160", "--seed", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)
    [kill] = results["kills"]
    assert kill["other_files"] == []
    assert kill["asked_twice_in_this_build"] <= kill["underway"]
