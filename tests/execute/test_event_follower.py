"""How a launch follows event logs and uploads to the tracker: a failure is one warning, and nothing is lost."""

import json
import threading
import time

import pytest

from runner.errors import RequirementError
from runner.execute.event_follower import EventFollower
from runner.stages import DatasetInfo, TrackedRun
from runner.sweep.trial_source import validation_metrics_of
from runner.tracking import uploader as module
from runner.tracking.uploader import RunSync, TrackerUploader
from runner.trial.run_directory_and_events import EventLog


class RecordingTracker:
    """A tracker that records what it receives, and can be made to fail."""

    def __init__(self):
        self.logged, self.status, self.is_down, self.starts = [], None, False, 0

    def start(self, run):
        self.starts += 1
        return "id"

    def link(self):
        return "link"

    def log_events(self, events):
        if self.is_down:
            raise ConnectionError("nobody there")
        self.logged += [event["values"] for event in events if event["kind"] == "metrics"]

    def finish(self, status):
        if self.is_down:
            raise ConnectionError("nobody there")
        self.status = status


@pytest.fixture
def log(tmp_path):
    return EventLog(tmp_path / "events.jsonl")


@pytest.fixture
def sync_of(tmp_path):
    """Creates the sync of the run in the test's folder."""
    dataset = DatasetInfo("mmre", "/data", "f" * 64, (), {})
    run = TrackedRun("demo", "trial-1", "1" * 64, tmp_path, {}, dataset, tmp_path / "spec.yaml")
    return lambda tracker: RunSync(lambda: tracker, run)


def values(*numbers):
    return [{"loss": number} for number in numbers]


def close(uploader):
    uploader.close(lambda: False)


def is_outstanding(sync):
    """Whether the tracker lacks events or the final status of the run."""
    return not sync.complete or sync._log_size > sync.delivered


def test_events_of_a_failed_upload_arrive_with_the_next_upload(log, sync_of):
    tracker = RecordingTracker()
    sync = sync_of(tracker)
    tracker.is_down = True
    log.metrics(1, {"loss": 1})
    with pytest.raises(ConnectionError):
        sync.upload()
    tracker.is_down = False
    log.metrics(2, {"loss": 2})
    sync.upload()
    sync.upload()
    assert tracker.logged == values(1, 2)
    assert tracker.starts == 1
    assert not is_outstanding(sync) or not sync.complete


def test_an_unreachable_tracker_gets_the_rest_from_the_next_launch(log, sync_of):
    down, warnings = RecordingTracker(), []
    sync = sync_of(down)
    sync.open()
    down.is_down = True
    uploader = TrackerUploader(warnings.append)
    uploader.start()
    log.metrics(1, {"loss": 1})
    log.metrics(2, {"loss": 2})
    uploader.finish(sync, "finished")
    close(uploader)
    assert len(warnings) == 1, "once is enough"
    assert is_outstanding(sync)

    later = RecordingTracker()
    sync, uploader = sync_of(later), TrackerUploader(warnings.append)
    uploader.start()
    uploader.finish(sync, "finished", {"objective": 3})
    close(uploader)
    assert (later.logged, later.status) == ([*values(1, 2), {"objective": 3}], "finished")
    assert not is_outstanding(sync_of(later))
    assert not uploader.has_pending(sync)


def test_a_resumed_trial_uploads_only_new_events(tmp_path, log, sync_of):
    tracker = RecordingTracker()
    for number, status in (1, "interrupted"), (2, "pruned"):
        sync = sync_of(tracker)
        assert is_outstanding(sync)
        log.metrics(number, {"loss": number})
        sync.finish(status, {})
    assert tracker.logged == values(1, 2)
    state = json.loads((tmp_path / "tracker.json").read_text())
    assert (state["complete"], state["run_id"], state["link"]) == (True, "id", "link")
    log.metrics(3, {"loss": 3})
    assert is_outstanding(sync_of(tracker)), "somebody added to it"


def test_an_immediate_stop_does_not_wait_for_a_tracker_that_hangs(log, sync_of, monkeypatch):
    monkeypatch.setattr(module, "FINAL_UPLOAD_SECONDS", 0.2)
    tracker = RecordingTracker()
    sync = sync_of(tracker)
    sync.open()
    tracker.log_events = lambda events: time.sleep(30)
    log.metrics(1, {"loss": 1})
    uploader = TrackerUploader(print)
    uploader.start()
    uploader.finish(sync, "interrupted")
    uploader.close(lambda: True)
    assert is_outstanding(sync)


def test_a_run_that_always_fails_does_not_delay_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.02)
    trackers, syncs, logs = [RecordingTracker() for _ in range(4)], [], []
    for number, tracker in enumerate(trackers):
        folder = tmp_path / str(number)
        folder.mkdir()
        dataset = DatasetInfo("mmre", "/data", "f" * 64, (), {})
        run = TrackedRun("demo", str(number), "1" * 64, folder, {}, dataset, folder / "spec.yaml")
        syncs.append(RunSync(lambda tracker=tracker: tracker, run))
        logs.append(EventLog(folder / "events.jsonl"))
    warnings = []
    uploader = TrackerUploader(warnings.append)
    uploader.start()
    for sync in syncs:
        uploader.add(sync)
    uploader.wait_until_open(lambda: False)
    for tracker in trackers[:2]:
        tracker.is_down = True
    for number, log in enumerate(logs):
        log.metrics(1, {"loss": number})
    deadline = time.monotonic() + 60
    while not (trackers[2].logged and trackers[3].logged) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (trackers[2].logged, trackers[3].logged) == (values(2), values(3))
    for tracker in trackers:
        tracker.is_down = False
    for sync in syncs:
        uploader.finish(sync, "finished")
    close(uploader)
    assert [tracker.logged for tracker in trackers] == [values(number) for number in range(4)]
    assert len(warnings) == 1


