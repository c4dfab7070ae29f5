"""Launches a sweep: the trials that a search proposes, under one run of the tracker, and its figures at the end."""

from __future__ import annotations

from collections.abc import Callable

from runner.execute.executor import Executor
from runner.execute.experiment import Experiment
from runner.execute.interrupts import Interrupts
from runner.execute.listener import LaunchListener
from runner.execute.loop import Loop
from runner.execute.results import LaunchResult
from runner.plan import smoke
from runner.stages import Reporter
from runner.standing.sweep_folder import FOLDER, SweepFolder
from runner.steps.outcome import Status
from runner.sweep.figures import write_figures
from runner.sweep.points import as_it_is
from runner.sweep.search import open_search


def launch_sweep(
    experiment: Experiment,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    interrupts: Interrupts,
    reporter: Reporter,
) -> LaunchResult:
    """Run the trials of a sweep that are not finished.

    Args:
        experiment: What is launched; its spec has a `sweep`.
        make_executor: Called once a trial needs it: a finished sweep is reported without starting Ray.
        listener: Shown what happens.
        interrupts: Hears Ctrl-C.
        reporter: Told of the progress of data that trials need.

    Raises:
        UnmetError: The tracker's store cannot be opened, or no trial can ever be placed.
        SpecError: Points that are known beforehand have values that do not go together.
        StepError: Another launch is running this sweep.
    """
    sweep = SweepFolder(experiment.folder / FOLDER, experiment.plan)
    options = experiment.plan.spec.sweep
    assert options is not None
    with sweep.held():
        if experiment.afresh:
            sweep.clear()
        adjust = smoke if experiment.afresh else as_it_is
        proposals = open_search(experiment.loaded.tree, options, sweep.path, reporter, adjust)
        experiment.begin_sweep(sweep, proposals.summary()["objective"], prunes=options.pruning is not None)
        loop = Loop(proposals, experiment, make_executor, listener, interrupts)
        loop.run()
        interrupted = interrupts.asked and not loop.done
        if not interrupted:
            _draw(sweep, listener)
        status: Status = "interrupted" if interrupted else "failed" if loop.failed else "finished"
        sweep.end(status)
        feed = experiment.sweep_feed
        assert feed is not None
        if feed.lacks(status):
            loop.delivery.finish(feed, status)
        trials, summary = loop.close(), proposals.summary()
    return LaunchResult(experiment.plan, trials, interrupted, summary, feed.run_id, feed.link)


def _draw(sweep: SweepFolder, listener: LaunchListener) -> None:
    """Draw the sweep's figures anew where a value has come; a figure that cannot be drawn stops nothing."""
    if sweep.objective is None or not sweep.points or not sweep.changed:
        return
    try:
        write_figures(sweep.points, sweep.objective["metric"], sweep.objective["mode"], sweep.path)
    except Exception as error:  # what Optuna and Plotly raise is not theirs alone to say
        listener.warn(f"the sweep's figures could not be drawn ({type(error).__name__}: {error})")
