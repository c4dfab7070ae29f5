"""Launches a plan: what is finished is reported, else begun or taken up again."""

from __future__ import annotations

from collections.abc import Callable

from runner.errors import UnmetError
from runner.execute.executor import Executor
from runner.execute.experiment import Experiment
from runner.execute.interrupts import Interrupts
from runner.execute.listener import LaunchListener
from runner.execute.loop import Loop
from runner.execute.results import LaunchResult
from runner.forecast.resources import local_gpus, unmet_by
from runner.plan import Plan, expand, resolve
from runner.spec.models import ExperimentSpec
from runner.stages import Reporter
from runner.sweep.proposals import FixedTrials


def launch(
    experiment: Experiment,
    make_executor: Callable[[], Executor],
    listener: LaunchListener,
    interrupts: Interrupts,
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
    unmet = [] if elsewhere else unmet_by(spec.compute, local_gpus())
    if unmet:
        raise UnmetError(f"{'; '.join(unmet)}. Try the same spec here with --smoke, or name a cluster with --address")
    return resolve(spec, reporter)
