"""Claims at launch: registered before the first trial scores, uploaded with the sweep, without effect on results."""

import json
import shutil

import pytest

from runner.execute.launch_context import LaunchContext
from runner.execute.launch_sweep import launch_sweep
from runner.resolved_plan import resolve, smoke_spec
from runner.signals import StopSignals
from runner.spec.load import load_spec
from runner.tracking.sync import sweep_from_folder

SPEC = """\
name: claimed
data: {type: synthetic, path: data, train: 2, test: 2}
adapter: {type: pfa, tasks: [ner, match]}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep: {arms: {joint: {}, alone: {adapter.tasks: [ner]}}}
"""
HELPS = "claims: {helps: {arm: joint, better_than: alone, metrics: [ner_f1]}}\n"


class Claimed:
    """A folder with a sweep of two arms, which is launched with claims that may differ between launches."""

    def __init__(self, folder, launcher, make_listener, make_executor):
        self.folder, self.tracker, self._make_listener = folder, launcher.tracker, make_listener
        self._make_executor = make_executor
        self.sweep = folder / "runs" / "claimed" / "sweep"

    def launch(self, claims, on_start=lambda: None, *, is_smoke=False):
        """Launch the sweep; return the listener, and the fingerprints of the trials."""
        file = self.folder / "claimed.yaml"
        file.write_text(SPEC + claims)
        loaded, listener = load_spec(file), self._make_listener()
        listener.on_start = on_start
        plan = resolve(smoke_spec(loaded.spec) if is_smoke else loaded.spec, listener)
        context = LaunchContext(loaded, plan, self.folder / "runs", (), from_scratch=is_smoke)
        executor = self._make_executor(lambda spec: [(1, 1.0)])
        result = launch_sweep(context, lambda: executor, listener, StopSignals(), listener)
        assert result.exit_status == 0
        return listener, {trial.trial.name: trial.trial.plan.fingerprint for trial in result.trials}

    def registered(self):
        return [json.loads(line) for line in (self.sweep / "claims.jsonl").read_text().splitlines()]

    def tags(self):
        [run] = [run for name, run in self.tracker.started.items() if name.startswith("sweep-")]
        return run.tags


@pytest.fixture
def claimed(tmp_path, launcher, make_listener, scripted_executor):
    """A sweep whose trials only seem to run, with a tracker that records what it receives."""
    return Claimed(tmp_path, launcher, make_listener, scripted_executor)


def test_claims_are_in_the_folder_and_in_the_tracker_before_a_trial_starts(claimed):
    seen = []
    claimed.launch(HELPS, lambda: seen.append((claimed.registered(), dict(claimed.tags()))))
    lines, tags = seen[0]
    assert [line["results_seen"] for line in lines] == [False]
    assert tags["claims"].startswith("helps: joint is better than alone on ner_f1 [before results, 20")
    assert tags["claims_sha256"] == lines[0]["sha256"]


def test_other_claims_run_nothing_again_but_reach_the_tracker(claimed):
    listener, fingerprints = claimed.launch(HELPS)
    assert len(listener.started) == 2
    listener, again = claimed.launch(HELPS.replace("[ner_f1]", "[ner_f1], by: 0.1"))
    assert again == fingerprints
    assert listener.started == []
    assert "by more than 0.1 [changed after results, 20" in claimed.tags()["claims"]
    assert [line["results_seen"] for line in claimed.registered()] == [False, True]
    listener, without = claimed.launch("")
    assert (without, listener.started) == (fingerprints, [])
    assert "by more than 0.1 [removed after results, 20" in claimed.tags()["claims"]


def test_the_same_claims_again_upload_nothing(claimed):
    claimed.launch(HELPS)
    claimed.launch(HELPS)  # records that results exist now
    claimed.tracker.started.clear()
    claimed.launch(HELPS)
    assert claimed.tracker.started == {}


def test_a_later_sync_describes_the_claims_like_the_launch(claimed):
    claimed.launch(HELPS)
    _, run = sweep_from_folder(claimed.sweep)
    assert run.tags == claimed.tags()
    assert not any(path.startswith(("claims", "criterion")) for path in run.parameters)


def test_a_sweep_without_claims_has_neither_registry_nor_tags(claimed):
    claimed.launch("")
    assert not (claimed.sweep / "claims.jsonl").exists()
    assert claimed.tags() == {}


def test_a_smoke_run_registers_nothing(claimed):
    claimed.launch(HELPS, is_smoke=True)
    assert list((claimed.folder / "runs").rglob("claims.jsonl")) == []


def test_a_registry_outlives_another_base_plan_and_deleted_trials(claimed):
    claimed.launch(HELPS)
    claimed.launch(HELPS)
    for trial in claimed.sweep.parent.glob("trial-*"):
        shutil.rmtree(trial)
    text = HELPS.replace("claims: {", "claims: {late: {arm: alone, better_than: joint, metrics: [ner_f1]}, ")
    claimed.launch(text + "seed: 7\n")
    assert [line["results_seen"] for line in claimed.registered()] == [False, True, True]
    described = [run.tags["claims"] for run in claimed.tracker.started.values() if "claims" in run.tags]
    assert len(described) == 2, "another base plan is another sweep in the tracker"
    assert any("late: alone is better than joint on ner_f1 [added after results" in each for each in described)
