"""Launches a plan or a sweep and returns how each trial ended."""

from __future__ import annotations

from collections.abc import Callable

from runner.errors import RequirementError
from runner.execute.executor import Executor, ForkedExecutor, LocalExecutor
from runner.execute.experiment import Experiment
from runner.execute.loop import LaunchLoop
from runner.execute.results import LaunchListener, LaunchResult
from runner.plan import Plan, expand_trials, resolve, smoke_spec
from runner.preflight.resources import local_gpus, missing_requirements
from runner.signals import StopSignals
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Reporter
from runner.status.sweep_folder import SWEEP_FOLDER, SweepFolder
from runner.sweep.plots import write_plots
from runner.sweep.search import open_search
from runner.sweep.trial_source import FixedTrials
from runner.trial.run_trial import Status
from runner.trial_factory import keep_spec


def launch(
    experiment: Experiment,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    signals: StopSignals,
) -> LaunchResult:
    """Run the only trial of a spec without a sweep, unless it is finished.

    Args:
        experiment: The experiment to launch.
        make_executor: Called when the trial needs it, so that a finished experiment is reported without starting Ray.
        listener: Displays the launch.
        signals: Receives Ctrl-C.

    Raises:
        RequirementError: The tracker's store cannot be opened, or the trial can never be placed.
    """
    loop = LaunchLoop(FixedTrials(expand_trials(experiment.plan)), experiment, make_executor, listener, signals)
    loop.run()
    return LaunchResult(experiment.plan, loop.close(), interrupted=signals.stop_requested and not loop.is_done)


def resolve_for_launch(spec: ExperimentSpec, reporter: Reporter, *, on_cluster: bool) -> Plan:
    """Check that this machine has the GPUs of a spec, then resolve it; see `resolve`.

    Args:
        spec: The spec as loaded.
        reporter: Receives the progress of generated data sets.
        on_cluster: Whether trials run on a cluster, so that this machine's GPUs do not matter.

    Raises:
        RequirementError: This machine lacks GPUs that the spec asks for.
    """
    missing = [] if on_cluster else missing_requirements(spec.compute, local_gpus())
    if missing:
        raise RequirementError(
            f"{'; '.join(missing)}. Run the same spec here with --smoke, or name a cluster with --address"
        )
    return resolve(spec, reporter)


def launch_sweep(
    experiment: Experiment,
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
    return LaunchResult(experiment.plan, trials, is_interrupted, summary, sync.run_id, sync.link)


def _update_plots(sweep: SweepFolder, listener: LaunchListener) -> None:
    """Draw the sweep's plots again if there are new objective values; if this fails, only a warning says so."""
    if sweep.objective is None or not sweep.scored_trials or not sweep.has_new_values:
        return
    try:
        write_plots(sweep.scored_trials, sweep.objective["metric"], sweep.objective["mode"], sweep.path)
    except Exception as error:  # Optuna and Plotly raise exceptions of many kinds
        listener.warn(f"the sweep's plots could not be drawn ({type(error).__name__}: {error})")


def make_executor(address: str | None, *, local: bool, smoke: bool) -> Executor:
    """Create the executor of a launch.

    Args:
        address: The address of a Ray cluster; None for this machine.
        local: Whether trials run in this process.
        smoke: Whether this is a smoke run, which has one worker without GPUs. On this machine Ray would have nothing
            to place, and starting its processes would take longer than running such a trial.

    Raises:
        RequirementError: No cluster answers, or a node has other software than this machine.
    """
    if local:
        return LocalExecutor()
    if smoke and not address:
        return ForkedExecutor()
    from runner.execute.ray.ray_executor import RayExecutor

    return RayExecutor(address)
