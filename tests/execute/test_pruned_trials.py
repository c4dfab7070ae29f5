"""A sweep that is launched again with other metrics trains nothing, also of what was pruned."""

import json

import pytest

from runner.execute.launch_context import PrunedTrials
from runner.files import read_jsonl
from runner.resolved_plan import Trial, resolve
from runner.spec.load import load_spec
from runner.spec.sweep_section import SweepOptions
from runner.trial.cache_and_mirror import Cache
from runner.trial.cache_contents import list_items
from runner.trial.run_directory_and_events import EventLog, RunDirectory

SWEEP = {
    "space": {"seed": {"int": [1, 50]}},
    "search": {"type": "random"},
    "pruning": {"type": "median"},
    "objective": {"metric": "validation/loss", "mode": "min"},
    "budget": {"trials": 3},
}


class Silent:
    def progress(self, done, total, **shown): ...


def pruned_trials(launcher, **changed):
    return PrunedTrials(Cache(launcher.folder / "runs" / ".cache"), SweepOptions.model_validate(SWEEP | changed))


@pytest.fixture
def prepare(launcher):
    """A function that prepares a trial of the spec with some values changed."""

    def prepare(name, *changes):
        plan = resolve(load_spec(launcher.folder / "many.yaml", changes).spec, Silent())
        run = RunDirectory(launcher.folder / "runs" / "many" / name)
        run.create(plan, "", ())
        return Trial(name, plan, {}, "all"), run

    return prepare


def test_a_trial_with_the_same_training_as_a_pruned_one_is_pruned(launcher, prepare):
    trial, run = prepare("trial-old")
    log = EventLog(run.events)
    log.metrics(3, {"validation/loss": 9.0})
    log.metrics(None, {"ner_f1": 0.5})
    assert not pruned_trials(launcher).has_record(trial)
    pruned_trials(launcher).store(trial, run)

    other, other_run = prepare("trial-new", "metrics=[{type: exact_match}]")
    assert pruned_trials(launcher, budget={"trials": 5}).restore(other, other_run)
    events = read_jsonl(other_run.events)
    [metrics] = [event for event in events if event["kind"] == "metrics"]
    assert (metrics["step"], metrics["values"], metrics["reused_from"]) == (
        3,
        {"validation/loss": 9.0},
        "many/trial-old",
    )
    assert [event["state"] for event in events if event["kind"] == "state"] == ["reused"]
    assert other_run.read_record()["status"] == "pruned"
    assert other_run.read_record()["steps"]["train"]["reused_from"] == "many/trial-old"
    storage = launcher.folder / "runs"
    [item] = list_items(Cache(storage / ".cache"), storage, pytest.fail)
    assert item.used_by == ("many/trial-new", "many/trial-old")


@pytest.mark.parametrize(
    "changed",
    [{"objective": {"metric": "validation/loss", "mode": "max"}}, {"pruning": {"type": "median", "n_warmup_steps": 9}}],
)
def test_in_another_sweep_the_trial_is_run_again(launcher, prepare, changed):
    trial, run = prepare("trial-old")
    pruned_trials(launcher).store(trial, run)
    assert pruned_trials(launcher).has_record(trial)
    assert not pruned_trials(launcher, **changed).has_record(trial)
    assert not pruned_trials(launcher).has_record(prepare("trial-new", "seed=7")[0])


def test_with_a_damaged_record_the_trial_is_run_again(launcher, prepare):
    trial, run = prepare("trial-old")
    pruned_trials(launcher).store(trial, run)
    [told] = (launcher.folder / "runs" / ".cache").glob("pruned/*/told.json")
    told.write_text("{}")
    assert not pruned_trials(launcher).restore(*prepare("trial-new", "metrics=[{type: exact_match}]"))
    assert not pruned_trials(launcher).has_record(trial)


SEARCHED = """\
name: searched
data: {type: synthetic, path: data, train: 44, test: 4}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: 2, global_batch_size: 4, precision: fp32, validation_ratio: 0.1, eval_steps: 3}
generator: {type: transformers, max_new_tokens: 4}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep:
  space: {optimizer.groups.all.lr: {loguniform: [1.0e-5, 3.0e-2]}}
  seeds: [1, 2]
  search: {type: tpe, seed: 0, n_startup_trials: 3}
  pruning: {type: successive_halving, min_resource: 3, reduction_factor: 2}
  objective: {metric: validation/loss, mode: min}
  enqueue: [{}]
  budget: {trials: 8}
"""


@pytest.mark.slow
def test_a_finished_sweep_with_other_metrics_trains_nothing_and_generates_nothing(workplace):
    spec = workplace.folder / "searched.yaml"
    launches = []
    for metrics in ("{type: ner_f1}", "{type: ner_f1}, {type: exact_match}"):
        spec.write_text(SEARCHED.replace("{type: ner_f1}", metrics))
        done = workplace.run("launch", "searched.yaml", "--local", "--json")
        assert done.returncode == 0, done.stderr
        launches.append({json.dumps(trial["parameters"]): trial for trial in json.loads(done.stdout)["trials"]})
    before, after = launches
    assert before.keys() == after.keys()
    assert {trial["status"] for trial in before.values()} == {"finished", "pruned"}
    for parameters, trial in after.items():
        assert trial["status"] == before[parameters]["status"]
        assert trial["metrics"].get("ner_f1") == before[parameters]["metrics"].get("ner_f1")
        events = read_jsonl(RunDirectory(workplace.folder / trial["run_dir"]).events)
        assert not [
            each
            for each in events
            if each["kind"] == "state" and each["state"] == "started" and each["step"] != "score"
        ]
