"""How a launch reads its trials and serves the tracker: one that fails costs a warning, and misses nothing."""

import json
import time

import pytest

from runner.events import EventLog
from runner.execute import delivery as module
from runner.execute.delivery import Delivery
from runner.execute.feed import TrackerFeed
from runner.execute.watch import Watch, objectives
from runner.stages import DatasetInfo, TrackedRun


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
    return lambda tracker: TrackerFeed(lambda: tracker, run)


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
    delivery = Delivery(warnings.append)
    delivery.start()
    log.metrics(1, {"loss": 1})
    log.metrics(2, {"loss": 2})
    delivery.finish(feed, "finished")
    close(delivery)
    assert len(warnings) == 1, "once is enough"
    assert feed.outstanding

    later = Recorder()
    feed, delivery = feed_of(later), Delivery(warnings.append)
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
    monkeypatch.setattr(module, "LAST_SECONDS", 0.2)
    tracker = Recorder()
    feed = feed_of(tracker)
    feed.open()
    tracker.deliver = lambda events: time.sleep(30)
    log.metrics(1, {"loss": 1})
    delivery = Delivery(print)
    delivery.start()
    delivery.finish(feed, "interrupted")
    delivery.close(lambda: True)
    assert feed.outstanding


def test_a_watch_tells_old_events_from_new_ones_and_reads_the_rest_when_it_leaves(tmp_path, log):
    log.metrics(1, {"loss": 1})
    seen, looks = [], []
    watch = Watch(lambda trial, event, new: seen.append((trial, event["step"], new)), lambda: looks.append(1))
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
    assert objectives({"kind": "metrics", "step": 1, "values": told}) == {"validation/loss": 3.0}
    assert objectives({"kind": "metrics", "step": None, "values": told}) == {}, "the trial's results"
    assert objectives({"kind": "state", "step": "train"}) == {}
