"""The event log survives kills, and can be read while it grows."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from runner.trial.run_directory_and_events import EventLog, EventTail, StepReporter


def test_each_event_is_read_once(tmp_path):
    log, tail = EventLog(tmp_path / "e.jsonl"), EventTail(tmp_path / "e.jsonl")
    assert list(tail.read()) == []
    log.state("train", "started")
    log.metrics(1, {"train/loss": 0.5})
    assert [event["kind"] for event in tail.read()] == ["state", "metrics"]
    log.warning("x")
    assert [event["message"] for event in tail.read()] == ["x"]


def test_a_truncated_line_affects_no_other_event(tmp_path):
    path = tmp_path / "e.jsonl"
    EventLog(path).warning("before")
    with path.open("a") as file:
        file.write('{"time": "2026')
    tail = EventTail(path)
    assert [event["message"] for event in tail.read()] == ["before"]
    EventLog(path).warning("after")
    assert [event["message"] for event in tail.read()] == ["after"]


def test_progress_events_are_limited_but_the_last_is_written(tmp_path):
    reporter = StepReporter(EventLog(tmp_path / "e.jsonl"), "train", tmp_path / "stop")
    for done in range(1, 1001):
        reporter.progress(done, 1000, loss=1.0)
    lines = (tmp_path / "e.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["done"] == 1000
    assert len(lines) < 100


def test_a_file_requests_the_stop(tmp_path):
    reporter = StepReporter(EventLog(tmp_path / "e.jsonl"), "train", tmp_path / "stop")
    assert not reporter.stop_requested()
    (tmp_path / "stop").touch()
    assert reporter.stop_requested()


@given(st.dictionaries(st.text(), st.none() | st.floats()))
def test_metrics_are_valid_json_and_what_is_not_finite_is_null(values):
    with TemporaryDirectory() as folder:
        log = EventLog(Path(folder) / "events.jsonl")
        log.metrics(1, values)
        [line] = (Path(folder) / "events.jsonl").read_text(encoding="utf-8").split("\n")[:-1]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(line, parse_constant=refuse)["values"]
    is_finite = {name: value is not None and math.isfinite(value) for name, value in values.items()}
    assert read == {name: value if is_finite[name] else None for name, value in values.items()}
