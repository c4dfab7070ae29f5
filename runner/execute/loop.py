"""The driver's loop: take a trial from the source, place it, follow its events, report its end."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from runner.errors import RunnerError, SpecError, StepError
from runner.execute.event_follower import EventFollower, SearchClient
from runner.execute.executor import Executor, RunningTrial
from runner.execute.experiment import Experiment
from runner.execute.results import LaunchListener, TrialResult, result_of, with_tracker
from runner.plan import Trial, plan_json
from runner.signals import StopSignals
from runner.status.sweep_folder import shown_value
from runner.sweep.trial_source import TrialSource
from runner.tracking.run_sync import RunSync
from runner.tracking.uploader import TrackerUploader
from runner.trial.events import Event, EventTail
from runner.trial.run_directory import RunDirectory
from runner.trial.run_trial import Outcome, Status


@dataclass
class LiveTrial:
    """A trial that runs, or waits for room.

    Attributes:
        trial: The trial.
        run: Its folder.
        feed: By which the tracker is served.
        held: Holds the folder's lock.
        resumed: An earlier launch has begun it.
        running: What runs it; None while it waits.
        pruned: The search asked for its end.
        asked_why: When it was last asked what it waits for, in seconds of the monotonic clock.
        last: The last value of each metric that a search may go by.
    """

    trial: Trial
    run: RunDirectory
    feed: RunSync
    held: ExitStack
    resumed: bool
    running: RunningTrial | None = None
    pruned: bool = False
    asked_why: float = -math.inf
    last: dict[str, float] = field(default_factory=dict)


POLL_SECONDS = 0.1
"""How long the loop sleeps where nothing has moved."""
WAIT_SECONDS = 2.0
"""Between two questions what a trial waits for."""


class Loop:
    """Runs trials side by side until the search is done or the user stops it; a trial fails alone."""

    def __init__(
        self,
        proposals: TrialSource,
        experiment: Experiment,
        make_executor: Callable[[], Executor],
        listener: LaunchListener,
        interrupts: StopSignals,
    ) -> None:
        """Take what proposes, what it proposes for, what runs it, who is shown it, and who hears Ctrl-C."""
        self._conversation = SearchClient(proposals, experiment.objective)
        self._experiment, self._make_executor = experiment, make_executor
        self._listener, self._interrupts = listener, interrupts
        self.delivery = TrackerUploader(listener.warn)
        self._watch = EventFollower(self._seen, self._look)
        self._executor: Executor | None = None
        self._live: dict[str, LiveTrial] = {}
        self._ended: list[tuple[RunSync, ExitStack]] = []
        self._results: list[TrialResult] = []
        self._told_to_stop = False

    def run(self) -> None:
        """Run every trial that is proposed and not finished.

        Raises:
            UnmetError: The tracker's store cannot be opened, or the experiment's trials can never be placed.
        """
        self._listener.searched(self._conversation.summary())
        self._watch.start()
        self.delivery.start()
        try:
            while self._live or not (self._interrupts.asked or self._conversation.done()):
                moved = self._collect()
                if not self._interrupts.asked:
                    moved = (self._place_waiting() and self._propose()) or moved
                    if not (moved or self._live):
                        break  # No result can come any more that the search would propose something after.
                if not moved:
                    time.sleep(POLL_SECONDS)
        except BaseException:
            self._stop_all()
            feed = self._experiment.sweep_feed
            if feed is not None and self.delivery.serves(feed):
                self.delivery.finish(feed, "failed")
            self.delivery.close(lambda: True)
            self._let_go()
            raise
        self._stop_all()

    def close(self) -> list[TrialResult]:
        """Wait for the tracker and let go of all folders; how the trials ended, in the order in which they did."""
        self.delivery.close(lambda: self._interrupts.hurried)
        self._let_go()
        return [with_tracker(result) for result in self._results]

    def _let_go(self) -> None:
        for _, held in self._ended:
            held.close()

    @property
    def done(self) -> bool:
        """Whether all that is to be run has ended."""
        return self._conversation.done() and all(result.status != "interrupted" for result in self._results)

    @property
    def failed(self) -> bool:
        """Whether a trial has failed."""
        return any(result.status == "failed" for result in self._results)

    def _propose(self) -> bool:
        """Begin what the search asks for, until it asks for nothing or there is no room; whether anything moved."""
        moved = False
        while not self._interrupts.asked:
            trial = self._conversation.ask()
            if trial is None:
                return moved
            moved = True
            self._begin(trial)
            if not self._place_waiting():
                break
        return moved

    def _begin(self, trial: Trial) -> None:
        """Lock a trial's folder; report it if it has ended before, else make it ready to be placed."""
        run, held = self._experiment.run_directory(trial), ExitStack()
        try:
            held.enter_context(run.locked())
        except StepError as error:
            self._add(result_of(trial, run, Outcome("failed", error), "failed", None))
            self._tell(trial, "failed", {}, {})
            return
        status = self._status_before(run)
        if status is None and self._experiment.take_pruned(trial, run):
            status = "pruned"
        if status is not None:
            self._report(trial, run, held, status)
            return
        resumed = self._experiment.begin(trial, run)
        feed = self._experiment.feed(trial, run)
        self._deliver(feed)
        executor = self._ready_executor()
        live = self._live[trial.name] = LiveTrial(trial, run, feed, held, resumed)
        try:
            # What all trials lack was said with the first; this one may lack something of its own.
            trial.plan.spec.generator_options.refuse_unmet()
            executor.refuse_unplaceable(trial.plan.spec.compute)
        except RunnerError as error:
            self._end(live, Outcome("failed", error))

    def _status_before(self, run: RunDirectory) -> Status | None:
        """How a trial ended before this launch; None where it is to be run."""
        if self._experiment.afresh:
            return None
        if run.finished("score"):
            return "finished"
        was_pruned = self._experiment.prunes and run.read_record().get("status") == "pruned"
        return "pruned" if was_pruned else None

    def _report(self, trial: Trial, run: RunDirectory, held: ExitStack, status: Status) -> None:
        """Report a trial that has ended, delivering to the tracker what an earlier launch could not."""
        last: dict[str, float] = {}
        for event in EventTail(run.events).read():
            self._conversation.hear(trial, event, last)
        if run.read_record().get("status") != status:
            run.update_record(status=status)  # A kill came between the last step and its note.
        objective = self._conversation.value(status, last)
        feed = self._experiment.feed(trial, run)
        if not feed.lacks(status):
            held.close()
        else:
            self._deliver(feed)
            self.delivery.finish(feed, status, shown_value(objective))
            self._ended.append((feed, held))
        metrics = run.read_metrics() if status == "finished" else {}
        self._add(TrialResult(trial, status, metrics, run.path, None, "", reused=True, objective=objective))
        self._tell(trial, status, metrics, last)

    def _deliver(self, feed: RunSync) -> None:
        """Let a trial be delivered, and from the first one on the sweep; a tracker that refuses it is raised."""
        for each in (self._experiment.sweep_feed, feed):
            if each is not None:
                self.delivery.follow(each)
        self.delivery.await_answer(lambda: self._interrupts.asked)

    def _ready_executor(self) -> Executor:
        """Get what runs trials, when the first one is begun; whatever keeps all of them from running is raised."""
        if self._executor is None:
            self._experiment.plan.spec.generator_options.refuse_unmet()
            self._executor = self._make_executor()
            self._executor.refuse_unplaceable(self._experiment.plan.spec.compute)
        return self._executor

    def _place_waiting(self) -> bool:
        """Place the trial that waits, if one does; whether none waits any more."""
        live = next((each for each in self._live.values() if each.running is None), None)
        if live is None:
            return True
        executor, compute = self._ready_executor(), live.trial.plan.spec.compute
        try:
            with self._interrupts.raising():
                live.running = executor.start(plan_json(live.trial.plan), live.run.path, compute)
        except Exception as error:  # what a cluster's library raises fails a trial, and not the sweep
            unplaced = StepError(f"the trial could not be placed: {type(error).__name__}: {error}")
            told = error if isinstance(error, RunnerError) else unplaced
            self._end(live, Outcome("failed", told, traceback.format_exc()))
            return True
        except KeyboardInterrupt:
            self._end(live, Outcome("interrupted"))
            return False
        if live.running is None:
            if time.monotonic() - live.asked_why > WAIT_SECONDS:
                self._listener.trial_waits(live.trial, executor.waits_for(compute))
                live.asked_why = time.monotonic()
            return False
        self._experiment.note(live.trial, "running", None)
        self._listener.trial_started(live.trial, live.run.path, resumed=live.resumed)
        self._watch.add(live.trial.name, live.run.events)
        return True

    def _collect(self) -> bool:
        """Take leave of the trials that have ended; whether there were any."""
        if self._interrupts.hurried:
            self._end_at_once()
            return True
        ended = False
        for live in list(self._live.values()):
            if (outcome := self._outcome(live)) is not None:
                self._end(live, outcome)
                ended = True
        for feed, held in [each for each in self._ended if not self.delivery.serves(each[0])]:
            held.close()
            self._ended.remove((feed, held))
        return ended

    def _outcome(self, live: LiveTrial) -> Outcome | None:
        if live.running is None:
            return Outcome("interrupted") if self._interrupts.asked else None
        try:
            with self._interrupts.raising():
                return live.running.outcome()
        except KeyboardInterrupt:
            return Outcome("interrupted")

    def _end(self, live: LiveTrial, outcome: Outcome) -> None:
        trial, run = live.trial, live.run
        self._watch.leave(trial.name)
        del self._live[trial.name]
        status: Status = "pruned" if live.pruned and outcome.status == "interrupted" else outcome.status
        run.update_record(status=status)
        if status == "pruned":
            self._experiment.keep_pruned(trial, run)
        objective = self._conversation.value(status, live.last)
        self.delivery.finish(live.feed, status, shown_value(objective))
        self._ended.append((live.feed, live.held))
        if isinstance(outcome.error, SpecError):
            outcome = replace(outcome, error=self._experiment.loaded.located(outcome.error))
        result = result_of(trial, run, outcome, status, objective)
        self._add(result)
        self._tell(trial, status, result.metrics, live.last)

    def _tell(
        self, trial: Trial, status: Status, metrics: dict[str, float | None], validation: dict[str, float]
    ) -> None:
        summary = self._conversation.tell(trial, status, metrics, validation)
        self._experiment.note(trial, status, self._conversation.value(status, validation))
        self._listener.searched(summary)

    def _add(self, result: TrialResult) -> None:
        self._results.append(result)
        self._listener.trial_ended(result)

    def _seen(self, name: str, event: Event, new: bool) -> None:
        """Hear an event of a trial that runs, in the watch's thread."""
        live = self._live.get(name)
        stopped = live is not None and self._conversation.hear(live.trial, event, live.last)
        # A training that another trial has made is whole: nothing is saved by stopping it.
        if live is not None and stopped and not live.pruned and "reused_from" not in event:
            live.pruned = True
            live.run.stop_request.touch()
        if new:
            self._listener.event(name, event)

    def _look(self) -> None:
        """Pass Ctrl-C on to the trials, in the watch's thread: one of this process keeps the loop from doing it."""
        if not self._interrupts.asked:
            return
        if not self._told_to_stop:
            self._told_to_stop = True
            self._listener.stopping()
        for live in list(self._live.values()):
            live.run.stop_request.touch()

    def _end_at_once(self) -> None:
        for live in list(self._live.values()):
            if live.running is not None:
                live.running.end()
            self._end(live, Outcome("interrupted"))

    def _stop_all(self) -> None:
        """Leave nothing running, also where the loop itself failed."""
        self._end_at_once()
        self._watch.end()
        if self._executor is not None:
            self._executor.close()
