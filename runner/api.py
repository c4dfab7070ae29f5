"""The runner from Python, for notebooks and scripts: `from runner import api`.

Nothing is printed to standard output. What the command line tells on the way goes to the logger `runner`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.cli.app import set_environment
from runner.errors import SpecError
from runner.spec import load
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import LoadedSpec

if TYPE_CHECKING:
    import pandas

    from runner.compare.comparison import Comparison
    from runner.execute.executor import Executor
    from runner.execute.experiment import Experiment
    from runner.execute.results import LaunchResult, TrialResult
    from runner.plan import Trial
    from runner.trial.events import Event

__all__ = ["compare", "launch", "load_spec", "plan", "results"]

Spec = LoadedSpec[ExperimentSpec]
"""A checked spec, which knows where each of its values was written."""

_LOG = logging.getLogger("runner")


def load_spec(file: str | Path, *overrides: str) -> Spec:
    """Load and check an experiment's spec, as `runner validate` does: no model and no data are looked at.

    Args:
        file: A YAML file, or the `plan.json` of an earlier run.
        overrides: `PATH=VALUE`, as `--set` takes them, such as `trainer.epochs=1`.

    Raises:
        SpecError: With every mistake that was found; `problems` has the file, line and column of each.
    """
    return load.load_spec(Path(file), overrides)


def plan(spec: Spec) -> dict[str, Any]:
    """Work out what a launch would do, without doing it; a generated data set is made.

    Returns:
        What `runner plan --json` prints: `trials`, `steps_per_trial`, `tokens`, `memory`, `unmet` and so on; see
        docs/interface.md.

    Raises:
        SpecError: Options do not fit the model's parameters or one another.
    """
    from runner.preflight.estimate import describe_plan

    set_environment()
    with _located(spec):
        return describe_plan(spec, _LogDisplay())


def launch(spec: Spec, *, smoke: bool = False, local: bool = False, address: str | None = None) -> LaunchResult:
    """Train, generate and score every trial of a spec; what is finished is reported and not run again.

    It returns when all is at its end. Interrupting it (Ctrl-C, or the notebook's button) asks the trials to save and
    stop, a second time ends them at once; the next launch goes on from there.

    Args:
        spec: From `load_spec`.
        smoke: The same code path with small stand-ins, as `--smoke`.
        local: In this process and without Ray, for debuggers. Threads and memory of this process are used.
        address: A Ray cluster; None: this machine, unless RAY_ADDRESS is set.

    Returns:
        `trials`, each with `status`, `metrics`, `run_dir` and, where it failed, `error`; `interrupted`; `exit_status`,
        0 where all went well. A trial that fails raises nothing, so that the others are not lost.

    Raises:
        SpecError: Values do not fit the data, the model or one another.
        DataError: The data set is missing or broken.
        UnmetError: This machine or the cluster lacks what the spec needs, or the tracker's store cannot be opened.
        StepError: Another launch is running the same trial or sweep.
    """
    from runner.execute.launch import make_executor
    from runner.status.process_registry import registered_launch

    set_environment()
    cluster = None if local else address or os.environ.get("RAY_ADDRESS")
    with _located(spec):
        experiment = _experiment(spec, smoke=smoke, elsewhere=bool(cluster))
        with registered_launch(experiment.folder):
            return _launch(experiment, lambda: make_executor(cluster, local=local, smoke=smoke))


def results(*names: str, storage: str | Path = "runs") -> pandas.DataFrame:
    """Read what trials came to, finished or not, a row each.

    Args:
        names: Experiments and trials: by name, by its beginning, or by folder. None: all that there are.
        storage: The folder of all runs.

    Returns:
        Columns `experiment`, `trial`, `arm`, `group`, `seed`, `status`; the options in which the trials differ, by
        dotted path (`adapter.tasks`; lists are tuples); their metrics (`ner_f1`); `fingerprint`, `run_dir`. Missing
        where a trial has no such option or figure.

    Raises:
        SpecError: There is nothing of a name, or more than one.
    """
    import pandas

    from runner.status.status import result_rows

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
) -> Comparison:
    """Compare finished runs on the test samples that they share, as `runner compare` does.

    Args:
        name: An experiment or a trial, as in `results`.
        names: Others.
        storage: The folder of all runs.
        by: A path of the spec, `arm` or `experiment` to group by; None: what differs in its seed alone is a group.
        baseline: The value of the group that all others are compared with; None: each with each.
        metrics: Figures to compare, such as `ner_f1`; None: all.
        mre: Compare what was trained on all tasks with each task alone, and with all but one.
        confidence: Of the intervals.

    Returns:
        `figures` of the `groups`, `tests` of their differences with intervals and p-values, `warnings`; `as_json()` is
        what `runner compare --json` prints.

    Raises:
        SpecError: Nothing is found, something is not finished, test samples or ways of reading answers differ, or a
            group or figure is named that there is not.
        DataError: A file of a run is missing or broken.
        PluginError: A metric of the runs is not installed.
    """
    from runner.compare.comparison import CompareOptions
    from runner.compare.comparison import compare as compare_runs
    from runner.compare.resampling import Resampling

    how = Resampling(confidence=confidence)
    return compare_runs([name, *names], Path(storage), CompareOptions(by, baseline, metrics, mre=mre, resampling=how))


def _experiment(spec: Spec, *, smoke: bool, elsewhere: bool) -> Experiment:
    from runner.execute.experiment import Experiment
    from runner.execute.launch import resolve_here
    from runner.plan import smoke as smoke_of

    told = smoke_of(spec.spec) if smoke else spec.spec
    found = resolve_here(told, _LogDisplay(), elsewhere=elsewhere)
    return Experiment(spec, found, told.compute.storage or Path("runs").resolve(), spec.overrides, afresh=smoke)


def _launch(experiment: Experiment, make: Callable[[], Executor]) -> LaunchResult:
    from runner.execute.launch import launch as launch_one
    from runner.execute.launch import launch_sweep
    from runner.signals import StopSignals

    told = _LogDisplay()
    with _signals_put_back():
        interrupts = StopSignals()
        if experiment.plan.spec.sweep is None:
            return launch_one(experiment, make, told, interrupts)
        return launch_sweep(experiment, make, told, interrupts, told)


@contextmanager
def _located(spec: Spec) -> Iterator[None]:
    """Tell where in the file it stands what an error is about."""
    try:
        yield
    except SpecError as error:
        raise spec.located(error) from error


@contextmanager
def _signals_put_back() -> Iterator[None]:
    """Let Ctrl-C mean afterwards what it meant before: a launch is not the whole of this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, answer in before.items():
            if signal.getsignal(number) is not answer:
                signal.signal(number, answer)


class _LogDisplay:
    """Passes on to the logger what happens; a `Reporter` and a `LaunchListener`."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def progress(self, done: int, total: int, **shown: float) -> None: ...

    def event(self, trial: str, event: Event) -> None: ...

    def searched(self, summary: Mapping[str, Any]) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def warn(self, message: str) -> None:
        _LOG.warning(message)

    def trial_started(self, trial: Trial, folder: Path, *, resumed: bool) -> None:
        _LOG.info("%s %s in %s", trial.name, "goes on" if resumed else "begins", folder)

    def trial_waits(self, trial: Trial, reason: str) -> None:
        _LOG.info("%s waits for %s", trial.name, reason)

    def trial_ended(self, result: TrialResult) -> None:
        _LOG.info("%s %s", result.trial.name, result.status)

    def stopping(self) -> None:
        _LOG.info("stopping; the trials save their state")
