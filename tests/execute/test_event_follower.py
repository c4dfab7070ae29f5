"""How a launch reads its trials and serves the tracker: one that fails costs a warning, and misses nothing."""

import json
import threading
import time

import pytest

from runner.errors import RequirementError
from runner.execute.event_follower import EventFollower, validation_metrics_of
from runner.stages import DatasetInfo, TrackedRun
from runner.tracking import uploader as module
from runner.tracking.run_sync import RunSync
from runner.tracking.uploader import TrackerUploader
from runner.trial.events import EventLog


class Recorder:
    """A tracker that writes down what it is told, and can be made to fail."""

    def __init__(self):
        self.told, self.status, self.away, self.starts = [], None, False, 0

    def start(self, run):
        self.starts += 1
        return "id"

    def link(self):
        return "link"

    def deliver(self, events):
        if self.away:
            raise ConnectionError("nobody there")
        self.told += [event["values"] for event in events if event["kind"] == "metrics"]

    def finish(self, status):
        if self.away:
            raise ConnectionError("nobody there")
        self.status = status


@pytest.fixture
def log(tmp_path):
    return EventLog(tmp_path / "events.jsonl")


@pytest.fixture
def feed_of(tmp_path):
    """Makes the feed of the run in the test's folder."""
    dataset = DatasetInfo("mmre", "/data", "f" * 64, (), {})
    run = TrackedRun("demo", "trial-1", "1" * 64, tmp_path, {}, dataset, tmp_path / "spec.yaml")
    return lambda tracker: RunSync(lambda: tracker, run)


def values(*numbers):
    return [{"loss": number} for number in numbers]


def close(delivery):
    delivery.close(lambda: False)


def test_what_a_tracker_missed_arrives_with_the_next_delivery(log, feed_of):
    tracker = Recorder()
    feed = feed_of(tracker)
    tracker.away = True
    log.metrics(1, {"loss": 1})
    with pytest.raises(ConnectionError):
        feed.serve()
    tracker.away = False
    log.metrics(2, {"loss": 2})
    feed.serve()
    feed.serve()
    assert tracker.told == values(1, 2)
    assert tracker.starts == 1
    assert not feed.outstanding or not feed.complete


def test_a_tracker_that_stays_away_is_served_by_the_next_launch(log, feed_of):
    away, warnings = Recorder(), []
    feed = feed_of(away)
    feed.open()
    away.away = True
    delivery = TrackerUploader(warnings.append)
    delivery.start()
    log.metrics(1, {"loss": 1})
    log.metrics(2, {"loss": 2})
    delivery.finish(feed, "finished")
    close(delivery)
    assert len(warnings) == 1, "once is enough"
    assert feed.outstanding

    later = Recorder()
    feed, delivery = feed_of(later), TrackerUploader(warnings.append)
    delivery.start()
    delivery.finish(feed, "finished", {"objective": 3})
    close(delivery)
    assert (later.told, later.status) == ([*values(1, 2), {"objective": 3}], "finished")
    assert not feed_of(later).outstanding
    assert not delivery.serves(feed)


def test_a_resumed_trial_delivers_only_what_is_new(tmp_path, log, feed_of):
    tracker = Recorder()
    for number, status in (1, "interrupted"), (2, "pruned"):
        feed = feed_of(tracker)
        assert feed.outstanding
        log.metrics(number, {"loss": number})
        feed.finish(status, {})
    assert tracker.told == values(1, 2)
    state = json.loads((tmp_path / "tracker.json").read_text())
    assert (state["complete"], state["run_id"], state["link"]) == (True, "id", "link")
    log.metrics(3, {"loss": 3})
    assert feed_of(tracker).outstanding, "somebody added to it"


def test_a_hurried_end_does_not_wait_for_a_tracker_that_hangs(log, feed_of, monkeypatch):
    monkeypatch.setattr(module, "FINAL_UPLOAD_SECONDS", 0.2)
    tracker = Recorder()
    feed = feed_of(tracker)
    feed.open()
    tracker.deliver = lambda events: time.sleep(30)
    log.metrics(1, {"loss": 1})
    delivery = TrackerUploader(print)
    delivery.start()
    delivery.finish(feed, "interrupted")
    delivery.close(lambda: True)
    assert feed.outstanding


