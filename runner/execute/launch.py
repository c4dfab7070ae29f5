"""Launches every trial of a plan: those that are finished are reported, the others begun or taken up again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from runner.artifacts import RunDirectory
from runner.errors import RunnerError, SpecError, StepError, UnmetError
from runner.execute.executor import Executor
from runner.execute.resources import local_gpus, unmet_by
from runner.execute.watch import Listener, TrackerFeed, Watch, replay, tracker_state
from runner.plan import Plan, Trial, expand, flatten, implement, plan_json, resolve
from runner.spec.load import LoadedSpec
from runner.spec.models import ExperimentSpec
from runner.stages import Reporter, TrackedRun, Tracker
from runner.steps.outcome import Outcome, Status

POLL_SECONDS = 0.1
"""Between two looks at a trial that runs."""


class LaunchListener(Listener, Protocol):
    """Who is shown a launch."""

    def trial_started(self, trial: Trial, folder: Path, *, resumed: bool) -> None:
        """A trial begins, or goes on."""

    def trial_ended(self, result: TrialResult) -> None:
        """A trial is at its end."""

    def stopping(self) -> None:
        """The user asked to stop; the trial saves its state."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended and where it lies.

    Attributes:
        trial: The trial.
        status: Finished, failed or interrupted.
        metrics: Its results by name.
        run_dir: Its folder.
        tracker_run_id: The tracker's id of the run.
        link: Where a person looks at it.
        reused: It was finished before this launch.
        error: What went wrong.
        trace: The traceback, for `--debug`.
    """

    trial: Trial
    status: Status
    metrics: dict[str, float | None]
    run_dir: Path
    tracker_run_id: str | None
    link: str
    reused: bool = False
    error: RunnerError | None = None
    trace: str = ""

    def as_json(self) -> dict[str, Any]:
        """The trial as docs/interface.md's `launch --json` lists it."""
        return {
            "name": self.trial.name,
            "fingerprint": self.trial.plan.fingerprint,
            "status": self.status,
            "parameters": dict(self.trial.parameters),
            "metrics": self.metrics,
            "run_dir": str(self.run_dir),
            "mlflow_run_id": self.tracker_run_id,
        }


