"""The run directory survives kills and simultaneous launches."""

import json
from datetime import UTC, datetime
from threading import Thread

import pytest

from runner.errors import Problem, SpecError, StepError
from runner.files import read_jsonl, write_jsonl
from runner.trial.run_directory_and_events import STEPS, RunDirectory
from runner.trial.run_trial import Outcome


def test_jsonl_is_written_atomically_and_a_truncated_line_is_ignored(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_jsonl(path) == []
    rows = [{"id": "1", "output": "line\u2028separator"}, {"id": "2", "output": "x\ny"}]
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows
    with path.open("a") as file:
        file.write('{"id": "3", "outp')
    assert read_jsonl(path) == rows
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"], "no temporary file is left"


def test_a_second_launch_cannot_lock_a_trial(tmp_path):
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(StepError, match="another launch"),
        RunDirectory(tmp_path).locked(),
    ):
        raise AssertionError("locked twice")


def test_clear_keeps_only_the_lock_and_disables_the_cache(tmp_path):
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
def test_an_outcome_survives_conversion_to_plain_data(outcome):
    restored = Outcome.from_json(outcome.as_json())
    assert (restored.status, restored.trace) == (outcome.status, outcome.trace)
    assert type(restored.error) is type(outcome.error)
    assert str(restored.error) == str(outcome.error)
    if isinstance(outcome.error, SpecError):
        assert [each.path for each in restored.error.problems] == [each.path for each in outcome.error.problems]


def test_forgotten_steps_run_again_without_the_cache_and_the_others_stay(tmp_path):
    run = RunDirectory(tmp_path)
    for file in (run.predictions, run.scores, run.metrics):
        file.write_text("x")
    run.model.mkdir()
    started = datetime.now(UTC)
    for step in STEPS:
        run.record_step(step, "finished", started)
    assert all(run.uses_cache(step) for step in STEPS)
    run.forget_steps("score")
    assert [step for step in STEPS if run.is_finished(step)] == ["train", "generate"]
    assert [step for step in STEPS if run.uses_cache(step)] == ["train", "generate"]
    assert run.predictions.exists() and not run.scores.exists()
    run.forget_steps("generate")
    assert [step for step in STEPS if run.is_finished(step)] == ["train"]
    assert [step for step in STEPS if run.uses_cache(step)] == ["train"]
    assert run.model.exists() and not run.predictions.exists()
    run.forget_steps("train")
    assert not any(run.is_finished(step) or run.uses_cache(step) for step in STEPS)
    assert not run.model.exists()


def test_a_request_to_run_again_holds_until_the_steps_have_run(tmp_path):
    run = RunDirectory(tmp_path)
    run.forget_steps("generate")
    run.forget_steps("score")
    assert [step for step in STEPS if run.uses_cache(step)] == ["train"]
    run.forget_steps("train")
    run.forget_steps("generate")
    assert not any(run.uses_cache(step) for step in STEPS)


def test_no_change_of_the_record_is_lost_if_launch_and_worker_write_at_once(tmp_path):
    launch, worker = RunDirectory(tmp_path), RunDirectory(tmp_path)

    def record_steps():
        for number in range(50):
            worker.record_step(f"step-{number}", "finished", datetime.now(UTC))

    thread = Thread(target=record_steps)
    thread.start()
    for number in range(50):
        launch.update_record(**{f"entry-{number}": number})
    thread.join()
    record = launch.read_record()
    assert [record[f"entry-{number}"] for number in range(50)] == list(range(50))
    assert len(record["steps"]) == 50


@pytest.mark.parametrize(
    ("left", "has_saved"),
    [
        ("record.json", False),
        ("checkpoints/.step-5/course.pt", False),
        ("checkpoints/step-5/course.pt", True),
        (".predictions-1.jsonl", True),
    ],
)
def test_a_trial_resumes_only_if_it_has_saved_something(tmp_path, left, has_saved):
    file = tmp_path / left
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    assert RunDirectory(tmp_path).has_saved_work() == has_saved


@pytest.mark.parametrize(("status", "has_saved"), [("finished", True), ("interrupted", False), ("failed", False)])
def test_a_step_is_saved_work_once_it_has_finished(tmp_path, status, has_saved):
    (tmp_path / "record.json").write_text(json.dumps({"steps": {"train": {"status": status}}}))
    assert RunDirectory(tmp_path).has_saved_work() == has_saved
