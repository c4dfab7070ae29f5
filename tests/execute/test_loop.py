"""The driver's loop: trials side by side, failed, pruned, stopped, launched again, and a tracker that is away."""

import os
import signal

import pytest

from runner.errors import RequirementError, StepError
from runner.execute.results import LaunchResult
from runner.status.sweep_folder import SweepFolder
from runner.sweep.trial_source import FixedTrials
from runner.trial.run_directory import RunDirectory


class Pruning(FixedTrials):
    """Stops what is worse than a bound, and remembers what it was told."""

    def __init__(self, trials, bound):
        super().__init__(trials)
        self._bound, self.reported, self.told = bound, [], {}

    def report(self, trial, step, values):
        self.reported.append((trial.name, step, values["validation/loss"]))
        return values["validation/loss"] > self._bound

    def tell(self, trial, status, metrics, validation):
        self.told[trial.name] = (status, dict(validation))


def test_trials_run_side_by_side_and_one_fails_alone(place):
    trials = place.trials(1, 2, 3, 4)
    scripts = {2: [StepError("broke")], 3: [(1, 0.7), (2, 0.4)]}
    results, executor, listener = place.launch(FixedTrials(trials), scripts)
    assert {name: result.status for name, result in results.items()} == {
        "trial-1": "finished",
        "trial-2": "failed",
        "trial-3": "finished",
        "trial-4": "finished",
    }
    assert executor.most == 2 and executor.closed
    assert ("trial-3", "a place") in listener.waited
    assert (results["trial-3"].objective, results["trial-2"].objective) == (0.4, None)
    assert LaunchResult(place.plan, list(results.values())).exit_status == 1
    assert place.tracker.ended == {
        "trial-1": "finished",
        "trial-2": "failed",
        "trial-3": "finished",
        "trial-4": "finished",
        f"sweep-{place.plan.fingerprint[:8]}": "finished",
    }


def test_the_tracker_nests_trials_and_is_told_each_value(place):
    place.launch(FixedTrials(place.trials(1, 2)), {1: [(1, 0.25)], 2: [(1, 0.5)]})
    sweep = f"sweep-{place.plan.fingerprint[:8]}"
    started = place.tracker.started
    assert {started[name].parent for name in ("trial-1", "trial-2")} == {f"id of {sweep}"}
    assert started["trial-2"].tags == {"group": "all", "seed": "2", "trial": "1"}
    assert sorted(place.tracker.metrics(sweep, "objective")) == [0.25, 0.5]
    assert place.tracker.metrics("trial-2", "objective") == [0.5]
    assert [place.sweep()[f"trial-{seed}"]["number"] for seed in (1, 2)] == [0, 1]


def test_what_is_finished_is_reported_told_and_not_run_again(place):
    scripts = {1: [(1, 0.5), (2, 0.25)], 2: [StepError("broke")]}
    place.launch(FixedTrials(place.trials(1, 2)), scripts)
    proposals = Pruning(place.trials(1, 2), bound=1)
    results, _, listener = place.launch(proposals, {})
    assert results["trial-1"].reused and results["trial-1"].objective == 0.25
    assert proposals.told["trial-1"] == ("finished", {"validation/loss": 0.25})
    assert [step for name, step, _ in proposals.reported if name == "trial-1"] == [1, 2]
    assert [name for name, _ in listener.started] == ["trial-2"]
    assert place.tracker.metrics("trial-1", "validation/loss") == [0.5, 0.25], "nothing twice"
    assert results["trial-1"].tracker_run_id == "id of trial-1"


def test_what_a_search_prunes_is_asked_to_stop_and_stays_pruned(place):
    scripts = {1: [(1, 0.5)], 2: [(1, 9.0), *((step, 9.0) for step in range(2, 200))]}
    proposals = Pruning(place.trials(1, 2), bound=1)
    results, _, _ = place.launch(proposals, scripts, prunes=True)
    assert results["trial-2"].status == "pruned"
    assert proposals.told["trial-2"][0] == "pruned"
    assert place.tracker.ended["trial-2"] == "pruned"
    assert place.sweep()["trial-2"]["status"] == "pruned"
    assert LaunchResult(place.plan, list(results.values())).exit_status == 0

    again, _, listener = place.launch(Pruning(place.trials(1, 2), bound=1), {}, prunes=True)
    assert again["trial-2"].status == "pruned" and not listener.started

    # Where the spec prunes no longer, it is taken up again.
    without, _, listener = place.launch(FixedTrials(place.trials(1, 2)), {})
    assert listener.started == [("trial-2", True)]
    assert without["trial-2"].status == "finished"