def test_a_tracker_that_is_slow_at_the_start_does_not_block_the_launch(log, sync_of, monkeypatch):
    monkeypatch.setattr(module, "OPENING_SECONDS", 0.1)
    tracker, warnings, answers = RecordingTracker(), [], threading.Event()
    tracker.start = lambda run: answers.wait(60) and "id"
    uploader = TrackerUploader(warnings.append)
    uploader.start()
    sync = sync_of(tracker)
    uploader.add(sync)
    uploader.wait_until_open(lambda: False)
    assert "has not answered within" in warnings[0]
    log.metrics(1, {"loss": 1})
    answers.set()
    uploader.finish(sync, "finished")
    close(uploader)
    assert (tracker.logged, tracker.status) == (values(1), "finished")


def test_a_refusal_at_the_start_is_raised_at_once_without_passwords(sync_of, monkeypatch):
    monkeypatch.setattr(module, "FINAL_UPLOAD_SECONDS", 300.0)

    def refuse():
        raise PermissionError("403 from postgresql://ann:s3cret@host/db")

    warnings = []
    uploader = TrackerUploader(warnings.append)
    uploader.start()
    sync = sync_of(None)
    sync._make_tracker = refuse
    uploader.add(sync)
    with pytest.raises(RequirementError, match="403 from postgresql://ann@host/db"):
        uploader.wait_until_open(lambda: False)
    started = time.monotonic()
    close(uploader)
    assert time.monotonic() - started < module.FINAL_UPLOAD_SECONDS
    uploader.join(60)
    assert warnings == [], "the error says it"


def test_a_run_with_a_new_id_in_the_tracker_is_uploaded_again(log, sync_of):
    log.metrics(1, {"loss": 1})
    sync_of(RecordingTracker()).upload()
    log.metrics(2, {"loss": 2})
    other = RecordingTracker()
    other.start = lambda run: f"not {run.existing_run_id}"
    sync_of(other).upload()
    assert other.logged == values(1, 2)


def test_a_run_that_moves_to_another_tracker_is_uploaded_there_from_its_beginning(log, sync_of):
    log.metrics(1, {"loss": 1})
    first = RunSync(RecordingTracker, sync_of(None)._run, store="sqlite:///here.db")
    first.finish("finished", {})
    first.release()
    other = RecordingTracker()
    moved = RunSync(lambda: other, first._run, store="http://group:5000")
    assert moved.needs_upload("finished")
    moved.finish("finished", {})
    moved.release()
    assert other.logged == values(1)
    assert not RunSync(lambda: other, first._run, store="http://group:5000").needs_upload("finished")
    assert RunSync(lambda: other, first._run, store="sqlite:///here.db").needs_upload("finished")


def test_a_follower_distinguishes_old_and_new_events_and_reads_the_rest_on_removal(tmp_path, log):
    log.metrics(1, {"loss": 1})
    events, polls, errors = [], [], []
    follower = EventFollower(
        lambda trial, event, new: events.append((trial, event["step"], new)), lambda: polls.append(1), errors.append
    )
    follower.add("a", tmp_path / "events.jsonl")
    follower.start()
    log.metrics(2, {"loss": 2})
    while len(events) < 2:
        time.sleep(0.01)
    log.metrics(3, {"loss": 3})
    follower.remove("a")
    follower.stop()
    assert events == [("a", 1, False), ("a", 2, True), ("a", 3, True)]
    assert polls
    assert not errors


def test_a_follower_survives_callbacks_that_raise(tmp_path, log):
    seen, polls, errors = [], [], []

    def on_event(trial, event, new):
        seen.append(event["step"])
        raise ValueError(event["step"])

    def on_poll():
        polls.append(1)
        raise OSError("poll")

    follower = EventFollower(on_event, on_poll, errors.append)
    log.metrics(1, {"loss": 1})
    follower.add("a", tmp_path / "events.jsonl")
    follower.start()
    log.metrics(2, {"loss": 2})
    while len(seen) < 2 or len(polls) < 2:
        time.sleep(0.01)
    log.metrics(3, {"loss": 3})
    follower.remove("a")
    assert follower.is_alive()
    follower.stop()
    assert seen == [1, 2, 3]
    assert {str(error) for error in errors} == {"1", "2", "3", "poll"}


def test_an_uploader_continues_if_its_warning_cannot_be_shown(log, sync_of):
    tracker = RecordingTracker()
    sync = sync_of(tracker)

    def warn(message):
        raise BrokenPipeError

    uploader = TrackerUploader(warn)
    uploader.start()
    uploader.add(sync)
    uploader.wait_until_open(lambda: False)
    tracker.is_down = True
    log.metrics(1, {"loss": 1})
    uploader.finish(sync, "finished")
    while not uploader._has_warned:
        time.sleep(0.01)
    tracker.is_down = False
    assert uploader.is_alive()
    close(uploader)
    assert tracker.status == "finished"


def test_a_search_uses_only_validation_metrics():
    values = {"validation/loss": 3.0, "validation/ner_f1": None, "train/loss": 9.0}
    assert validation_metrics_of({"kind": "metrics", "step": 1, "values": values}) == {"validation/loss": 3.0}
    assert validation_metrics_of({"kind": "metrics", "step": None, "values": values}) == {}, "the trial's results"
    assert validation_metrics_of({"kind": "state", "step": "train"}) == {}
