"""Status is read from folders: states, steps, ages, ETA, GPU use, the best point; names need only be unique."""

import json
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RequirementError, SpecError
from runner.status import status as module
from runner.status.remaining_time import step_durations
from runner.status.running_launches import registered_launch
from runner.status.status import experiment_status, find_experiments, find_trial, stop


def make_trial(storage, experiment, name, *, status="finished", events=(), metrics=None, error=None):
    """Create a trial's folder as a launch leaves it."""
    folder = storage / experiment / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text("{}")
    steps = {"train": {"status": "failed", "error": error}} if error else {}
    (folder / "record.json").write_text(json.dumps({"status": status, "steps": steps}))
    if events:
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def event(kind, seconds_ago=0, **fields):
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return {"time": moment.isoformat(timespec="milliseconds"), "kind": kind, **fields}


TRAINING = [
    event("metrics", 500, step=1, values={"train/loss": 3.0, "train/lr/all": 0.1}),
    event("metrics", 400, step=2, values={"train/loss": 2.0}),
    event("progress", 350, stage="train", done=2, total=9, shown={}),
]


@pytest.fixture
def storage(tmp_path):
    runs = tmp_path / "runs"
    make_trial(runs, "tiny", "trial-aa000001", metrics={"ner_f1": 0.5})
    make_trial(runs, "tiny", "trial-ab000002", status="running", events=TRAINING)
    make_trial(runs, "tiny", "trial-ac000003", status="running")
    make_trial(runs, "tiny", "trial-ad000004", status="failed", error="it broke")
    make_trial(runs, "tall", "trial-aa000009", status="interrupted", events=TRAINING)
    return runs


def status_of(names, storage):
    [selection] = find_experiments(names, storage)
    return experiment_status(selection)


def test_states_steps_metrics_and_ages(storage):
    with registered_launch(storage / "tiny"):
        finished, running, waiting, failed = status_of(["tiny"], storage).trials
    assert (finished.status, finished.metrics) == ("finished", {"ner_f1": 0.5})
    assert (running.status, running.stage, running.done, running.total) == ("running", "train", 2, 9)
    assert running.metrics == {"train/loss": 2.0, "train/lr/all": 0.1}
    last_event = datetime.fromisoformat(TRAINING[-1]["time"])
    assert 350 <= running.age <= (datetime.now(UTC) - last_event).total_seconds() + 0.1
    assert (waiting.status, waiting.age) == ("waiting", None)
    assert (failed.status, failed.error) == ("failed", "it broke")


def test_a_running_trial_without_a_launch_is_lost(storage):
    assert [trial.status for trial in status_of(["tiny"], storage).trials] == ["finished", "lost", "lost", "failed"]


def test_only_the_end_of_a_long_log_is_read(storage, monkeypatch):
    monkeypatch.setattr(module, "TAIL_BYTES", 250)
    [trial] = status_of(["tall"], storage).trials
    assert trial.metrics == {"train/loss": 2.0}
    assert trial.done == 2


def test_the_beginning_of_a_name_is_enough_if_one_trial_has_it(storage):
    for name in ("trial-ab", "ab", "tiny/trial-ab", "tiny/ab", "tin/ab", str(storage / "tiny" / "trial-ab000002")):
        assert find_trial(name, storage) == storage / "tiny" / "trial-ab000002", name
    assert find_trial("tall", storage).name == "trial-aa000009"
    assert [selection.experiment.name for selection in find_experiments([], storage)] == ["tall", "tiny"]
    [selection] = find_experiments(["ti"], storage)
    assert (selection.experiment.name, selection.is_whole) == ("tiny", True)


def test_ambiguous_names_are_listed_and_unknown_ones_refused(storage):
    with pytest.raises(SpecError, match=r"2 trials.*tall/trial-aa000009, tiny/trial-aa000001"):
        find_trial("aa", storage)
    with pytest.raises(
        SpecError, match=r"'t' matches 2 experiment\(s\) and 5 trial\(s\); write more of the name: tall, tiny, tall/"
    ):
        find_experiments(["t"], storage)
    (storage / "tall").rename(storage / "aall")
    with pytest.raises(SpecError, match=r"'aa' matches 1 experiment\(s\) and 2 trial\(s\).*aall, aall/trial-aa"):
        find_experiments(["aa"], storage)
    with pytest.raises(SpecError, match="4 trials; name one"):
        find_trial("tiny", storage)
    with pytest.raises(SpecError, match="did you mean 'tiny'"):
        find_experiments(["tinny"], storage)
    with pytest.raises(SpecError, match="empty"):
        find_experiments(["tiny"], storage / "nowhere")


