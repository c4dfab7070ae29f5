"""Launches every trial of a plan: those that are finished are reported, the others begun or taken up again."""

from __future__ import annotations

from collections.abc import Callable

from runner.errors import UnmetError
from runner.execute.executor import Executor
from runner.execute.experiment import Experiment
from runner.execute.interrupts import Interrupts
from runner.execute.listener import LaunchListener
from runner.execute.loop import Loop
from runner.execute.resources import local_gpus, unmet_by
from runner.execute.results import LaunchResult
from runner.execute.sweep_folder import FOLDER, SweepFolder
from runner.plan import Plan, expand, resolve, smoke
from runner.spec.models import ExperimentSpec
from runner.stages import Reporter
from runner.sweep.figures import write_figures
from runner.sweep.points import as_it_is
from runner.sweep.proposals import FixedTrials
from runner.sweep.search import open_search


def launch(
    experiment: Experiment,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    interrupts: Interrupts,
    reporter: Reporter,
) -> LaunchResult:
    """Run every trial that is not finished.

    Args:
        experiment: What is launched.
        make_executor: Called once a trial needs it: a finished experiment is reported without starting Ray.
        listener: Shown what happens.
        interrupts: Hears Ctrl-C.
        reporter: Told of the progress of data that a sweep's trials need.

    Raises:
        UnmetError: The tracker's store cannot be opened, or no trial can ever be placed.
        StepError: Another launch is running this sweep.
    """
    if experiment.plan.spec.sweep is not None:
        return _launch_sweep(experiment, make_executor, listener, interrupts, reporter)
    loop = Loop(FixedTrials(expand(experiment.plan)), experiment, make_executor, listener, interrupts)
    loop.run()
    return LaunchResult(experiment.plan, loop.close(), interrupted=interrupts.asked and not loop.done)


def _launch_sweep(
    experiment: Experiment,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    interrupts: Interrupts,
    reporter: Reporter,
) -> LaunchResult:
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
        feed = experiment.sweep_feed
        assert feed is not None
        if feed.outstanding:
            loop.delivery.finish(feed, "interrupted" if interrupted else "finished")
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


def resolve_here(spec: ExperimentSpec, reporter: Reporter, *, elsewhere: bool) -> Plan:
    """Refuse at once what this machine cannot run, then look at data and model; see `resolve`.

    Args:
        spec: As loaded.
        reporter: Told of the progress of data that are made on the way.
        elsewhere: Trials run on a cluster, so that this machine's GPUs do not matter.

    Raises:
        UnmetError: This machine lacks GPUs that the spec asks for.
    """
    unmet = [] if elsewhere else unmet_by(spec.compute, local_gpus())
    if unmet:
        raise UnmetError(f"{'; '.join(unmet)}. Try the same spec here with --smoke, or name a cluster with --address")
    return resolve(spec, reporter)
