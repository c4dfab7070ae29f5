"""Launches a plan or a sweep and returns how each trial ended."""

from __future__ import annotations

from collections.abc import Callable

from runner.errors import RequirementError
from runner.execute.in_process_executor import LocalExecutor
from runner.execute.launch_context import LaunchContext
from runner.execute.loop import LaunchLoop
from runner.execute.results_and_interfaces import Executor, LaunchListener, LaunchResult
from runner.preflight.resources import local_gpus, missing_requirements
from runner.resolved_plan import Plan, expand_trials, resolve
from runner.signals import StopSignals
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Reporter
from runner.sweep.trial_source import FixedTrials


def launch(
    experiment: LaunchContext,
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
        from runner.execute.fork_executor import ForkedExecutor

        return ForkedExecutor()
    from runner.execute.ray.ray_executor import RayExecutor

    return RayExecutor(address)
