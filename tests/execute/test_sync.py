"""What dead drivers left is delivered by `runner sync`: once, in order, with its status, and never beside a launch."""

import json

import pytest

from runner.status.process_registry import registered_launch
from runner.status.status import find
from runner.sweep.trial_source import FixedTrials
from runner.tracking import sync as module
from runner.tracking.sync import StorageSync
from runner.trial.run_directory import RunDirectory


@pytest.fixture
def left(place, listener, monkeypatch):
    """A sweep of two trials whose tracker went away as the first one began."""
    monkeypatch.setattr(module, "_tracker", lambda spec, storage: place.tracker.of(None))
    listener.on_start = lambda: setattr(place.tracker, "away", True)
    place.launch(FixedTrials(place.trials(1, 2)), {1: [(1, 0.5)], 2: [(1, 0.25)]}, listener=listener)
    place.tracker.away = False
    return place


def sync(place, *names):
    storage = place.folder / "runs"
    syncing = StorageSync(storage)
    runs = [run for found in find(names, storage) for run in syncing.experiment(found)]
    return {run.name: run for run in runs}, syncing


def test_all_arrives_once_with_the_status_and_under_the_sweep(left):
    runs, syncing = sync(left)
    assert not syncing.refused
    assert {name: (run.status, run.delivered) for name, run in runs.items()} == {
        name: ("finished", True) for name in ("trial-1", "trial-2", "sweep")
    }
    sweep = f"sweep-{left.plan.fingerprint[:8]}"
    assert left.tracker.ended == {"trial-1": "finished", "trial-2": "finished", sweep: "finished"}
    for trial, value in ("trial-1", 0.5), ("trial-2", 0.25):
        told = left.tracker.started[trial]
        assert told.parent == f"id of {sweep}"
        assert (told.tags["group"], told.dataset, told.experiment) == ("all", left.plan.dataset, "many")
        assert left.tracker.metrics(trial, "validation/loss") == [value]
        assert left.tracker.metrics(trial, "objective") == [value]
    assert left.tracker.metrics(sweep, "objective") == [0.5, 0.25]

    before = list(left.tracker.told)
    again, _ = sync(left)
    assert not any(run.delivered for run in again.values())
    assert left.tracker.told == before


def test_one_trial_alone_can_be_named(left):
    runs, _ = sync(left, "trial-2")
    assert list(runs) == ["trial-2", "sweep"], "the sweep was opened again, so it is closed again"
    assert "trial-1" not in left.tracker.ended


def test_a_driver_that_was_killed_leaves_interrupted_runs_also_such_as_no_tracker_ever_saw(left):
    folder = left.folder / "runs" / "many" / "trial-1"
    RunDirectory(folder).update_record(status="running", steps={})
    (folder / "tracker.json").unlink(missing_ok=True)
    file = left.folder / "runs" / "many" / "sweep" / "sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": "running"}))
    runs, _ = sync(left)
    assert {name: run.status for name, run in runs.items()} == {
        "trial-1": "interrupted",
        "trial-2": "finished",
        "sweep": "interrupted",
    }
    assert left.tracker.ended["trial-1"] == "interrupted"


def test_nothing_is_delivered_beside_a_launch(left):
    with registered_launch(left.folder / "runs" / "many"):
        runs, syncing = sync(left)
    assert runs == {} and left.tracker.ended == {}
    assert "a launch is still at it" in syncing.refused["many"]


def test_a_tracker_that_is_away_is_not_asked_for_every_run(left):
    left.tracker.away = True
    runs, syncing = sync(left)
    assert [run.error for run in runs.values()] == ["nobody there"] * 2
    assert "does not answer" in syncing.refused["many"]
    left.tracker.away = False
    runs, syncing = sync(left)
    assert all(run.delivered for run in runs.values()) and not syncing.refused


def test_a_run_that_another_process_delivers_is_left_to_it(left):
    runs, _ = sync(left)
    run = RunDirectory(left.folder / "runs" / "many" / "trial-1")
    run.update_record(status="failed", steps={})
    _, tracked = module.trial_from_folder(run, {})
    other = module.RunSync(lambda: left.tracker.of(None), tracked)
    other.open()
    try:
        runs, _ = sync(left, "trial-1")
        assert "another process delivers this run" in runs["trial-1"].error
    finally:
        other.release()
    runs, _ = sync(left, "trial-1")
    assert runs["trial-1"].delivered and left.tracker.ended["trial-1"] == "failed"


def test_a_plan_that_cannot_be_read_is_told_and_stops_nothing_else(left):
    (left.folder / "runs" / "many" / "trial-1" / "plan.json").write_text("{")
    runs, _ = sync(left)
    assert "plan.json cannot be read" in runs["trial-1"].error
    assert runs["trial-2"].delivered


def test_a_sweep_that_cannot_be_read_keeps_its_trials_from_nothing(left):
    (left.folder / "runs" / "many" / "sweep" / "plan.json").write_text("{}")
    runs, _ = sync(left)
    assert runs["sweep"].error and runs["trial-1"].delivered and runs["trial-2"].delivered


def test_a_launch_elsewhere_is_believed_and_where_its_note_lies_is_said(left):
    note = left.folder / "runs" / "many" / ".launch-elsewhere-7.json"
    note.write_text(json.dumps({"host": "elsewhere", "pid": 7, "born": 0, "started": "", "job": None}))
    runs, syncing = sync(left)
    assert runs == {} and str(note) in syncing.refused["many"]
