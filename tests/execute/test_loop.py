"""The launch loop: parallel trials; failed, pruned, stopped and relaunched ones; an unreachable tracker."""

import math
import os
import signal
from dataclasses import replace

import pytest

from runner.errors import DivergedError, RequirementError, StepError
from runner.execute.results_and_interfaces import LaunchResult
from runner.files import write_json, write_jsonl
from runner.signals import STOP_SIGNALS
from runner.sweep.sweep_folder import SweepFolder
from runner.sweep.trial_source import FixedTrials
from runner.trial.run_directory_and_events import RunDirectory


class Pruning(FixedTrials):
    """Prunes trials that are worse than a bound, and records what it was told."""

    def __init__(self, trials, bound):
        super().__init__(trials)
        self._bound, self.reported, self.told = bound, [], {}

    def report(self, trial, step, values):
        self.reported.append((trial.name, step, values["validation/loss"]))
        return values["validation/loss"] > self._bound

    def tell(self, trial, status, metrics, validation):
        self.told[trial.name] = (status, dict(validation))


def test_trials_run_in_parallel_and_a_failed_one_does_not_stop_the_others(launcher):
    trials = launcher.trials(1, 2, 3, 4)
    scripts = {2: [StepError("broke")], 3: [(1, 0.7), (2, 0.4)]}
    results, executor, listener = launcher.launch(FixedTrials(trials), scripts)
    assert {name: result.status for name, result in results.items()} == {
        "trial-1": "finished",
        "trial-2": "failed",
        "trial-3": "finished",
        "trial-4": "finished",
    }
    assert executor.max_running == 2 and executor.closed
    assert ("trial-3", "a place") in listener.waited
    assert (results["trial-3"].objective, results["trial-2"].objective) == (0.4, None)
    assert LaunchResult(launcher.plan, list(results.values())).exit_status == 1
    assert launcher.tracker.ended == {
        "trial-1": "finished",
        "trial-2": "failed",
        "trial-3": "finished",
        "trial-4": "finished",
        f"sweep-{launcher.plan.fingerprint[:8]}": "finished",
    }


def test_the_tracker_nests_trials_and_receives_each_value(launcher):
    launcher.launch(FixedTrials(launcher.trials(1, 2)), {1: [(1, 0.25)], 2: [(1, 0.5)]})
    sweep = f"sweep-{launcher.plan.fingerprint[:8]}"
    started = launcher.tracker.started
    assert {started[name].parent for name in ("trial-1", "trial-2")} == {f"id of {sweep}"}
    assert started["trial-2"].tags == {"group": "all", "seed": "2", "trial": "1"}
    assert sorted(launcher.tracker.metrics(sweep, "objective")) == [0.25, 0.5]
    assert launcher.tracker.metrics("trial-2", "objective") == [0.5]
    assert [launcher.sweep()[f"trial-{seed}"]["number"] for seed in (1, 2)] == [0, 1]


def test_a_finished_trial_is_reported_but_not_run_again(launcher):
    scripts = {1: [(1, 0.5), (2, 0.25)], 2: [StepError("broke")]}
    launcher.launch(FixedTrials(launcher.trials(1, 2)), scripts)
    source = Pruning(launcher.trials(1, 2), bound=1)
    results, _, listener = launcher.launch(source, {})
    assert results["trial-1"].reused and results["trial-1"].objective == 0.25
    assert source.told["trial-1"] == ("finished", {"validation/loss": 0.25})
    assert [step for name, step, _ in source.reported if name == "trial-1"] == [1, 2]
    assert listener.started == [("trial-2", "restarting")], "it broke before it had saved anything"
    assert launcher.tracker.metrics("trial-1", "validation/loss") == [0.5, 0.25], "nothing twice"
    assert results["trial-1"].tracker_run_id == "id of trial-1"


