"""`runner sync` uploads what killed launches left: once, in order, with its status, never beside a running launch."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.status.running_launches import registered_launch
from runner.status.status import find_experiments
from runner.sweep.trial_source import FixedTrials
from runner.tracking import destination
from runner.tracking.destination import Destination
from runner.tracking.sync import StorageSync, trial_from_folder
from runner.tracking.uploader import MAX_ERROR_CHARACTERS, RunSync, describe_tracker_error
from runner.trial.run_directory_and_events import RunDirectory


@pytest.fixture
def unsynced(launcher, listener, monkeypatch):
    """A sweep of two trials whose tracker became unreachable when the first one started."""
    monkeypatch.setattr(destination, "create_plugin", lambda section, storage: launcher.tracker.of(None))
    listener.on_start = lambda: setattr(launcher.tracker, "is_down", True)
    launcher.launch(FixedTrials(launcher.trials(1, 2)), {1: [(1, 0.5)], 2: [(1, 0.25)]}, listener=listener)
    launcher.tracker.is_down = False
    return launcher


def sync(launcher, *names, to=None):
    storage = launcher.folder / "runs"
    storage_sync = StorageSync(Destination.from_options(storage, to))
    runs = [run for selection in find_experiments(names, storage) for run in storage_sync.sync_experiment(selection)]
    return {run.name: run for run in runs}, storage_sync


def test_everything_is_uploaded_once_with_the_status_and_under_the_sweep(unsynced):
    runs, storage_sync = sync(unsynced)
    assert not storage_sync.refused
    assert {name: (run.status, run.delivered) for name, run in runs.items()} == {
        name: ("finished", True) for name in ("trial-1", "trial-2", "sweep")
    }
    sweep = f"sweep-{unsynced.plan.fingerprint[:8]}"
    assert unsynced.tracker.ended == {"trial-1": "finished", "trial-2": "finished", sweep: "finished"}
    for trial, value in ("trial-1", 0.5), ("trial-2", 0.25):
        started = unsynced.tracker.started[trial]
        assert started.parent == f"id of {sweep}"
        assert (started.tags["group"], started.dataset, started.experiment) == ("all", unsynced.plan.dataset, "many")
        assert unsynced.tracker.metrics(trial, "validation/loss") == [value]
        assert unsynced.tracker.metrics(trial, "objective") == [value]
    assert unsynced.tracker.metrics(sweep, "objective") == [0.5, 0.25]

    before = list(unsynced.tracker.logged)
    again, _ = sync(unsynced)
    assert not any(run.delivered for run in again.values())
    assert unsynced.tracker.logged == before


def test_a_lost_store_receives_everything_again(unsynced):
    sync(unsynced)
    before = [logged for logged in unsynced.tracker.logged if logged[1]]
    sweep = f"sweep-{unsynced.plan.fingerprint[:8]}"
    names = ("trial-1", "trial-2", sweep)
    unsynced.tracker.states = {f"id of {name}": "missing" for name in names}
    unsynced.tracker.started.clear()
    unsynced.tracker.logged.clear()
    runs, _ = sync(unsynced)
    assert {name: (run.delivered, run.error) for name, run in runs.items()} == {
        name: (True, None) for name in ("trial-1", "trial-2", "sweep")
    }
    assert set(unsynced.tracker.started) == set(names)
    assert unsynced.tracker.started["trial-1"].parent == f"id of {sweep}"
    assert sorted(logged for logged in unsynced.tracker.logged if logged[1]) == sorted(before)


def test_a_run_that_was_deleted_in_the_tracker_is_named_and_not_uploaded_again(unsynced):
    sync(unsynced)
    unsynced.tracker.states = {"id of trial-1": "deleted"}
    started = dict(unsynced.tracker.started)
    runs, storage_sync = sync(unsynced)
    assert "was deleted in the tracker. Restore the run there, or remove" in runs["trial-1"].error
    assert "tracker.json" in runs["trial-1"].error
    assert (runs["trial-2"].error, storage_sync.refused) == (None, {})
    assert unsynced.tracker.started == started


def test_a_single_trial_can_be_synced(unsynced):
    runs, _ = sync(unsynced, "trial-2")
    assert list(runs) == ["trial-2", "sweep"], "the sweep was opened again, so it is closed again"
    assert "trial-1" not in unsynced.tracker.ended


def test_runs_of_a_killed_driver_are_interrupted_even_if_no_tracker_ever_saw_them(unsynced):
    folder = unsynced.folder / "runs" / "many" / "trial-1"
    RunDirectory(folder).update_record(status="running", steps={})
    (folder / "tracker.json").unlink(missing_ok=True)
    file = unsynced.folder / "runs" / "many" / "sweep" / "sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": "running"}))
    runs, _ = sync(unsynced)
    assert {name: run.status for name, run in runs.items()} == {
        "trial-1": "interrupted",
        "trial-2": "finished",
        "sweep": "interrupted",
    }
    assert unsynced.tracker.ended["trial-1"] == "interrupted"


def test_nothing_is_uploaded_while_a_launch_is_running(unsynced):
    with registered_launch(unsynced.folder / "runs" / "many"):
        runs, storage_sync = sync(unsynced)
    assert runs == {} and unsynced.tracker.ended == {}
    assert "a launch is running" in storage_sync.refused["many"]


def test_an_unreachable_tracker_is_not_tried_for_every_run(unsynced):
    unsynced.tracker.is_down = True
    runs, storage_sync = sync(unsynced)
    assert [run.error for run in runs.values()] == ["ConnectionError: nobody there"] * 2
    assert "does not answer" in storage_sync.refused["many"]
    unsynced.tracker.is_down = False
    runs, storage_sync = sync(unsynced)
    assert all(run.delivered for run in runs.values()) and not storage_sync.refused


def test_a_run_that_another_process_uploads_is_skipped(unsynced):
    runs, _ = sync(unsynced)
    run = RunDirectory(unsynced.folder / "runs" / "many" / "trial-1")
    run.update_record(status="failed", steps={})
    _, tracked = trial_from_folder(run, {})
    other = RunSync(lambda: unsynced.tracker.of(None), tracked)
    other.open()
    try:
        runs, _ = sync(unsynced, "trial-1")
        assert "another process is uploading this run" in runs["trial-1"].error
    finally:
        other.release()
    runs, _ = sync(unsynced, "trial-1")
    assert runs["trial-1"].delivered and unsynced.tracker.ended["trial-1"] == "failed"


def test_an_unreadable_plan_is_reported_and_does_not_stop_the_others(unsynced):
    (unsynced.folder / "runs" / "many" / "trial-1" / "plan.json").write_text("{")
    runs, _ = sync(unsynced)
    assert "plan.json cannot be read" in runs["trial-1"].error
    assert runs["trial-2"].delivered


def test_an_unreadable_sweep_does_not_stop_its_trials(unsynced):
    (unsynced.folder / "runs" / "many" / "sweep" / "plan.json").write_text("{}")
    runs, _ = sync(unsynced)
    assert runs["sweep"].error and runs["trial-1"].delivered and runs["trial-2"].delivered


def test_a_launch_on_another_machine_counts_as_running_and_its_record_is_named(unsynced):
    record = unsynced.folder / "runs" / "many" / ".launch-elsewhere-7.json"
    record.write_text(json.dumps({"host": "elsewhere", "pid": 7, "born": 0, "started": "", "job": None}))
    runs, storage_sync = sync(unsynced)
    assert runs == {} and str(record) in storage_sync.refused["many"]


def name_another_store(launcher):
    for file in (launcher.folder / "runs").glob("*/*/plan.json"):
        plan = json.loads(file.read_text())
        file.write_text(json.dumps({**plan, "tracker": {"type": "mlflow", "uri": "http://stranger.example:5000"}}))


def test_the_address_in_a_plan_gets_nothing_unless_a_spec_of_the_user_names_a_tracker(unsynced, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(
        destination, "create_plugin", lambda section, storage: opened.append(section) or unsynced.tracker.of(None)
    )
    name_another_store(unsynced)
    runs, _ = sync(unsynced)
    assert opened == []
    assert all("stranger.example" in run.error and "--to SPEC" in run.error for run in runs.values())
    own = tmp_path / "own.yaml"
    own.write_text(
        "extends: tiny_mmre\ntracker: {type: mlflow, uri: 'http://own.example:5000'}\n".replace(
            "tiny_mmre", str(Path("specs/tiny_mmre.yaml").resolve())
        )
    )
    runs, _ = sync(unsynced, to=own)
    assert all(run.delivered for run in runs.values())
    assert {section.options.uri for section in opened} == {"http://own.example:5000"}


def test_completed_runs_need_no_permission(unsynced):
    sync(unsynced)
    for file in (unsynced.folder / "runs").glob("*/*/tracker.json"):
        state = json.loads(file.read_text())
        file.write_text(json.dumps({**state, "store": None}))
    name_another_store(unsynced)
    runs, _ = sync(unsynced)
    assert not any(run.error for run in runs.values())


@given(
    before=st.text(st.sampled_from("a \n"), max_size=400),
    password=st.text(st.characters(categories=("L", "N")), min_size=4, max_size=20).map(lambda text: f"§{text}§"),
)
def test_the_error_of_a_tracker_is_one_line_with_its_reason_and_without_passwords(before, password):
    error = RuntimeError(
        f"while saving\n(OperationalError) disk is full\n[SQL: {before} postgresql://me:{password}@db/x"
    )
    message = describe_tracker_error(error)
    assert message.startswith("RuntimeError: while saving (OperationalError) disk is full [SQL:")
    assert "\n" not in message
    assert len(message) <= MAX_ERROR_CHARACTERS + 1
    assert password[:3] not in message
