"""A disk that is full while a launch runs: the message says so, all is stopped, and the next launch continues."""

import errno
import json
import os
import resource
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runner.trial.run_trial as run_trial_module
from runner.errors import StepError
from runner.files import write_json
from runner.sweep.trial_source import FixedTrials
from runner.trial.run_directory_and_events import EventLog, EventTail, RunDirectory
from runner.trial.run_trial import outcome_of_trial


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full while `disk.full` is true, and then takes no file."""

    class Disk:
        full = False

    fsync = os.fsync

    def sync(handle):
        if Disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    return Disk


@contextmanager
def limited_files(size):
    """Let no file of this process grow beyond a size, as on a disk that takes only a part of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_error_while_a_file_is_written_names_the_file(tmp_path, disk):
    disk.full = True
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_json(tmp_path / "record.json", {})
    assert caught.value.filename == str(tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


@settings(max_examples=25)
@given(room=st.integers(0, 200))
def test_an_event_of_which_only_a_part_was_written_does_not_damage_the_next_one(tmp_path_factory, room):
    file = tmp_path_factory.mktemp("run") / "events.jsonl"
    log = EventLog(file)
    log.warning("first")
    with limited_files(file.stat().st_size + room), pytest.raises(OSError, match="too large") as caught:
        log.warning("lost" * 100)
    assert caught.value.filename == str(file)
    log.warning("second")
    log.warning("third")
    assert [event["message"] for event in EventTail(file).read()] == ["first", "second", "third"]


def test_a_launch_whose_trial_cannot_be_prepared_ends_with_the_error_of_the_disk(launcher, disk, listener):
    disk.full = True
    with pytest.raises(OSError, match="No space left on device") as caught:
        launcher.launch(FixedTrials(launcher.trials(1)), {}, listener=listener)
    assert str(launcher.folder) in caught.value.filename
    disk.full = False
    results, _, _ = launcher.launch(FixedTrials(launcher.trials(1)), {})
    assert results["trial-1"].status == "finished"


def test_a_trial_that_cannot_be_prepared_on_a_full_disk_counts_as_interrupted(launcher, disk, listener, monkeypatch):
    update = RunDirectory.update_record

    def fail_once(run, **changed):
        if changed == {"status": "running"}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        update(run, **changed)

    monkeypatch.setattr(RunDirectory, "update_record", fail_once)
    with pytest.raises(OSError, match="No space left on device"):
        launcher.launch(FixedTrials(launcher.trials(1)), {}, listener=listener)
    assert RunDirectory(launcher.folder / "runs/many/trial-1").read_record()["status"] == "interrupted"


class EndsWith:
    """A trial that runs until something has happened, and then fails with an error."""

    def __init__(self, happens, error):
        self._happens, self._error = happens, error

    def __iter__(self):
        yield (1, 1.0)
        self._happens()
        yield self._error


def test_a_trial_whose_end_cannot_be_recorded_keeps_its_error_and_the_launch_goes_on(launcher, listener):
    record = launcher.folder / "runs/many/trial-1/record.json"
    scripts = {1: EndsWith(lambda: record.write_text(""), StepError("the checkpoint could not be written"))}
    results, _, _ = launcher.launch(FixedTrials(launcher.trials(1, 2)), scripts, listener=listener)
    assert str(results["trial-1"].error) == "the checkpoint could not be written"
    assert results["trial-2"].status == "finished"
    assert any(str(record) in warning and "failed" in warning for warning in listener.warnings)


def test_all_trials_are_killed_if_a_full_disk_ends_the_launch(launcher, disk, listener, scripted_executor, monkeypatch):
    def fill():
        disk.full = True

    executors, executor_class = [], type(scripted_executor(None))
    close = executor_class.close
    monkeypatch.setattr(executor_class, "close", lambda executor: executors.append(executor) or close(executor))
    scripts = {1: EndsWith(fill, StepError("no space")), 2: [(n, 1.0) for n in range(1000)]}
    with pytest.raises(OSError, match="No space left on device"):
        launcher.launch(FixedTrials(launcher.trials(1, 2)), scripts, listener=listener)
    [executor] = executors
    assert executor.started[1].was_killed
    assert any("trial-1" in warning and "No space left" in warning for warning in listener.warnings)


def test_a_step_whose_end_cannot_be_recorded_is_a_failed_trial(tmp_path, monkeypatch):
    def fail(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/record.json")

    monkeypatch.setattr(run_trial_module, "run_trial", fail)
    outcome = outcome_of_trial(None, tmp_path)
    assert (outcome.status, type(outcome.error)) == ("failed", StepError)
    assert "No space left on device: '/x/record.json'" in json.dumps(outcome.as_json())