def test_a_pruned_trial_is_stopped_and_stays_pruned(launcher):
    scripts = {1: [(1, 0.5)], 2: [(1, 9.0), *((step, 9.0) for step in range(2, 200))]}
    source = Pruning(launcher.trials(1, 2), bound=1)
    results, _, _ = launcher.launch(source, scripts, has_pruning=True)
    assert results["trial-2"].status == "pruned"
    assert source.told["trial-2"][0] == "pruned"
    assert launcher.tracker.ended["trial-2"] == "pruned"
    assert launcher.sweep()["trial-2"]["status"] == "pruned"
    assert LaunchResult(launcher.plan, list(results.values())).exit_status == 0

    again, _, listener = launcher.launch(Pruning(launcher.trials(1, 2), bound=1), {}, has_pruning=True)
    assert again["trial-2"].status == "pruned" and not listener.started

    # Without pruning in the spec, the trial resumes.
    (again["trial-2"].run_dir / "checkpoints" / "step-1").mkdir(parents=True)
    without, _, listener = launcher.launch(FixedTrials(launcher.trials(1, 2)), {})
    assert listener.started == [("trial-2", "resuming")]
    assert without["trial-2"].status == "finished"


class Diverging(FixedTrials):
    """Records what a search is told."""

    def __init__(self, trials):
        super().__init__(trials)
        self.told = {}

    def tell(self, trial, status, metrics, validation):
        self.told[trial.name] = (status, validation.get("validation/loss"))


def test_a_search_is_told_that_a_training_diverged_and_it_does_not_run_again(launcher):
    error = DivergedError("step 2: the loss is nan")
    # The executor of this test writes no record of the step, as a real trial does.
    scripts = {1: [(1, 0.5), error], 2: [(1, 0.4), (2, float("nan"))], 3: [(1, 0.3), StepError("broke")]}
    source = Diverging(launcher.trials(1, 2, 3))
    results, executor, _ = launcher.launch(source, scripts)
    assert [source.told[f"trial-{seed}"][0] for seed in (1, 2, 3)] == ["failed", "finished", "failed"]
    assert math.isnan(source.told["trial-1"][1]) and math.isnan(source.told["trial-2"][1])
    assert source.told["trial-3"][1] == 0.3
    assert [results[f"trial-{seed}"].objective for seed in (1, 2, 3)] == [None, None, None]
    assert launcher.sweep()["trial-2"]["objective"] is None
    assert LaunchResult(launcher.plan, list(results.values())).exit_status == 1
    for running in executor.started:
        if running.run.path.name == "trial-1":
            steps = {"train": {"status": "failed", "error": str(error), "diverged": True}}
            running.run.update_record(steps=steps)

    source = Diverging(launcher.trials(1, 2, 3))
    again, _, listener = launcher.launch(source, {})
    assert [name for name, _ in listener.started] == ["trial-3"]
    assert math.isnan(source.told["trial-1"][1]) and math.isnan(source.told["trial-2"][1])
    diverged = again["trial-1"]
    assert (diverged.status, str(diverged.error), diverged.reused) == ("failed", str(error), True)


@pytest.mark.parametrize(("rerun", "started"), [("score", {"trial-1"}), ("train", {"trial-1", "trial-2"})])
def test_what_runs_again_does_not_train_a_pruned_trial_unless_trainings_run_again(launcher, rerun, started):
    scripts = {1: [(1, 0.5)], 2: [(1, 9.0), *((step, 9.0) for step in range(2, 200))]}
    launcher.launch(Pruning(launcher.trials(1, 2), bound=1), scripts, has_pruning=True)
    source = Pruning(launcher.trials(1, 2), bound=1)
    again = scripts if rerun == "train" else {1: []}
    results, _, listener = launcher.launch(source, again, has_pruning=True, rerun=rerun)
    assert {name for name, _ in listener.started} == started
    assert [results[f"trial-{seed}"].status for seed in (1, 2)] == ["finished", "pruned"]
    assert source.told["trial-1"] == ("finished", {"validation/loss": 0.5}), "the training's objective holds"


def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)


ENDLESS = [(step, 1.0) for step in range(10_000)]


@pytest.mark.usefixtures("terminal_that_can_be_lost")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_ctrl_c_stops_all_running_trials_and_starts_no_more(launcher, listener, number):
    listener.on_start = lambda: press(number) if len(listener.started) == 2 else None
    results, executor, _ = launcher.launch(
        FixedTrials(launcher.trials(1, 2, 3)), {1: ENDLESS, 2: ENDLESS}, listener=listener
    )
    assert listener.num_stops == 1
    assert {name for name, _ in listener.started} == {"trial-1", "trial-2"}
    assert {result.status for result in results.values()} == {"interrupted"}
    assert not any(running.was_killed for running in executor.started)
    assert LaunchResult(launcher.plan, list(results.values()), interrupted=True).exit_status == 130

    again, _, listener = launcher.launch(FixedTrials(launcher.trials(1, 2, 3)), {})
    assert {result.status for result in again.values()} == {"finished"}
    assert listener.started[:2] == [("trial-1", "restarting"), ("trial-2", "restarting")]


