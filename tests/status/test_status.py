"""How experiments stand is read from their folders: states, steps, ages, the best; names need only be unique."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from runner.errors import RequirementError, SpecError
from runner.status import status as module
from runner.status.process_registry import registered_launch
from runner.status.status import experiment_status, find, find_trial, stop


def make_trial(storage, experiment, name, *, status="finished", events=(), metrics=None, error=None):
    """A trial's folder as a launch leaves it."""
    folder = storage / experiment / name
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    steps = {"train": {"status": "failed", "error": error}} if error else {}
    (folder / "record.json").write_text(json.dumps({"status": status, "steps": steps}))
    if events:
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def event(kind, seconds_ago=0, **told):
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return {"time": moment.isoformat(timespec="milliseconds"), "kind": kind, **told}


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


def only(names, storage):
    [found] = find(names, storage)
    return experiment_status(found)


def test_states_steps_figures_and_ages(storage):
    with registered_launch(storage / "tiny"):
        finished, running, waiting, failed = only(["tiny"], storage).trials
    assert (finished.status, finished.metrics) == ("finished", {"ner_f1": 0.5})
    assert (running.status, running.stage, running.done, running.total) == ("running", "train", 2, 9)
    assert running.metrics == {"train/loss": 2.0, "train/lr/all": 0.1}
    told = datetime.fromisoformat(TRAINING[-1]["time"])
    assert 350 <= running.age <= (datetime.now(UTC) - told).total_seconds() + 0.1
    assert (waiting.status, waiting.age) == ("waiting", None)
    assert (failed.status, failed.error) == ("failed", "it broke")


def test_what_runs_without_a_launch_is_lost(storage):
    assert [trial.status for trial in only(["tiny"], storage).trials] == ["finished", "lost", "lost", "failed"]


def test_of_a_long_log_the_end_is_read(storage, monkeypatch):
    monkeypatch.setattr(module, "TAIL_BYTES", 250)
    [trial] = only(["tall"], storage).trials
    assert trial.metrics == {"train/loss": 2.0}
    assert trial.done == 2


def test_a_beginning_is_enough_where_one_trial_has_it(storage):
    for name in ("trial-ab", "ab", "tiny/trial-ab", "tiny/ab", "tin/ab", str(storage / "tiny" / "trial-ab000002")):
        assert find_trial(name, storage) == storage / "tiny" / "trial-ab000002", name
    assert find_trial("tall", storage).name == "trial-aa000009"
    assert [found.experiment.name for found in find([], storage)] == ["tall", "tiny"]


def test_what_may_be_several_is_listed_and_what_is_none_is_refused(storage):
    with pytest.raises(SpecError, match=r"2 trials.*tall/trial-aa000009, tiny/trial-aa000001"):
        find_trial("aa", storage)
    with pytest.raises(SpecError, match="4 trials; name one"):
        find_trial("tiny", storage)
    with pytest.raises(SpecError, match="did you mean 'tiny'"):
        find(["tinny"], storage)
    with pytest.raises(SpecError, match="empty"):
        find(["tiny"], storage / "nowhere")


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
    told = {"objective": {"metric": "validation/loss", "mode": mode}, "trials": trials}
    (folder / "sweep.json").write_text(json.dumps(told))
    best = only(["tiny"], storage).best
    assert (best["parameters"], best["value"]) == ({"lr": group}, value)
    assert best["trials"] == [trial["name"] for trial in trials if trial["group"] == group]
    assert len(only(["tiny"], storage).trials) == 4


def test_one_trial_is_asked_to_stop_by_its_file(storage):
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
    with pytest.raises(RequirementError, match="no launch of tiny runs"):
        stop("tiny", storage, now=False)