@pytest.mark.parametrize(("mode", "group", "value"), [("min", "low", 1.0), ("max", "high", 2.5)])
def test_the_best_of_a_sweep_is_the_best_mean_over_seeds(storage, mode, group, value):
    trials = [
        {"name": f"t{index}", "group": name, "status": status, "objective": objective, "parameters": {"lr": name}}
        for index, (name, status, objective) in enumerate(
            [
                ("low", "finished", 0.5),
                ("low", "finished", 1.5),
                ("high", "finished", 2.5),
                ("pruned", "pruned", 0.1),
                ("failed", "failed", None),
                ("odd", "finished", 1.75),
            ]
        )
    ]
    folder = storage / "tiny" / "sweep"
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    sweep = {"objective": {"metric": "validation/loss", "mode": mode}, "trials": trials}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    best = status_of(["tiny"], storage).best
    assert (best["parameters"], best["value"]) == ({"lr": group}, value)
    assert best["trials"] == [trial["name"] for trial in trials if trial["group"] == group]
    assert len(status_of(["tiny"], storage).trials) == 4


def test_one_trial_is_stopped_through_its_stop_file(storage):
    with registered_launch(storage / "tiny"):
        [line] = stop("ab", storage, now=False)
        assert "saves and ends" in line
        assert (storage / "tiny" / "trial-ab000002" / ".stop").exists()
        with pytest.raises(RequirementError, match="runner stop tiny --now"):
            stop("ab", storage, now=True)
        with pytest.raises(RequirementError, match="it is finished"):
            stop("tiny/aa", storage, now=False)
    with pytest.raises(RequirementError, match="it is lost"):
        stop("ab", storage, now=False)
    with pytest.raises(RequirementError, match="no launch of tiny is running"):
        stop("tiny", storage, now=False)


def progress(seconds_ago, done, total=20, stage="train"):
    return event("progress", seconds_ago, stage=stage, done=done, total=total, shown={})


def started(seconds_ago, step="train"):
    return event("state", seconds_ago, step=step, state="started")


def train_metrics(seconds_ago, step):
    return event("metrics", seconds_ago, step=step, values={"train/loss": 1.0})


def running_trial(storage, events):
    """The status of a running trial with these events."""
    make_trial(storage, "new", "trial-ae000005", status="running", events=events)
    with registered_launch(storage / "new"):
        [trial] = status_of(["new"], storage).trials
    return trial


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([started(100), progress(90, 1), progress(30, 4), progress(10, 9)], 110.0),
        ([started(100), progress(90, 1)], None),
        ([started(100), progress(90, 3), progress(80, 3)], None),
        ([started(100), progress(90, 1), progress(80, 20)], None),
        # What an earlier launch did, fast, does not count.
        ([started(900), progress(890, 1), progress(889, 15), started(100), progress(90, 11), progress(80, 12)], 80.0),
        # Each validation counts from its own start, and the training goes on after it.
        ([progress(90, 1, 4, "validate"), progress(80, 4, 4, "validate"), progress(70, 1, 4, "validate")], None),
        ([progress(90, 4, 4, "validate"), progress(70, 1, 4, "validate"), progress(60, 2, 4, "validate")], 20.0),
        ([progress(90, 1), progress(80, 2), progress(70, 4, 4, "validate"), progress(50, 3)], 340.0),
        ([started(100)], None),
    ],
)
def test_the_eta_is_the_mean_pace_of_the_running_step(storage, events, seconds):
    trial = running_trial(storage, events)
    assert trial.eta_seconds == (None if seconds is None else pytest.approx(seconds, abs=0.5))


TRAINED = [started(100), progress(90, 1), progress(30, 4)]
"""Three steps in 60 seconds; 16 are left."""