class Broken(FixedTrials):
    """A search whose reports raise an exception for the first trial."""

    def report(self, trial, step, values):
        if trial.name == "trial-1":
            raise RuntimeError("no storage")
        return True


def test_ctrl_c_stops_trials_although_the_display_raises(launcher, listener):
    def fail(*arguments):
        raise BrokenPipeError("no terminal")

    listener.on_start = lambda: press() if len(listener.started) == 2 else None
    listener.event = listener.stopping = fail
    results, executor, _ = launcher.launch(
        FixedTrials(launcher.trials(1, 2)), {1: ENDLESS, 2: ENDLESS}, listener=listener
    )
    assert {result.status for result in results.values()} == {"interrupted"}
    assert not any(running.was_killed for running in executor.started)
    assert len([warning for warning in listener.warnings if "BrokenPipeError: no terminal" in warning]) == 1


def test_a_trial_is_pruned_although_a_report_of_another_raises(launcher, listener):
    scripts = {1: [(step, 1.0) for step in range(20)], 2: ENDLESS}
    results, _, _ = launcher.launch(Broken(launcher.trials(1, 2)), scripts, has_pruning=True, listener=listener)
    assert {name: result.status for name, result in results.items()} == {"trial-1": "finished", "trial-2": "pruned"}
    assert len([warning for warning in listener.warnings if "RuntimeError: no storage" in warning]) == 1


def test_ctrl_c_stops_the_other_trials_if_one_cannot_be_asked(launcher, listener):
    def start():
        if len(listener.started) == 2:
            stop_request = launcher.folder / "runs" / "many" / "trial-1" / ".stop"
            stop_request.symlink_to(launcher.folder / "missing" / "folder")  # cannot be touched
            press()

    listener.on_start = start
    results, _, _ = launcher.launch(
        FixedTrials(launcher.trials(1, 2)), {1: [(1, 1.0)] * 30, 2: ENDLESS}, listener=listener
    )
    assert {name: result.status for name, result in results.items()} == {
        "trial-1": "finished",
        "trial-2": "interrupted",
    }


def test_a_second_ctrl_c_kills_the_trials(launcher, listener):
    listener.on_start = press
    listener.on_stopping = press
    results, executor, _ = launcher.launch(
        FixedTrials(launcher.trials(1)), {1: ENDLESS}, listener=listener, ignores_stop=True
    )
    assert executor.started[0].was_killed and executor.closed
    assert results["trial-1"].status == "interrupted"


def test_a_tracker_that_becomes_unreachable_is_a_warning_and_gets_the_rest_from_the_next_launch(launcher, listener):
    listener.on_start = lambda: setattr(launcher.tracker, "is_down", True)
    results, _, _ = launcher.launch(
        FixedTrials(launcher.trials(1, 2)), {1: [(1, 0.5)], 2: [(1, 0.5)]}, listener=listener
    )
    assert {result.status for result in results.values()} == {"finished"}
    assert len(listener.warnings) == 1
    assert launcher.tracker.ended == {}

    launcher.tracker.is_down = False
    results, executor, again = launcher.launch(FixedTrials(launcher.trials(1, 2)), {})
    assert not again.started and not executor.started
    assert launcher.tracker.ended["trial-1"] == launcher.tracker.ended["trial-2"] == "finished"
    assert launcher.tracker.metrics("trial-2", "validation/loss") == [0.5]
    assert sorted(launcher.tracker.metrics(f"sweep-{launcher.plan.fingerprint[:8]}", "objective")) == [0.5, 0.5]


def test_a_tracker_that_cannot_be_opened_stops_the_launch(launcher):
    launcher.tracker.is_down = True
    with pytest.raises(RequirementError, match="nobody there"):
        launcher.launch(FixedTrials(launcher.trials(1)), {})


