"""The comparison of two builds counts what a command leaves running, and fails with a command that fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import against

MEASURED = """\
import ctypes, sys
from pathlib import Path
import against

if "alone" in sys.argv:
    against._control_group = lambda: None
ctypes.CDLL(None).prctl(against.BE_SUBREAPER, 1, 0, 0, 0)
work = "sum(number * number for number in range(4_000_000))"
leaves_work = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {work!r}], start_new_session=True)"
print(*(against.tree_seconds([sys.executable, "-c", code], Path()) for code in ("pass", leaves_work)))
against.tree_seconds([sys.executable, "-c", "raise SystemExit('no')"], Path())
"""


@pytest.mark.parametrize("way", ["grouped", "alone"])
def test_what_outlives_a_command_is_counted_and_one_that_fails_ends_it(way):
    """In a process of its own, as it takes up what others leave."""
    done = subprocess.run([sys.executable, "-c", MEASURED, way], cwd=BENCH, capture_output=True, text=True, check=False)
    nothing, work = map(float, done.stdout.split())
    assert work > nothing + 0.05
    assert done.returncode == 1
    assert "CalledProcessError" in done.stderr


def test_the_answers_are_as_many_and_as_long_as_the_papers(tmp_path):
    against.write_answers(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "right.jsonl").read_text().splitlines()]
    summaries = [row["target"].partition("Task 2")[0].removeprefix("Task 1 Answer: ").split() for row in rows]
    assert len(rows) == against.NUM_ANSWERS == len((tmp_path / "answers.jsonl").read_text().splitlines())
    assert sum(map(len, summaries)) / len(rows) == pytest.approx(against.WORDS_PER_SUMMARY, abs=1)