@dataclass(frozen=True)
class Launch:
    """A launch of one plan.

    Attributes:
        loaded: The spec as read, for the places of late errors.
        plan: What runs.
        storage: The folder of all runs.
        overrides: The `--set` assignments, for the record.
        listener: Shown what happens.
        afresh: Run finished trials again, from nothing.
    """

    loaded: LoadedSpec[ExperimentSpec]
    plan: Plan
    storage: Path
    overrides: Sequence[str]
    listener: LaunchListener
    afresh: bool = False

    def folder(self, trial: Trial) -> Path:
        """A trial's run directory."""
        return self.storage / self.plan.spec.name / trial.name

    def run(self, make_executor: Any) -> list[TrialResult]:
        """Run every trial that is not finished.

        Args:
            make_executor: Called with nothing for an `Executor`, once a trial needs it: a finished experiment
                is reported without starting Ray.

        Raises:
            UnmetError: The tracker's store cannot be opened, or the trials cannot be placed.
        """
        executor: Executor | None = None
        results = []
        try:
            for trial in expand(self.plan):
                run = RunDirectory(self.folder(trial))
                with run.locked():
                    if self.afresh:
                        run.clear()
                    if run.finished("score"):
                        results.append(self._report(trial, run))
                        continue
                    tracker = self._tracker()
                    # It says now what it lacks, such as a key, and not after the training.
                    implement(self.plan.spec.generator)
                    executor = executor or make_executor()
                    results.append(self._run_trial(trial, run, tracker, executor))
        finally:
            if executor is not None:
                executor.close()
        return results

    def _tracker(self) -> Tracker:
        return implement(self.plan.spec.tracker, self.storage)  # type: ignore[no-any-return]

    def _tracked(self, trial: Trial, run: RunDirectory) -> TrackedRun:
        # The tracker's own section says nothing of the run, and its URI may hold a password.
        told = {name: value for name, value in self.plan.spec.as_json().items() if name != "tracker"}
        parameters = dict(flatten(told))
        return TrackedRun(
            self.plan.spec.name,
            trial.name,
            trial.plan.fingerprint,
            run.path,
            parameters,
            self.plan.dataset,
            run.spec,
        )

    def _report(self, trial: Trial, run: RunDirectory) -> TrialResult:
        """Report a finished trial, delivering to the tracker what an earlier launch could not."""
        if not tracker_state(run.path).get("complete"):
            tracker = self._tracker()
            feed = TrackerFeed(tracker, run.path, self.listener)
            feed.started(tracker.start(self._tracked(trial, run)))
            replay(run.events, feed, "finished")
        run_id = tracker_state(run.path)["run_id"]
        if run.read_record().get("status") != "finished":
            run.update_record(status="finished")  # A kill came between the last step and its note.
        result = TrialResult(trial, "finished", run.read_metrics(), run.path, run_id, self._link(run), reused=True)
        self.listener.trial_ended(result)
        return result

    def _link(self, run: RunDirectory) -> str:
        return str(run.read_record().get("tracker_link", ""))

    def _run_trial(self, trial: Trial, run: RunDirectory, tracker: Tracker, executor: Executor) -> TrialResult:
        resumed = bool(run.read_record())
        run.begin(trial.plan, self.loaded.file.read_text(encoding="utf-8"), self.overrides)
        feed = TrackerFeed(tracker, run.path, self.listener)
        feed.started(tracker.start(self._tracked(trial, run)))
        run.update_record(status="running", tracker_link=tracker.link())
        self.listener.trial_started(trial, run.path, resumed=resumed)
        watch = Watch(run.events, feed, self.listener)
        watch.start()
        outcome = Outcome("failed")
        try:
            with self._stop_on_interrupt(run):
                outcome = self._outcome(trial, run, executor)
        except RunnerError as error:
            outcome = Outcome("failed", error)
        except KeyboardInterrupt:
            outcome = Outcome("interrupted")
        finally:
            run.update_record(status=outcome.status)
            watch.end(outcome.status)
        return self._ended(trial, run, feed, outcome)

    def _outcome(self, trial: Trial, run: RunDirectory, executor: Executor) -> Outcome:
        compute = self.plan.spec.compute
        executor.refuse_unplaceable(compute)
        running = None
        try:
            while True:
                running = running or executor.start(plan_json(trial.plan), run.path, compute)
                outcome = running.outcome() if running else None
                if outcome is not None:
                    return outcome
                if running is None and run.stop_request.exists():
                    return Outcome("interrupted")
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if running is not None:
                running.end()
            raise

    def _ended(self, trial: Trial, run: RunDirectory, feed: TrackerFeed, outcome: Outcome) -> TrialResult:
        error = outcome.error
        result = TrialResult(
            trial,
            outcome.status,
            run.read_metrics() if outcome.status == "finished" else {},
            run.path,
            feed.run_id,
            self._link(run),
            error=self.loaded.located(error) if isinstance(error, SpecError) else error,
            trace=outcome.trace,
        )
        self.listener.trial_ended(result)
        return result

    @contextmanager
    def _stop_on_interrupt(self, run: RunDirectory) -> Iterator[None]:
        """Ask the trial to stop on the first Ctrl-C, and end it at once on the second."""

        def ask(signum: int, frame: FrameType | None) -> None:
            if run.stop_request.exists():
                raise KeyboardInterrupt
            run.stop_request.touch()
            self.listener.stopping()

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


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


def as_json_document(results: Sequence[TrialResult]) -> dict[str, Any]:
    """The launch as docs/interface.md's `launch --json` holds it."""
    plan = results[0].trial.plan
    return {
        "experiment": plan.spec.name,
        "fingerprint": plan.fingerprint,
        "trials": [result.as_json() for result in results],
    }


def worst(results: Sequence[TrialResult]) -> int:
    """The exit status of a launch: that of the gravest end of a trial."""
    statuses = [_exit_status(result) for result in results]
    return max(statuses, default=0)


def _exit_status(result: TrialResult) -> int:
    if result.status == "finished":
        return 0
    if result.status == "interrupted":
        return 130
    return result.error.exit_status if result.error else StepError.exit_status
