"""Launches a sweep: the trials that a search proposes, one tracker run for all, and plots."""

from __future__ import annotations

from collections.abc import Callable

from runner.execute.launch_context import LaunchContext
from runner.execute.loop import LaunchLoop
from runner.execute.results_and_interfaces import Executor, LaunchListener, LaunchResult
from runner.resolved_plan import smoke_spec
from runner.signals import StopSignals
from runner.stages import Reporter
from runner.sweep.plots import write_plots
from runner.sweep.search import open_search
from runner.sweep.sweep_folder import SWEEP_FOLDER, SweepFolder
from runner.trial.run_trial import Status
from runner.trial_factory import keep_spec


def launch_sweep(
    experiment: LaunchContext,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    signals: StopSignals,
    reporter: Reporter,
) -> LaunchResult:
    """Run the unfinished trials of a sweep.

    Args:
        experiment: The experiment to launch; its spec has a `sweep`.
        make_executor: Called when a trial needs it, so that a finished sweep is reported without starting Ray.
        listener: Displays the launch.
        signals: Receives Ctrl-C.
        reporter: Receives the progress of data sets that trials need.

    Raises:
        RequirementError: The tracker's store cannot be opened, or no trial can ever be placed.
        SpecError: Values of a point that is known in advance contradict each other.
        StepError: Another launch is running this sweep.
    """
    sweep = SweepFolder(experiment.folder / SWEEP_FOLDER, experiment.plan)
    options = experiment.plan.spec.sweep
    assert options is not None
    with sweep.locked():
        if experiment.from_scratch:
            sweep.clear()
        adjust = smoke_spec if experiment.from_scratch else keep_spec
        search = open_search(experiment.loaded.tree, options, sweep.path, reporter, adjust)
        experiment.begin_sweep(sweep, search.summary()["objective"], has_pruning=options.pruning is not None)
        loop = LaunchLoop(search, experiment, make_executor, listener, signals)
        loop.run()
        is_interrupted = signals.stop_requested and not loop.is_done
        if not is_interrupted:
            _update_plots(sweep, listener)
        status: Status = "interrupted" if is_interrupted else "failed" if loop.has_failed else "finished"
        sweep.end(status)
        sync = experiment.sweep_sync
        assert sync is not None
        if sync.needs_upload(status):
            loop.uploader.finish(sync, status)
        trials, summary = loop.close(), search.summary()
    finished = [] if experiment.from_scratch else [trial for trial in trials if trial.status == "finished"]
    has_values = not (experiment.objective and finished) or any(trial.objective is not None for trial in finished)
    if not has_values:
        listener.warn(
            "the search found no best trial: no finished trial has a value of the objective "
            f"{experiment.objective}, so this metric is undefined on the validation samples; choose another one in "
            "sweep.objective.metric"
        )
    return LaunchResult(experiment.plan, trials, is_interrupted, summary, sync.run_id, sync.link, has_values)


def _update_plots(sweep: SweepFolder, listener: LaunchListener) -> None:
    """Draw the sweep's plots again if there are new objective values; if this fails, only a warning says so."""
    if sweep.objective is None or not sweep.scored_trials or not sweep.has_new_values:
        return
    try:
        write_plots(sweep.scored_trials, sweep.objective["metric"], sweep.objective["mode"], sweep.path)
    except Exception as error:  # Optuna and Plotly raise exceptions of many kinds
        listener.warn(f"the sweep's plots could not be drawn ({type(error).__name__}: {error})")