def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)


ENDLESS = [(step, 1.0) for step in range(10_000)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_asks_all_that_run_to_stop_and_begins_nothing_more(place, listener, number):
    listener.on_start = lambda: press(number) if len(listener.started) == 2 else None
    results, executor, _ = place.launch(FixedTrials(place.trials(1, 2, 3)), {1: ENDLESS, 2: ENDLESS}, listener=listener)
    assert listener.stops == 1
    assert {name for name, _ in listener.started} == {"trial-1", "trial-2"}
    assert {result.status for result in results.values()} == {"interrupted"}
    assert not any(running.ended_at_once for running in executor.started)
    assert LaunchResult(place.plan, list(results.values()), interrupted=True).exit_status == 130

    again, _, listener = place.launch(FixedTrials(place.trials(1, 2, 3)), {})
    assert {result.status for result in again.values()} == {"finished"}
    assert listener.started[:2] == [("trial-1", True), ("trial-2", True)]


def test_a_second_ctrl_c_ends_them_at_once(place, listener):
    listener.on_start = press
    listener.on_stopping = press
    results, executor, _ = place.launch(FixedTrials(place.trials(1)), {1: ENDLESS}, listener=listener, deaf=True)
    assert executor.started[0].ended_at_once and executor.closed
    assert results["trial-1"].status == "interrupted"


def test_a_tracker_that_goes_away_costs_a_warning_and_is_served_by_the_next_launch(place, listener):
    listener.on_start = lambda: setattr(place.tracker, "away", True)
    results, _, _ = place.launch(FixedTrials(place.trials(1, 2)), {1: [(1, 0.5)], 2: [(1, 0.5)]}, listener=listener)
    assert {result.status for result in results.values()} == {"finished"}
    assert len(listener.warnings) == 1
    assert place.tracker.ended == {}

    place.tracker.away = False
    results, executor, again = place.launch(FixedTrials(place.trials(1, 2)), {})
    assert not again.started and not executor.started
    assert place.tracker.ended["trial-1"] == place.tracker.ended["trial-2"] == "finished"
    assert place.tracker.metrics("trial-2", "validation/loss") == [0.5]
    assert sorted(place.tracker.metrics(f"sweep-{place.plan.fingerprint[:8]}", "objective")) == [0.5, 0.5]


def test_a_tracker_that_cannot_be_opened_stops_the_launch(place):
    place.tracker.away = True
    with pytest.raises(RequirementError, match="nobody there"):
        place.launch(FixedTrials(place.trials(1)), {})


def test_a_folder_that_another_launch_holds_fails_that_trial_alone(place):
    trials = place.trials(1, 2)
    with RunDirectory(place.folder / "runs" / "many" / "trial-1").locked():
        results, _, _ = place.launch(FixedTrials(trials), {})
    assert (results["trial-1"].status, results["trial-2"].status) == ("failed", "finished")
    assert "another launch is running this trial" in str(results["trial-1"].error)


def test_two_launches_never_search_in_one_experiment(place):
    folder = SweepFolder(place.folder / "runs" / "many" / "sweep", place.plan)
    with folder.held(), pytest.raises(StepError, match="another launch is running this sweep"):
        place.launch(FixedTrials(place.trials(1)), {})


def test_another_base_is_another_sweep(place):
    place.launch(FixedTrials(place.trials(1)), {})
    [edited] = place.trials(7)
    folder = SweepFolder(place.folder / "runs" / "many" / "sweep", edited.plan)
    folder.begin("", {"metric": "validation/loss", "mode": "min"})
    assert folder.trials() == [] and not folder.events.exists()
