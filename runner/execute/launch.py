"""Launches a plan or a sweep and returns how each trial ended."""

from __future__ import annotations

from collections.abc import Callable

from runner.errors import RequirementError
from runner.execute.executor import Executor, ForkedExecutor, LocalExecutor
from runner.execute.experiment import Experiment
from runner.execute.loop import Loop
from runner.execute.results import LaunchListener, LaunchResult
from runner.plan import Plan, expand, resolve, smoke
from runner.preflight.resources import local_gpus, missing_requirements
from runner.signals import StopSignals
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Reporter
from runner.status.sweep_folder import FOLDER, SweepFolder
from runner.sweep.plots import write_figures
from runner.sweep.search import open_search
from runner.sweep.trial_source import FixedTrials
from runner.trial.run_trial import Status
from runner.trial_factory import unchanged


def launch(
    experiment: Experiment,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    interrupts: StopSignals,
) -> LaunchResult:
    """Run the one trial of a spec that sweeps nothing, unless it is finished.

    Args:
        experiment: What is launched.
        make_executor: Called once a trial needs it: a finished experiment is reported without starting Ray.
        listener: Shown what happens.
        interrupts: Hears Ctrl-C.

    Raises:
        UnmetError: The tracker's store cannot be opened, or the trial can never be placed.
    """
    loop = Loop(FixedTrials(expand(experiment.plan)), experiment, make_executor, listener, interrupts)
    loop.run()
    return LaunchResult(experiment.plan, loop.close(), interrupted=interrupts.asked and not loop.done)


def resolve_here(spec: ExperimentSpec, reporter: Reporter, *, elsewhere: bool) -> Plan:
    """Refuse at once what this machine cannot run, then look at data and model; see `resolve`.

    Args:
        spec: As loaded.
        reporter: Told of the progress of data that are made on the way.
        elsewhere: Trials run on a cluster, so that this machine's GPUs do not matter.

    Raises:
        UnmetError: This machine lacks GPUs that the spec asks for.
    """
    unmet = [] if elsewhere else missing_requirements(spec.compute, local_gpus())
    if unmet:
        raise RequirementError(
            f"{'; '.join(unmet)}. Try the same spec here with --smoke, or name a cluster with --address"
        )
    return resolve(spec, reporter)


def launch_sweep(
    experiment: Experiment,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    interrupts: StopSignals,
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
        adjust = smoke if experiment.afresh else unchanged
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


def make_executor(address: str | None, *, local: bool, smoke: bool) -> Executor:
    """Choose what runs the trials of a launch.

    Args:
        address: A Ray cluster; None for this machine.
        local: In this process.
        smoke: A smoke run, which has one worker without GPUs: on this machine Ray would have nothing to place, and its
            processes take longer to start than such a trial to run.

    Raises:
        UnmetError: No cluster answers, or a node has other software than this machine.
    """
    if local:
        return LocalExecutor()
    if smoke and not address:
        return ForkedExecutor()
    from runner.execute.ray.ray_executor import RayExecutor

    return RayExecutor(address)
