"""The launch loop: take a trial from the source, place it, follow its events, report its end."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from runner.errors import DataError, DivergedError, RunnerError, SpecError, StepError
from runner.execute.event_follower import EventFollower
from runner.execute.launch_context import LaunchContext
from runner.execute.results_and_interfaces import (
    Executor,
    LaunchListener,
    RunningTrial,
    Start,
    TrialResult,
    add_tracker_run,
    make_result,
)
from runner.files import read_jsonl
from runner.resolved_plan import Trial
from runner.signals import StopSignals
from runner.sweep.trial_source import SearchClient, TrialSource
from runner.tracking.uploader import RunSync, TrackerUploader
from runner.trial.run_directory_and_events import STEPS, Event, EventTail, RunDirectory, objective_metric
from runner.trial.run_trial import Outcome, Status
from runner.trial.score import describe_mistake, describe_total_failure


@dataclass
class ActiveTrial:
    """A trial that is running or waiting for resources.

    Attributes:
        trial: The trial.
        run: Its run directory.
        sync: Uploads it to the tracker.
        lock: Holds the lock of its folder.
        start: How it starts in this launch.
        running: The running trial; None while it waits.
        is_pruned: Whether the search asked to stop it.
        wait_reported_at: When the display was last told what it waits for, in seconds of the monotonic clock.
        last_values: The last value of each metric that a search may use.
    """

    trial: Trial
    run: RunDirectory
    sync: RunSync
    lock: ExitStack
    start: Start
    running: RunningTrial | None = None
    is_pruned: bool = False
    wait_reported_at: float = -math.inf
    last_values: dict[str, float] = field(default_factory=dict)


POLL_SECONDS = 0.1
"""How long the loop sleeps after a round in which nothing happened."""
WAIT_REPORT_SECONDS = 2.0
"""Time between two reports of what a trial is waiting for."""


class LaunchLoop:
    """Runs trials in parallel until the search is done or the user stops it; a failed trial does not stop the others.

    Attributes:
        uploader: Uploads the trials to the tracker.
    """

    def __init__(
        self,
        source: TrialSource,
        experiment: LaunchContext,
        make_executor: Callable[[], Executor],
        listener: LaunchListener,
        signals: StopSignals,
    ) -> None:
        """Initialize the loop; see `runner.execute.launch.launch_sweep` for the arguments."""
        self._search = SearchClient(source, experiment.objective)
        self._experiment, self._make_executor = experiment, make_executor
        self._listener, self._signals = listener, signals
        self.uploader = TrackerUploader(listener.warn)
        self._follower = EventFollower(self._on_event, self._forward_stop, self._warn_of_error)
        self._executor: Executor | None = None
        self._active: dict[str, ActiveTrial] = {}
        self._uploading: list[tuple[RunSync, ExitStack]] = []
        self._results: list[TrialResult] = []
        self._has_announced_stop = False
        self._shown_errors: set[str] = set()
        self._has_shown_mistake = False

    def run(self) -> None:
        """Run every proposed trial that is not finished.

        Raises:
            RequirementError: The tracker's store cannot be opened, or the experiment's trials can never be placed.
        """
        self._listener.search_updated(self._search.summary())
        self._follower.start()
        self.uploader.start()
        try:
            while self._active or not (self._signals.stop_requested or self._search.done()):
                has_progress = self._collect_ended()
                if not self._signals.stop_requested:
                    has_progress = (self._place_pending() and self._start_proposed()) or has_progress
                    if not (has_progress or self._active):
                        break  # No further result can arrive that would let the search propose another trial.
                if not has_progress:
                    time.sleep(POLL_SECONDS)
        except BaseException:
            try:
                self._stop_all()
            finally:
                sync = self._experiment.sweep_sync
                if sync is not None and self.uploader.has_pending(sync):
                    self.uploader.finish(sync, "failed")
                self.uploader.close(lambda: True)
                self._release_locks()
            raise
        self._stop_all()

    def close(self) -> list[TrialResult]:
        """Wait for the uploads, release all locks, and return the results in the order in which the trials ended."""
        self.uploader.close(lambda: self._signals.stop_now_requested)
        self._release_locks()
        return [add_tracker_run(result) for result in self._results]

    def _release_locks(self) -> None:
        for _, lock in self._uploading:
            lock.close()

    @property
    def is_done(self) -> bool:
        """Whether every trial that is to be run has ended."""
        return self._search.done() and all(result.status != "interrupted" for result in self._results)

    @property
    def has_failed(self) -> bool:
        """Whether a trial has failed."""
        return any(result.status == "failed" for result in self._results)

    def _start_proposed(self) -> bool:
        """Start the trials that the search proposes until it has none or resources run out.

        Returns:
            Whether the search proposed a trial.
        """
        has_proposed = False
        while not self._signals.stop_requested:
            trial = self._search.ask()
            if trial is None:
                return has_proposed
            has_proposed = True
            self._begin(trial)
            if not self._place_pending():
                break
        return has_proposed

    def _begin(self, trial: Trial) -> None:
        """Lock a trial's folder; report the trial if it has ended before, otherwise prepare it for placement."""
        run, lock = self._experiment.run_directory(trial), ExitStack()
        try:
            lock.enter_context(run.locked())
            self._check_readable(run)
        except (StepError, DataError) as error:
            lock.close()
            self._add_result(make_result(trial, run, Outcome("failed", error), "failed", None))
            self._tell(trial, "failed", {}, {})
            return
        status = self._earlier_status(run)
        if status is None and self._experiment.reuse_pruned(trial, run):
            status = "pruned"
        if status is not None:
            self._report_earlier(trial, run, lock, status)
            return
        if not run.record.exists() and (explanation := self._experiment.explain_new_trial(trial)):
            self._listener.warn(explanation)
        try:
            start = self._experiment.prepare(trial, run)
            sync = self._experiment.make_sync(trial, run)
            self._upload(sync)
            executor = self._get_executor()
        except BaseException:  # The launch ends before the trial has begun.
            if run.record.exists():
                self._record_status(trial, run, "interrupted")
            lock.close()
            raise
        active = self._active[trial.name] = ActiveTrial(trial, run, sync, lock, start)
        try:
            # Requirements of all trials were checked with the first one; this trial may have others.
            trial.plan.spec.generator_options.check_requirements()
            executor.check_placeable(trial.plan.spec.compute)
        except RunnerError as error:
            self._end(active, Outcome("failed", error))

    def _check_readable(self, run: RunDirectory) -> None:
        """Raise a DataError if what an earlier launch recorded is damaged; the launch goes on with the other trials."""
        if not self._experiment.from_scratch and self._experiment.rerun != STEPS[0]:
            run.check_readable(metrics=self._experiment.rerun is None)

    def _earlier_status(self, run: RunDirectory) -> Status | None:
        """How a trial ended in an earlier launch; None if it is to be run."""
        if not self._experiment.keeps_trainings:
            return None
        if self._experiment.rerun is None and run.is_finished("score"):
            return "finished"
        if self._experiment.has_pruning and run.read_record().get("status") == "pruned":
            return "pruned"
        # The search knows the result of a training that diverged, and the training would diverge again.
        return "failed" if self._experiment.objective and run.divergence() else None

    def _report_earlier(self, trial: Trial, run: RunDirectory, lock: ExitStack, status: Status) -> None:
        """Report a trial that has ended before, and upload what an earlier launch could not."""
        last_values: dict[str, float] = {}
        for event in EventTail(run.events).read():
            self._search.report(trial, event, last_values)
        if run.read_record().get("status") != status:
            run.update_record(status=status)  # A kill came between the last step and the record of it.
        error = DivergedError(run.divergence() or "") if status == "failed" else None
        if error is not None:
            self._search.record_divergence(last_values)
        objective = self._search.objective_value(status, last_values)
        sync = self._experiment.make_sync(trial, run)
        if not sync.needs_upload(status):
            lock.close()
        else:
            self._upload(sync)
            self.uploader.finish(sync, status, objective_metric(objective))
            self._uploading.append((sync, lock))
        metrics = run.read_metrics() if status == "finished" else {}
        self._add_result(
            TrialResult(trial, status, metrics, run.path, None, "", reused=True, objective=objective, error=error)
        )
        self._tell(trial, status, metrics, last_values)

    def _upload(self, sync: RunSync) -> None:
        """Start the upload of a trial, and with the first one that of the sweep; raise if the tracker refuses."""
        for each_sync in (self._experiment.sweep_sync, sync):
            if each_sync is not None:
                self.uploader.add(each_sync)
        self.uploader.wait_until_open(lambda: self._signals.stop_requested)

    def _get_executor(self) -> Executor:
        """The executor, created for the first trial; raises what prevents all trials from running."""
        if self._executor is None:
            self._experiment.plan.spec.generator_options.check_requirements()
            self._executor = self._make_executor()
            self._executor.check_placeable(self._experiment.plan.spec.compute)
        return self._executor

    def _place_pending(self) -> bool:
        """Place the pending trial, if there is one; return whether none is pending any more."""
        active = next((active for active in self._active.values() if active.running is None), None)
        if active is None:
            return True
        executor, compute = self._get_executor(), active.trial.plan.spec.compute
        try:
            with self._signals.raise_second_interrupt():
                active.running = executor.start(active.trial.plan.spec, active.run.path, compute)
        except Exception as error:  # an exception of a cluster's library fails the trial, not the sweep
            not_placed = StepError(f"the trial could not be placed: {type(error).__name__}: {error}")
            cause = error if isinstance(error, RunnerError) else not_placed
            self._end(active, Outcome("failed", cause, traceback.format_exc()))
            return True
        except KeyboardInterrupt:
            self._end(active, Outcome("interrupted"))
            return False
        if active.running is None:
            if time.monotonic() - active.wait_reported_at > WAIT_REPORT_SECONDS:
                self._listener.trial_waiting(active.trial, executor.describe_wait(compute))
                active.wait_reported_at = time.monotonic()
            return False
        self._experiment.record_trial(active.trial, "running", None)
        self._listener.trial_started(active.trial, active.run.path, active.start)
        self._follower.add(active.trial.name, active.run.events)
        return True

    def _collect_ended(self) -> bool:
        """Handle the trials that have ended, and release the locks of those that are uploaded.

        Returns:
            Whether a trial has ended.
        """
        if self._signals.stop_now_requested:
            self._kill_all()
            return True
        has_ended = False
        for active in list(self._active.values()):
            if (outcome := self._outcome(active)) is not None:
                self._end(active, outcome)
                has_ended = True
        for sync, lock in [item for item in self._uploading if not self.uploader.has_pending(item[0])]:
            lock.close()
            self._uploading.remove((sync, lock))
        return has_ended

    def _outcome(self, active: ActiveTrial) -> Outcome | None:
        if active.running is None:
            return Outcome("interrupted") if self._signals.stop_requested else None
        try:
            with self._signals.raise_second_interrupt():
                return active.running.outcome()
        except KeyboardInterrupt:
            return Outcome("interrupted")

    def _end(self, active: ActiveTrial, outcome: Outcome) -> None:
        """Record the end of a trial, upload it, and report it to the display and the search."""
        trial, run = active.trial, active.run
        self._follower.remove(trial.name)
        del self._active[trial.name]
        status: Status = "pruned" if active.is_pruned and outcome.status == "interrupted" else outcome.status
        self._record_status(trial, run, status)
        if status == "pruned":
            self._experiment.store_pruned(trial, run)
        if isinstance(outcome.error, DivergedError):
            self._search.record_divergence(active.last_values)
        objective = self._search.objective_value(status, active.last_values)
        self.uploader.finish(active.sync, status, objective_metric(objective))
        self._uploading.append((active.sync, active.lock))
        if isinstance(outcome.error, SpecError):
            outcome = replace(outcome, error=self._experiment.loaded.with_locations(outcome.error))
        result = make_result(trial, run, outcome, status, objective)
        self._add_result(result)
        self._tell(trial, status, result.metrics, active.last_values)
        message = self._experiment.limit_cache([each.run.name for each in self._active.values()])
        if message:
            self._listener.warn(message)

    def _record_status(self, trial: Trial, run: RunDirectory, status: Status) -> None:
        """Record how a trial ended. If this fails, a warning says so, and the launch handles the other trials."""
        try:
            run.update_record(status=status)
        except (OSError, DataError) as error:
            self._listener.warn(f"{trial.name}: {run.record} could not be changed to the status {status}: {error}")

    def _tell(
        self, trial: Trial, status: Status, metrics: dict[str, float | None], last_values: dict[str, float]
    ) -> None:
        summary = self._search.tell(trial, status, metrics, last_values)
        self._experiment.record_trial(trial, status, self._search.objective_value(status, last_values))
        self._listener.search_updated(summary)

    def _add_result(self, result: TrialResult) -> None:
        self._results.append(result)
        self._listener.trial_ended(result)
        if result.status == "finished" and not (self._has_shown_mistake or self._experiment.from_scratch):
            self._show_mistake(result)

    def _show_mistake(self, result: TrialResult) -> None:
        """Warn if all answers of a trial failed, with one raw answer and the file of the others; once in a launch."""
        problem, mistakes = (
            describe_total_failure(result.metrics),
            RunDirectory(result.run_dir).mistakes.with_suffix(".jsonl"),
        )
        rows = read_jsonl(mistakes) if problem else []
        if rows:
            self._has_shown_mistake = True
            example = describe_mistake(rows[0]["id"], rows[0]["output"], rows[0]["notes"])
            is_trained = result.trial.plan.spec.trainer is not None
            remedy = "train for more steps" if is_trained else "train the model, or set generator.num_few_shot"
            self._listener.warn(
                f"{result.trial.name}: {problem}. {example} {mistakes} shows wrong answers beside the right ones. If "
                f"the answers do not have the format that `runner preview` shows, {remedy}"
            )

    def _on_event(self, name: str, event: Event, is_new: bool) -> None:
        """Handle an event of a running trial, in the follower's thread."""
        active = self._active.get(name)
        try:
            should_stop = active is not None and self._search.report(active.trial, event, active.last_values)
            # A training that was reused from another trial is complete: stopping it would save nothing.
            if active is not None and should_stop and not active.is_pruned and "reused_from" not in event:
                active.run.stop_request.touch()
                active.is_pruned = True
        finally:
            if is_new:
                self._listener.event(name, event)

    def _forward_stop(self) -> None:
        """Forward Ctrl-C to the trials, in the follower's thread: a trial of this process blocks the loop."""
        if not self._signals.stop_requested:
            return
        for active in list(self._active.values()):
            try:
                active.run.stop_request.touch()
            except OSError as error:  # the other trials can still be asked to stop
                self._warn_of_error(error)
        if not self._has_announced_stop:
            self._has_announced_stop = True
            self._listener.stopping()

    def _warn_of_error(self, error: Exception) -> None:
        """Warn once of an error in the follower's thread, which must continue even if the warning cannot be shown."""
        problem = f"{type(error).__name__}: {error}"
        if problem not in self._shown_errors:
            self._shown_errors.add(problem)
            with suppress(Exception):
                self._listener.warn(
                    f"an event of a trial could not be displayed, given to the search, or answered ({problem}); the "
                    "launch continues"
                )

    def _kill_all(self) -> None:
        for active in self._active.values():
            if active.running is not None:
                active.running.kill()
        for active in list(self._active.values()):
            self._end(active, Outcome("interrupted"))

    def _stop_all(self) -> None:
        """Stop everything that runs, also if the loop itself failed."""
        try:
            self._kill_all()
        finally:
            self._follower.stop()
            if self._executor is not None:
                self._executor.close()
