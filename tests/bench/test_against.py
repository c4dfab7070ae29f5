"""The comparison of two checkouts counts processes that outlive a command, and fails if a command fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import against

SCRIPT = """\
import ctypes, sys
from pathlib import Path
import against

if "no_control_group" in sys.argv:
    against._create_control_group = lambda: None
ctypes.CDLL(None).prctl(against.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
work = "sum(number * number for number in range(4_000_000))"
leave_orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {work!r}], start_new_session=True)"
print(*(against.tree_seconds([sys.executable, "-c", code], Path()) for code in ("pass", leave_orphan)))
against.tree_seconds([sys.executable, "-c", "raise SystemExit('no')"], Path())
"""


@pytest.mark.parametrize("method", ["control_group", "no_control_group"])
def test_processes_that_outlive_a_command_count_and_a_failing_command_raises(method):
    """Runs in its own process, as it adopts all orphaned processes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, method], cwd=BENCH, capture_output=True, text=True, check=False
    )
    idle, work = map(float, done.stdout.split())
    assert work > idle + 0.05
    assert done.returncode == 1
    assert "CalledProcessError" in done.stderr


def test_number_and_length_of_predictions_are_those_of_the_paper(tmp_path):
    against.write_predictions(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "references.jsonl").read_text().splitlines()]
    summaries = [row["target"].partition("Task 2")[0].removeprefix("Task 1 Answer: ").split() for row in rows]
    assert len(rows) == against.NUM_PREDICTIONS == len((tmp_path / "predictions.jsonl").read_text().splitlines())
    assert sum(map(len, summaries)) / len(rows) == pytest.approx(against.WORDS_PER_SUMMARY, abs=1)