def test_a_launch_that_the_tracker_refuses_leaves_no_trial_that_seems_to_run(launcher):
    launcher.tracker.is_down = True
    with pytest.raises(RequirementError):
        launcher.launch(FixedTrials(launcher.trials(1)), {})
    run = RunDirectory(launcher.folder / "runs" / "many" / "trial-1")
    assert run.read_record()["status"] == "interrupted"
    launcher.tracker.is_down = False
    results, _, _ = launcher.launch(FixedTrials(launcher.trials(1)), {})
    assert results["trial-1"].status == "finished"


def test_a_folder_locked_by_another_launch_fails_only_that_trial(launcher):
    trials = launcher.trials(1, 2)
    with RunDirectory(launcher.folder / "runs" / "many" / "trial-1").locked():
        results, _, _ = launcher.launch(FixedTrials(trials), {})
    assert (results["trial-1"].status, results["trial-2"].status) == ("failed", "finished")
    assert "another launch is running this trial" in str(results["trial-1"].error)


def test_two_launches_cannot_run_the_same_sweep(launcher):
    folder = SweepFolder(launcher.folder / "runs" / "many" / "sweep", launcher.plan)
    with folder.locked(), pytest.raises(StepError, match="another launch is running this sweep"):
        launcher.launch(FixedTrials(launcher.trials(1)), {})


def test_another_base_is_another_sweep(launcher):
    launcher.launch(FixedTrials(launcher.trials(1)), {})
    [edited] = launcher.trials(7)
    folder = SweepFolder(launcher.folder / "runs" / "many" / "sweep", edited.plan)
    folder.begin("", {"metric": "validation/loss", "mode": "min"})
    assert folder.trials() == [] and not folder.events.exists()


def test_a_raw_answer_is_shown_once_if_all_metrics_are_0(launcher):
    launcher.launch(FixedTrials(launcher.trials(1, 2, 3)), {})
    for number, value in ((1, 0.5), (2, 0.00001), (3, 0.0)):
        run = RunDirectory(launcher.folder / "runs" / "many" / f"trial-{number}")
        write_json(run.metrics, {"ner_f1": value, "bleu": None, "parse/clean": 3, "parse/malformed": 1})
        mistakes = [{"id": "test-7", "output": "Rome\n" * 99, "notes": "no 'NER:'"}, {"id": "test-8"}]
        write_jsonl(run.mistakes.with_suffix(".jsonl"), mistakes if number == 2 else [])
    _, _, listener = launcher.launch(FixedTrials(launcher.trials(1, 2, 3)), {})
    [warning] = listener.warnings
    assert warning.startswith("trial-2: all metrics are 0. For example, the answer to sample test-7 is 'Rome\\nRome")
    assert "…' (parser: no 'NER:')" in warning and len(warning) < 600
    assert str(launcher.folder / "runs" / "many" / "trial-2" / "mistakes.jsonl") in warning
    assert "set generator.num_few_shot" in warning


def test_the_cache_is_limited_at_the_end_of_each_trial_and_keeps_what_running_trials_use(launcher, listener):
    cache = launcher.folder / "runs" / ".cache" / "encoded"
    for age, name in enumerate(("new", "used by trial-2", "old")):
        (cache / name).mkdir(parents=True)
        (cache / name / "0.safetensors").write_bytes(b"x" * 600)
        for path in (cache / name / "0.safetensors", cache / name):
            os.utime(path, (1000 - age, 1000 - age))
    compute = launcher.plan.spec.compute.model_copy(update={"cache_limit": "1kB"})
    spec = launcher.plan.spec.model_copy(update={"compute": compute})
    launcher.plan = replace(launcher.plan, spec=spec)
    left = []

    def use():
        if listener.started[-1][0] == "trial-2":
            RunDirectory(launcher.folder / "runs" / "many" / "trial-2").record_cache_use("encoded/used by trial-2")

    listener.on_start = use
    listener.trial_ended = lambda result: left.append({path.name for path in cache.iterdir()})
    scripts = {1: [], 2: [(step, 0.5) for step in range(4)], 3: []}
    launcher.launch(FixedTrials(launcher.trials(1, 2, 3)), scripts, listener=listener)
    assert left == [{"new", "used by trial-2", "old"}, {"used by trial-2"}, {"used by trial-2"}]
    [first] = listener.warnings
    assert first.startswith("compute.cache_limit: the cache exceeded 1kB, so the 2 least recently used item(s)")
