"""A trial's folder survives kills and two launches at once."""

import pytest

from runner.errors import Problem, SpecError, StepError
from runner.files import read_lines, write_lines
from runner.trial.run_directory import RunDirectory
from runner.trial.run_trial import Outcome


def test_lines_are_written_whole_and_a_torn_one_is_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_lines(path) == []
    rows = [{"id": "1", "output": "line\u2028separator"}, {"id": "2", "output": "x\ny"}]
    write_lines(path, rows)
    assert read_lines(path) == rows
    with path.open("a") as file:
        file.write('{"id": "3", "outp')
    assert read_lines(path) == rows
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"], "nothing unfinished is left"


def test_two_launches_never_share_a_trial(tmp_path):
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(StepError, match="another launch"),
        RunDirectory(tmp_path).locked(),
    ):
        raise AssertionError("locked twice")


def test_clearing_keeps_only_the_lock_that_is_held_and_turns_from_the_cache(tmp_path):
    run = RunDirectory(tmp_path)
    with run.locked():
        (run.checkpoints / "step").mkdir(parents=True)
        run.metrics.write_text("{}")
        run.clear()
        assert {entry.name for entry in tmp_path.iterdir()} == {".lock", ".afresh"}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("finished"),
        Outcome("interrupted"),
        Outcome("failed", StepError("loss is nan"), "Traceback"),
        Outcome("failed", SpecError([Problem("one", ("a", 0)), Problem("two", ("b",))]), "Traceback"),
    ],
)
def test_an_outcome_crosses_as_plain_data(outcome):
    crossed = Outcome.from_json(outcome.as_json())
    assert (crossed.status, crossed.trace) == (outcome.status, outcome.trace)
    assert type(crossed.error) is type(outcome.error)
    assert str(crossed.error) == str(outcome.error)
    if isinstance(outcome.error, SpecError):
        assert [each.path for each in crossed.error.problems] == [each.path for each in outcome.error.problems]
