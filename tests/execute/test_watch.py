"""The tracker's feed: a tracker that fails costs a warning, and misses nothing."""

import json
import time

import pytest

from runner.events import EventLog
from runner.execute.watch import TrackerFeed, Watch, replay


class Recorder:
    """A tracker that writes down what it is told, and can be made to fail."""

    def __init__(self):
        self.told, self.status, self.away = [], None, False

    def deliver(self, events):
        if self.away:
            raise ConnectionError("nobody there")
        self.told += [event["values"] for event in events if event["kind"] == "metrics"]

    def finish(self, status):
        if self.away:
            raise ConnectionError("nobody there")
        self.status = status


class Shown:
    def __init__(self):
        self.events, self.warnings = [], []

    def event(self, event):
        self.events.append(event)

    def warn(self, message):
        self.warnings.append(message)


@pytest.fixture
def log(tmp_path):
    return EventLog(tmp_path / "events.jsonl")


def values(*numbers):
    return [{"loss": number} for number in numbers]


def test_what_a_tracker_missed_arrives_with_the_next_batch(tmp_path, log):
    tracker, shown = Recorder(), Shown()
    feed = TrackerFeed(tracker, tmp_path, shown)
    tracker.away = True
    feed.add({"kind": "metrics", "values": {"loss": 1}})
    feed.flush(10)
    feed.flush(10)
    assert len(shown.warnings) == 1, "once is enough"
    tracker.away = False
    feed.add({"kind": "metrics", "values": {"loss": 2}})
    feed.flush(20)
    assert tracker.told == values(1, 2)
    assert feed.delivered == 20


def test_a_tracker_that_stays_away_is_served_by_the_next_launch(tmp_path, log):
    away, shown = Recorder(), Shown()
    away.away = True
    watch = Watch(tmp_path / "events.jsonl", TrackerFeed(away, tmp_path, shown), shown)
    watch.start()
    log.metrics(1, {"loss": 1})
    log.metrics(2, {"loss": 2})
    watch.end("finished")
    assert [event["values"] for event in shown.events] == values(1, 2), "the user sees it all the same"

    later = Recorder()
    feed = TrackerFeed(later, tmp_path, shown)
    assert not feed.complete
    replay(tmp_path / "events.jsonl", feed, "finished")
    assert (later.told, later.status) == (values(1, 2), "finished")
    assert TrackerFeed(later, tmp_path, shown).complete


def test_a_resumed_trial_delivers_and_shows_only_what_is_new(tmp_path, log):
    tracker, shown = Recorder(), Shown()
    for part, status in ([1, 2], "interrupted"), ([3], "finished"):
        watch = Watch(tmp_path / "events.jsonl", TrackerFeed(tracker, tmp_path, shown), shown)
        watch.start()
        for number in part:
            log.metrics(number, {"loss": number})
        time.sleep(0.3)
        watch.end(status)
    assert tracker.told == values(1, 2, 3)
    assert [event["values"] for event in shown.events] == values(1, 2, 3)
    assert json.loads((tmp_path / "tracker.json").read_text())["complete"] is True
