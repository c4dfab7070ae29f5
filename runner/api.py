"""The Python interface of the runner, for notebooks and scripts: `from runner import api`.

Nothing is printed to standard output. Progress messages go to the logger `runner`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.cli.app import set_environment
from runner.errors import SpecError
from runner.spec import load
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import LoadedSpec

if TYPE_CHECKING:
    import pandas

    from runner.compare.comparison import Comparison
    from runner.execute.launch_context import LaunchContext
    from runner.execute.results_and_interfaces import Executor, LaunchResult, Start, TrialResult
    from runner.resolved_plan import Trial
    from runner.trial.run_directory_and_events import Event

__all__ = ["compare", "launch", "load_spec", "plan", "results"]

Spec = LoadedSpec[ExperimentSpec]
"""A validated spec with the source locations of its values."""

_LOG = logging.getLogger("runner")


def load_spec(file: str | Path, *overrides: str) -> Spec:
    """Load and validate the spec of an experiment like `runner validate`, without reading model or data.

    Args:
        file: A YAML file, or the `plan.json` of an earlier run.
        overrides: `PATH=VALUE` assignments as in `--set`, such as `trainer.epochs=1`.

    Raises:
        SpecError: The spec is invalid; its `problems` have file, line and column.
    """
    return load.load_spec(Path(file), overrides)


def plan(spec: Spec) -> dict[str, Any]:
    """Describe what a launch would run, without running it. A generated data set is created if it is missing.

    Returns:
        The output of `runner plan --json`: `trials`, `steps_per_trial`, `tokens`, `memory`, `unmet` and others; see
        docs/interface.md.

    Raises:
        SpecError: Options are inconsistent with the model's parameters or with one another.
    """
    from runner.preflight.estimate import describe_plan
    from runner.sweep.claim_registry import plan_claims

    set_environment()
    with _add_locations(spec):
        return describe_plan(spec, _LogDisplay()) | {"claims": plan_claims(spec.spec)}


def launch(
    spec: Spec,
    *,
    smoke: bool = False,
    rerun: Literal["train", "generate", "score"] | None = None,
    local: bool = False,
    address: str | None = None,
) -> LaunchResult:
    """Train, generate and score every trial of a spec. Finished trials are not run again, only reported.

    The function returns when all trials have ended. An interrupt (Ctrl-C, or the notebook's button) asks the trials to
    save their state and stop; a second interrupt stops them at once. The next launch resumes them.

    Args:
        spec: A spec from `load_spec`.
        smoke: Run the same code with small stand-ins, like `--smoke`.
        rerun: Run this step and the steps after it again in every trial, without the cache, like `--rerun`.
        local: Run in this process without Ray, for debuggers. Trials then use the threads and memory of this process.
        address: The address of a Ray cluster. None: RAY_ADDRESS if it is set, else this machine.

    Returns:
        `trials`, each with `status`, `metrics`, `run_dir` and, if it failed, `error`; `interrupted`; `exit_status`,
        0 if all trials finished. A failed trial raises no exception, so the results of the others are not lost.

    Raises:
        SpecError: Values are inconsistent with the data, the model or one another.
        DataError: The data set is missing or broken.
        RequirementError: This machine or the cluster lacks something that the spec needs, or the tracker's store cannot
            be opened.
        StepError: Another launch is running the same trial or sweep.
    """
    from runner.execute.launch import make_executor
    from runner.status.running_launches import registered_launch

    set_environment()
    cluster = None if local else address or os.environ.get("RAY_ADDRESS")
    with _add_locations(spec):
        experiment = _resolve_experiment(spec, smoke=smoke, rerun=rerun, on_cluster=bool(cluster))
        with registered_launch(experiment.folder):
            return _launch(experiment, lambda: make_executor(cluster, local=local, smoke=smoke))


def results(*names: str, storage: str | Path = "runs") -> pandas.DataFrame:
    """Read the results of trials, finished or not, as one row each.

    Args:
        names: Experiments and trials, by name, prefix of the name, or folder. Without names: all.
        storage: The folder of all runs.

    Returns:
        Columns `experiment`, `trial`, `arm`, `group`, `seed`, `status`; the options in which the trials differ, by
        dotted path (`adapter.tasks`; lists are tuples); their metrics (`ner_f1`); `fingerprint`, `run_dir`. Options and
        metrics that a trial does not have are missing values.

    Raises:
        SpecError: A name matches nothing, or more than one experiment or trial.
    """
    import pandas

    from runner.status.results_table import result_rows

    return pandas.DataFrame(result_rows(names, Path(storage)))


def compare(
    name: str,
    *names: str,
    storage: str | Path = "runs",
    by: str | None = None,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    mre: bool = False,
    confidence: float = 0.95,
    cluster: str | None = None,
    published: Sequence[str] = (),
) -> Comparison:
    """Compare finished runs on their common test samples, like `runner compare`.

    Args:
        name: An experiment or a trial, as in `results`.
        names: More experiments or trials.
        storage: The folder of all runs.
        by: A path of the spec, `arm` or `experiment` to group by. None: runs that differ only in the seed are a group.
        baseline: The value of the group that all others are compared with. None: all pairs of groups.
        metrics: The metrics to compare, such as `ner_f1`. None: all.
        mre: Compare runs trained on all tasks with runs of each single task, and of all tasks but one.
        confidence: The confidence level of the intervals.
        cluster: What the samples have in common that are resampled together: `image`, `text`, `content` or `none`.
            None: `content` if the runs have recorded any such groups.
        published: Published results to show beside the groups: installed names such as `gmner`, or YAML files.

    Returns:
        A comparison: the `group_metrics` of the `groups`, the `tests` of their differences with intervals and p-values,
        the verdicts on the registered `claims`, with `mre` the arms by the criterion as `reinforcement`, and
        `warnings`. Its `as_json()` is the output of `runner compare --json`.

    Raises:
        SpecError: No run was found, a run is not finished, test samples or parse modes differ, or a group, metric or
            kind of cluster does not exist.
        DataError: A file of a run is missing or broken.
        PluginError: A metric of the runs is not installed.
    """
    from runner.compare.comparison import CompareOptions
    from runner.compare.comparison import compare as compare_runs
    from runner.compare.resampling import Resampling

    resampling = Resampling(confidence=confidence)
    options = CompareOptions(
        by, baseline, metrics, mre=mre, resampling=resampling, cluster=cluster, published=published
    )
    return compare_runs([name, *names], Path(storage), options)


def _resolve_experiment(spec: Spec, *, smoke: bool, rerun: str | None, on_cluster: bool) -> LaunchContext:
    from runner.execute.launch import resolve_for_launch
    from runner.execute.launch_context import LaunchContext
    from runner.preflight.sent_variables import report_sent_variables, without_sweep
    from runner.resolved_plan import smoke_spec

    experiment_spec, display = smoke_spec(spec.spec) if smoke else spec.spec, _LogDisplay()
    report_sent_variables(without_sweep(spec, experiment_spec) if smoke else spec, _LOG.info, display.warn)
    plan = resolve_for_launch(experiment_spec, display, on_cluster=on_cluster)
    storage = experiment_spec.compute.storage or Path("runs").resolve()
    return LaunchContext(spec, plan, storage, spec.overrides, from_scratch=smoke, rerun=rerun)


def _launch(experiment: LaunchContext, make_executor: Callable[[], Executor]) -> LaunchResult:
    from runner.execute.launch import launch as launch_trial
    from runner.execute.launch_sweep import launch_sweep
    from runner.signals import StopSignals

    display = _LogDisplay()
    with _restore_signal_handlers():
        signals = StopSignals()
        if experiment.plan.spec.sweep is None:
            return launch_trial(experiment, make_executor, display, signals)
        return launch_sweep(experiment, make_executor, display, signals, display)


@contextmanager
def _add_locations(spec: Spec) -> Iterator[None]:
    """Add file, line and column to the problems of a `SpecError`."""
    try:
        yield
    except SpecError as error:
        raise spec.with_locations(error) from error


@contextmanager
def _restore_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers after a launch, because this process continues."""
    from runner.signals import handled_signals

    handlers = {number: signal.getsignal(number) for number in handled_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


class _LogDisplay:
    """Writes the progress of a launch to the logger; a `Reporter` and a `LaunchListener`."""

    def __init__(self) -> None:
        from runner.execute.results_and_interfaces import ToldNeeds

        self._told_needs = ToldNeeds()

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def progress(self, done: int, total: int, **shown: float) -> None: ...

    def event(self, trial: str, event: Event) -> None: ...

    def search_updated(self, summary: Mapping[str, Any]) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def warn(self, message: str) -> None:
        _LOG.warning(message)

    def trial_started(self, trial: Trial, folder: Path, start: Start) -> None:
        from runner.execute.results_and_interfaces import describe_start

        _LOG.info(describe_start(start, f"{trial.name} in {folder}"))

    def trial_waiting(self, trial: Trial, reason: str) -> None:
        if self._told_needs.is_new(reason):
            _LOG.info("%s is waiting for %s", trial.name, reason)

    def trial_ended(self, result: TrialResult) -> None:
        _LOG.info("%s %s", result.trial.name, result.status)

    def stopping(self) -> None:
        _LOG.info("stopping; the trials are saving their state")