def test_a_run_that_the_tracker_never_takes_keeps_nothing_from_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.02)
    trackers, feeds, logs = [Recorder() for _ in range(4)], [], []
    for number, tracker in enumerate(trackers):
        folder = tmp_path / str(number)
        folder.mkdir()
        dataset = DatasetInfo("mmre", "/data", "f" * 64, (), {})
        run = TrackedRun("demo", str(number), "1" * 64, folder, {}, dataset, folder / "spec.yaml")
        feeds.append(RunSync(lambda tracker=tracker: tracker, run))
        logs.append(EventLog(folder / "events.jsonl"))
    warnings = []
    delivery = TrackerUploader(warnings.append)
    delivery.start()
    for feed in feeds:
        delivery.follow(feed)
    delivery.await_answer(lambda: False)
    for tracker in trackers[:2]:
        tracker.away = True
    for number, log in enumerate(logs):
        log.metrics(1, {"loss": number})
    deadline = time.monotonic() + 60
    while not (trackers[2].told and trackers[3].told) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (trackers[2].told, trackers[3].told) == (values(2), values(3))
    for tracker in trackers:
        tracker.away = False
    for feed in feeds:
        delivery.finish(feed, "finished")
    close(delivery)
    assert [tracker.told for tracker in trackers] == [values(number) for number in range(4)]
    assert len(warnings) == 1


def test_a_tracker_that_is_slow_at_the_start_does_not_keep_a_launch_from_going_on(log, feed_of, monkeypatch):
    monkeypatch.setattr(module, "OPENING_SECONDS", 0.1)
    tracker, warnings, answers = Recorder(), [], threading.Event()
    tracker.start = lambda run: answers.wait(60) and "id"
    delivery = TrackerUploader(warnings.append)
    delivery.start()
    feed = feed_of(tracker)
    delivery.follow(feed)
    delivery.await_answer(lambda: False)
    assert "has not answered in" in warnings[0]
    log.metrics(1, {"loss": 1})
    answers.set()
    delivery.finish(feed, "finished")
    close(delivery)
    assert (tracker.told, tracker.status) == (values(1), "finished")


def test_a_refusal_at_the_start_is_raised_without_passwords_and_waits_for_nothing(feed_of, monkeypatch):
    monkeypatch.setattr(module, "FINAL_UPLOAD_SECONDS", 300.0)

    def refuse():
        raise PermissionError("403 from postgresql://ann:s3cret@host/db")

    warnings = []
    delivery = TrackerUploader(warnings.append)
    delivery.start()
    feed = feed_of(None)
    feed._make_tracker = refuse
    delivery.follow(feed)
    with pytest.raises(RequirementError, match="403 from postgresql://ann@host/db"):
        delivery.await_answer(lambda: False)
    began = time.monotonic()
    close(delivery)
    assert time.monotonic() - began < module.FINAL_UPLOAD_SECONDS
    delivery.join(60)
    assert warnings == [], "the error says it"


def test_a_run_that_is_another_one_in_the_tracker_is_told_everything_again(log, feed_of):
    log.metrics(1, {"loss": 1})
    feed_of(Recorder()).serve()
    log.metrics(2, {"loss": 2})
    other = Recorder()
    other.start = lambda run: f"not {run.known_as}"
    feed_of(other).serve()
    assert other.told == values(1, 2)


def test_a_run_that_moves_to_another_tracker_is_told_everything_there(log, feed_of):
    log.metrics(1, {"loss": 1})
    first = RunSync(Recorder, feed_of(None)._run, store="sqlite:///here.db")
    first.finish("finished", {})
    first.release()
    other = Recorder()
    moved = RunSync(lambda: other, first._run, store="http://group:5000")
    assert moved.lacks("finished")
    moved.finish("finished", {})
    moved.release()
    assert other.told == values(1)
    assert not RunSync(lambda: other, first._run, store="http://group:5000").lacks("finished")
    assert RunSync(lambda: other, first._run, store="sqlite:///here.db").lacks("finished")


def test_a_watch_tells_old_events_from_new_ones_and_reads_the_rest_when_it_leaves(tmp_path, log):
    log.metrics(1, {"loss": 1})
    seen, looks = [], []
    watch = EventFollower(lambda trial, event, new: seen.append((trial, event["step"], new)), lambda: looks.append(1))
    watch.add("a", tmp_path / "events.jsonl")
    watch.start()
    log.metrics(2, {"loss": 2})
    while len(seen) < 2:
        time.sleep(0.01)
    log.metrics(3, {"loss": 3})
    watch.leave("a")
    watch.end()
    assert seen == [("a", 1, False), ("a", 2, True), ("a", 3, True)]
    assert looks


def test_a_search_goes_by_validation_and_by_nothing_else():
    told = {"validation/loss": 3.0, "validation/ner_f1": None, "train/loss": 9.0}
    assert validation_metrics_of({"kind": "metrics", "step": 1, "values": told}) == {"validation/loss": 3.0}
    assert validation_metrics_of({"kind": "metrics", "step": None, "values": told}) == {}, "the trial's results"
    assert validation_metrics_of({"kind": "state", "step": "train"}) == {}
