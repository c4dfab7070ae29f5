"""One damaged file of one run is named; the status of all other runs is shown as before."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import DataError
from runner.status.results_table import result_rows
from runner.status.running_launches import launch_records, registered_launch
from runner.status.status import experiment_status, find_experiments
from runner.trial.run_directory_and_events import EventTail, is_event
from tests.permissions import permissions_apply
from tests.status.test_status import TRAINING, event, make_trial

DAMAGED = {
    "empty": b"",
    "cut": b'{"status": "fin',
    "list": b"[1]",
    "null": b"null\n",
    "bytes": b"\xff\xfe{}\n",
    "zeros": bytes(20),
    "deep": b"[" * 1000,
    "types": json.dumps(
        {"status": 3, "steps": [1], "kind": "metrics", "time": 5, "values": 3, "trials": 5, "host": 3}
    ).encode()
    + b"\n",
}
FILES = ("trial-1/record.json", "trial-1/metrics.json", ".launch-there-1.json", "sweep/sweep.json")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.fixture
def storage(tmp_path):
    for name in ("trial-1", "trial-2"):
        make_trial(tmp_path, "tiny", name, metrics={"ner_f1": 0.5}, events=TRAINING)
    (tmp_path / "tiny" / "sweep").mkdir()
    return tmp_path


def status(storage):
    [selection] = find_experiments([], storage)
    return experiment_status(selection)


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_the_other_runs_are_shown(storage, file, kind):
    damaged = storage / "tiny" / file
    damaged.write_bytes(DAMAGED[kind])
    result = status(storage)
    problems = [*result.problems, *(trial.error for trial in result.trials if trial.error)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{damaged}: the file is damaged")
    assert "emove it" in problems[0] or "--rerun" in problems[0]
    assert [trial.status for trial in result.trials if trial.name == "trial-2"] == ["finished"]
    assert result.as_json()["problems"] == list(result.problems)
    if file.startswith("trial-1"):
        assert result.trials[0].status == "damaged"


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_cannot_be_read_is_named_and_the_other_runs_are_shown(storage, file):
    unreadable = storage / "tiny" / file
    unreadable.unlink(missing_ok=True)
    unreadable.mkdir()
    result = status(storage)
    problems = [*result.problems, *(trial.error for trial in result.trials if trial.error)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{unreadable}: the file is damaged (it is not a regular file)")
    assert [trial.status for trial in result.trials if trial.name == "trial-2"] == ["finished"]


@pytest.mark.parametrize("file", [*FILES, "trial-1/events.jsonl"])
def test_a_pipe_in_place_of_a_file_is_named_without_waiting(storage, file):
    pipe = storage / "tiny" / file
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    result = status(storage)
    problems = [*result.problems, *(trial.error for trial in result.trials if trial.error)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{pipe}: the file is damaged (it is not a regular file)")
    assert [trial.status for trial in result.trials if trial.name == "trial-2"] == ["finished"]


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_lines_of_an_event_log_are_skipped(storage, kind):
    log = storage / "tiny" / "trial-1" / "events.jsonl"
    before = status(storage).trials[0]
    log.write_bytes(DAMAGED[kind] + b"\n" + log.read_bytes() + DAMAGED[kind] + b"\n")
    after = status(storage).trials[0]
    assert (after.status, after.stage, after.done, after.metrics) == (before.status, "train", 2, before.metrics)


@given(JSON)
def test_only_events_that_readers_can_use_are_events(value):
    assert not is_event(value)
    for kind in ("state", "metrics", "system", "progress", "artifact", "warning", "cache", "parameters"):
        whole = event(kind, step=1, stage="s", state="s", values={}, done=1, total=2, shown={}, message="", groups=[])
        whole |= {"name": "", "path": "", "step": "s" if kind == "state" else 1}
        assert is_event(whole)
        for field in set(whole) - {"kind"}:
            if is_event(whole | {field: value}) or field == "time":
                continue
            assert not is_event({name: each for name, each in whole.items() if name != field})


@pytest.mark.parametrize(("kind", "field"), [("system", "step"), ("cache", "state")])
def test_events_without_a_field_that_trackers_or_displays_read_are_skipped(kind, field):
    whole = event(kind, step=1, state="reused", values={}, message="")
    assert is_event(whole)
    assert not is_event({name: value for name, value in whole.items() if name != field})


@given(st.lists(JSON, max_size=4))
def test_the_events_between_other_lines_are_read(tmp_path_factory, values):
    log = tmp_path_factory.mktemp("log") / "events.jsonl"
    good = event("warning", message="x")
    log.write_text("".join(f"{json.dumps(each)}\n" for value in values for each in (value, good)))
    assert list(EventTail(log).read()) == [good] * len(values)


def test_a_damaged_plan_leaves_a_row_that_says_so(storage):
    (storage / "tiny" / "trial-1" / "plan.json").write_text("")
    plan = {"seed": 1, "pinned": {"fingerprint": "f"}}
    (storage / "tiny" / "trial-2" / "plan.json").write_text(json.dumps(plan))
    rows = result_rows([], storage)
    assert [(row["trial"], row["status"], row["seed"]) for row in rows] == [
        ("trial-1", "damaged", None),
        ("trial-2", "finished", 1),
    ]


def test_a_damaged_record_of_a_launch_does_not_end_another_launch(storage):
    (storage / "tiny" / ".launch-there-1.json").write_text("")
    with registered_launch(storage / "tiny"):
        assert len(launch_records(storage / "tiny")) == 1
    assert not launch_records(storage / "tiny")


@given(JSON)
def test_any_other_content_of_a_record_is_a_data_error(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("record")
    make_trial(folder, "tiny", "trial-1")
    run = find_experiments([], folder)[0].trials[0]
    (run / "record.json").write_text(json.dumps(value))
    shown = status(folder).trials[0]
    assert shown.status in {"damaged", "lost"} or isinstance(value, dict)


def test_deeply_nested_json_is_a_data_error(tmp_path):
    from runner.files import read_json_object

    (tmp_path / "file").write_text("[" * 1000)
    with pytest.raises(DataError, match="damaged"):
        read_json_object(tmp_path / "file", "")


@pytest.mark.parametrize("file", ["trial-1", "trial-1/events.jsonl", "sweep", *FILES])
def test_a_file_of_another_user_is_named_and_the_other_runs_are_shown(storage, file):
    private = storage / "tiny" / file
    if not private.exists():
        private.write_text("{}")
    private.chmod(0)
    with permissions_apply():
        result = status(storage)
    problems = [*result.problems, *(trial.error for trial in result.trials if trial.error)]
    assert len(problems) == 1
    assert problems[0].startswith(str(private))
    assert problems[0].endswith("cannot be read (Permission denied). Ask its owner for the permission")
    assert [trial.status for trial in result.trials] == ["damaged" if "trial-1" in file else "finished", "finished"]


@pytest.mark.parametrize("mode", [0, 0o111])
def test_an_experiment_of_another_user_is_named_and_the_others_are_shown(storage, mode):
    private = make_trial(storage, "private", "trial-1").parent
    make_trial(storage, ".cache", "trial-1").parent.chmod(0)  # no experiment has such a name
    private.chmod(mode)
    with permissions_apply():
        shown = {result.name: result for result in map(experiment_status, find_experiments([], storage))}
        with pytest.raises(PermissionError, match=str(private)):
            find_experiments([str(private)], storage)
    assert set(shown) == {"private", "tiny"}
    assert len(shown["tiny"].trials) == 2
    told = [*shown["private"].problems, *(trial.error for trial in shown["private"].trials)]
    assert len(told) == 1
    assert told[0].startswith(str(private))
    private.chmod(0o755)
