"""A sweep as it is launched: real search and files, trials that only seem to train."""

import json
import math

import pytest

from runner.execute.launch_context import LaunchContext
from runner.execute.launch_sweep import launch_sweep
from runner.resolved_plan import resolve, smoke_spec
from runner.signals import StopSignals
from runner.spec.load import load_spec

SPEC = """\
name: searched
data: {type: synthetic, path: data, train: 8, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: 1, global_batch_size: 2, precision: fp32, validation_ratio: 0.25, eval_steps: 1}
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep:
  space:
    optimizer.groups.vision.lr: {loguniform: [1.0e-5, 1.0e-1]}
    optimizer.groups.rest.lr: {loguniform: [1.0e-5, 1.0e-1]}
  seeds: [1, 2]
  search: SEARCH
  objective: {metric: validation/loss, mode: min}
  enqueue: [{}]
  budget: {trials: 8}
  parallel: PARALLEL
"""
SEARCHES = {"random": ("{type: random, seed: 3}", "2"), "tpe": ("{type: tpe, seed: 3, n_startup_trials: 2}", "1")}


class Killed(BaseException):
    """What ends a launch as nothing else does."""


class Swept:
    """A folder with a sweep in it, and an executor whose trials are as good as their rates are near 0.01."""

    def __init__(self, folder, launcher, search, make_executor):
        folder.mkdir(exist_ok=True)
        text = SPEC.replace("SEARCH", SEARCHES[search][0]).replace("PARALLEL", SEARCHES[search][1])
        (folder / "searched.yaml").write_text(text)
        self.loaded = load_spec(folder / "searched.yaml")
        self.folder, self.tracker, self._make_executor = folder, launcher.tracker, make_executor

    def launch(self, listener, *, from_scratch=False, script=None):
        spec = smoke_spec(self.loaded.spec) if from_scratch else self.loaded.spec
        plan = resolve(spec, listener)
        experiment = LaunchContext(self.loaded, plan, self.folder / "runs", (), from_scratch=from_scratch)
        executor = self._make_executor(script or _script)
        return launch_sweep(experiment, lambda: executor, listener, StopSignals(), listener)

    def found(self):
        told = json.loads((self.folder / "runs" / "searched" / "sweep" / "sweep.json").read_text())
        return {each["name"]: (each["number"], each["status"], each["objective"]) for each in told["trials"]}


def _script(plan):
    rates = [group["lr"] for group in plan.optimizer.options.model_dump()["groups"].values()]
    value = sum((math.log10(rate) + 2) ** 2 for rate in rates) + plan.seed / 100
    return [(1, 9.0), (2, value)]


@pytest.fixture
def swept_at(launcher, scripted_executor):
    """Makes a folder with a sweep."""
    return lambda folder, search: Swept(folder, launcher, search, scripted_executor)


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_sweep_that_is_interrupted_anywhere_and_relaunched_equals_an_uninterrupted_one(
    tmp_path, swept_at, make_listener, search, monkeypatch
):
    monkeypatch.setattr("runner.execute.launch_sweep.write_plots", lambda *given: [])
    swept_at(tmp_path / "whole", search).launch(make_listener())
    whole = swept_at(tmp_path / "whole", search).found()
    assert len(whole) == 8 and {status for _, status, _ in whole.values()} == {"finished"}

    for moment in (2, 5):
        swept, listener = swept_at(tmp_path / f"ended-{moment}", search), make_listener()

        def end(listener=listener, moment=moment):
            if len(listener.started) == moment:
                raise Killed

        listener.on_start = end
        with pytest.raises(Killed):
            swept.launch(listener)
        result = swept.launch(make_listener())
        assert swept.found() == whole
        assert (result.exit_status, len(result.trials)) == (0, 8)


def test_a_sweep_writes_the_best_and_its_plots_and_a_relaunch_runs_nothing(tmp_path, swept_at, make_listener, launcher):
    swept = swept_at(tmp_path / "sweep", "random")
    result = swept.launch(make_listener())
    told = result.as_json()
    best = min(group_means(told["trials"]).items(), key=lambda item: item[1])
    assert (told["sweep"]["best"]["group"], told["sweep"]["best"]["value"]) == (best[0], pytest.approx(best[1]))
    folder = tmp_path / "sweep" / "runs" / "searched" / "sweep"
    assert {"parallel_coordinates.html", "importances.html", "sweep.json", "plan.json"} <= {
        p.name for p in folder.iterdir()
    }
    sweep = f"sweep-{result.plan.fingerprint[:8]}"
    assert told["sweep"]["mlflow_run_id"] == f"id of {sweep}"
    assert len(launcher.tracker.metrics(sweep, "objective")) == 8
    parameters = launcher.tracker.started[sweep].parameters
    assert parameters["seed"] == parameters["optimizer.groups.vision.lr"] == "swept"
    assert (parameters["trainer.epochs"], parameters["optimizer.groups.vision.match"]) == (1, "*visual*")

    before, listener = dict(launcher.tracker.started), make_listener()
    again = swept.launch(listener)
    assert again.as_json() == told
    assert not listener.started and launcher.tracker.started == before, "the tracker lacks nothing"


def test_a_search_whose_objective_was_never_measured_has_failed(tmp_path, swept_at, make_listener):
    """As with `validation/rouge1` if all summaries are Chinese, or an accuracy of segments if there are none."""
    swept = swept_at(tmp_path / "sweep", "random")
    for _ in range(2):
        result = swept.launch(listener := make_listener(), script=lambda plan: [])
        assert {trial.status for trial in result.trials} == {"finished"}
        assert result.exit_status == 1
        [warning] = listener.warnings
        assert "no finished trial has a value of the objective validation/loss" in warning
    assert swept.launch(make_listener(), from_scratch=True, script=lambda plan: []).exit_status == 0


def group_means(trials):
    groups = {}
    for trial in trials:
        groups.setdefault(trial["group"], []).append(trial["objective"])
    return {group: sum(values) / len(values) for group, values in groups.items()}


def test_a_smoke_run_of_a_sweep_starts_from_scratch_each_time(tmp_path, swept_at, make_listener):
    swept = swept_at(tmp_path / "sweep", "tpe")
    for _ in range(2):
        listener = make_listener()
        result = swept.launch(listener, from_scratch=True)
        assert [trial.status for trial in result.trials] == ["finished", "finished"]
        assert [start for _, start in listener.started] == ["running", "running"]
        assert all(trial.trial.plan.spec.name == "searched_smoke" for trial in result.trials)