@pytest.mark.parametrize(
    ("events", "others", "seconds", "without"),
    [
        (TRAINED, [], 320.0, ["generate", "score"]),
        (TRAINED, [{"generate": 50.0, "score": 4.0}], 374.0, []),
        (TRAINED, [{"generate": 50.0}, {"generate": 70.0}, {"generate": 1000.0}], 390.0, ["score"]),
        # The validation does not hide the training.
        ([*TRAINED, progress(20, 1, 4, "validate"), progress(10, 2, 4, "validate")], [], 320.0, ["generate", "score"]),
        (
            [*TRAINED, started(9, "generate"), progress(8, 1, 9, "generate"), progress(6, 2, 9, "generate")],
            [],
            14,
            ["score"],
        ),
        ([started(100), progress(90, 1)], [{"generate": 50.0, "score": 4.0}], None, []),
        ([progress(90, 1), progress(30, 4)], [], None, []),  # which step runs is not known
    ],
)
def test_the_eta_of_a_trial_adds_the_later_steps_as_finished_trials_took_them(
    storage, events, others, seconds, without
):
    for number, durations in enumerate(others):
        folder = make_trial(storage, "new", f"trial-b{number}")
        steps = {name: {"status": "finished", "seconds": value} for name, value in durations.items()}
        steps |= {"train": {"status": "finished", "seconds": 7, "reused_from": "another trial"}}
        (folder / "record.json").write_text(json.dumps({"status": "finished", "steps": steps}))
    make_trial(storage, "new", "trial-ae000005", status="running", events=events)
    with registered_launch(storage / "new"):
        trial = status_of(["new"], storage).trials[0].as_json()
    assert trial["trial_eta_seconds"] == (None if seconds is None else pytest.approx(seconds, abs=0.5))
    assert trial["trial_eta_without"] == without


@given(
    st.lists(st.fixed_dictionaries({"seconds": st.floats(0, 1e6), "status": st.sampled_from(["finished", "failed"])}))
)
def test_the_duration_of_a_step_is_the_median_of_those_that_finished(entries):
    finished = [entry["seconds"] for entry in entries if entry["status"] == "finished"]
    durations = step_durations({"steps": {"train": entry}} for entry in entries)
    assert durations == ({"train": median(finished)} if finished else {})


@pytest.mark.parametrize(
    ("events", "step"),
    [
        ([started(90), train_metrics(80, 1), train_metrics(70, 2)], None),
        ([started(90), train_metrics(85, 0)], None),
        ([started(90), train_metrics(85, 0), train_metrics(80, 31)], 30),
        ([started(90), event("metrics", 85, step=7, values={"validation/loss": 1.0}), train_metrics(80, 8)], 7),
        ([started(900), train_metrics(890, 1), started(90), train_metrics(80, 6), train_metrics(70, 7)], 5),
        ([started(900), train_metrics(890, 1), started(90)], None),
        ([started(90), train_metrics(80, 6), event("state", 70, step="train", state="finished")], None),
        ([started(900), train_metrics(890, 6), event("state", 70, step="train", state="reused")], None),
    ],
)
def test_the_step_of_a_resumed_training_is_the_one_before_its_first(storage, events, step):
    assert running_trial(storage, events).resumed_from_step == step


def test_a_resumed_step_is_found_before_the_end_of_the_log_that_is_read(storage, monkeypatch):
    monkeypatch.setattr(module, "TAIL_BYTES", 250)
    events = [started(90), *(train_metrics(80, step) for step in range(8, 30))]
    assert running_trial(storage, events).resumed_from_step == 7


def test_the_gpu_utilization_is_the_mean_of_the_last_sample_of_the_step(storage):
    def sample(**values):
        return event("system", 5, step=60, values={"cpu_utilization_percentage": 99.0, **values})

    both = sample(gpu_0_utilization_percentage=90, gpu_1_utilization_percentage=81, gpu_1_power_usage_watts=300.0)
    assert running_trial(storage, [started(90), sample(gpu_0_utilization_percentage=1), both]).gpu_utilization == 85.5
    assert running_trial(storage, [started(90), sample()]).gpu_utilization is None
    assert running_trial(storage, [both, started(90)]).gpu_utilization is None


def test_only_a_running_trial_has_an_eta(storage):
    events = [started(100), progress(90, 11), progress(30, 14), train_metrics(20, 14)]
    make_trial(storage, "old", "trial-af000006", status="interrupted", events=events)
    [trial] = status_of(["old"], storage).trials
    keys = {"eta_seconds", "trial_eta_seconds", "resumed_from_step", "gpu_utilization"}
    assert {name: value for name, value in trial.as_json().items() if name in keys} == dict.fromkeys(keys)
