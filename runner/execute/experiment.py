"""What the trials of a launch share: spec, storage, tracker, sweep folder and pruned trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.fingerprint import fingerprint
from runner.plan import Plan, Trial, implement
from runner.provenance import Provenance
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import LoadedSpec
from runner.spec.sweep_section import SweepOptions
from runner.stages import Tracker
from runner.status.sweep_folder import SweepFolder
from runner.tracking.run_sync import RunSync
from runner.tracking.tracked_run import store_of, tracked_sweep, tracked_trial
from runner.trial.cache import Cache
from runner.trial.cache_entry import CacheEntry, DamagedError
from runner.trial.cache_keys import training_key
from runner.trial.context import TrialContext
from runner.trial.events import EventLog
from runner.trial.reuse import RECORD_FILE, empty_folder, replay_record, training_record
from runner.trial.run_directory import RunDirectory

BUDGETS = {"budget", "parallel"}
"""Fields of a sweep that do not change what is compared with what."""


@dataclass(frozen=True)
class PrunedTrials:
    """Where trials were stopped, by what they train and the sweep that compared them.

    Attributes:
        cache: Of the storage; they are small, and stay there.
        sweep: Whether a trial is worth going on with is a question of the others: in another sweep it is asked anew.
    """

    cache: Cache
    sweep: SweepOptions

    def _entry(self, trial: Trial) -> CacheEntry:
        compared = self.sweep.model_dump(mode="json", exclude=BUDGETS)
        key = fingerprint({"training": training_key(trial.plan.spec), "sweep": compared, "order": [*self.sweep.space]})
        return self.cache.entry("pruned", key)

    def keep(self, trial: Trial, run: RunDirectory) -> None:
        """Keep what a trial told before it was pruned; what cannot be kept is found out anew."""
        entry = self._entry(trial)
        with suppress(OSError):
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            entry.publish({RECORD_FILE: training_record(_context(trial, run))}, run.name)

    def knows(self, trial: Trial) -> bool:
        """Whether one with the same training was pruned."""
        return self._entry(trial).described() is not None

    def take(self, trial: Trial, run: RunDirectory) -> bool:
        """Let a trial, whose run directory was begun, be pruned as the other one was; whether that could be read."""
        entry, folder, context = self._entry(trial), empty_folder(run), _context(trial, run)
        try:
            described = entry.take(folder)
            if described is None:
                return False
            told = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        except (DamagedError, OSError):
            entry.remove()
            return False
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        maker = str(described["made_by"])
        message = f"pruned as {maker} was, whose training is the same ({entry.name})"
        context.log.append("cache", step="train", state="reused", trial=maker, message=message)
        replay_record(context, told, maker)
        context.log.state("train", "reused")
        run.record_step("train", "interrupted", datetime.now(UTC), cache=f"{entry.kind}/{entry.key}", reused_from=maker)
        run.update_record(status="pruned")
        return True


def _context(trial: Trial, run: RunDirectory) -> TrialContext:
    return TrialContext(trial.plan.spec, run, EventLog(run.events))


class Experiment:
    """The trials of one plan, as a launch finds and leaves them.

    Attributes:
        loaded: The spec as read, for the places of late errors.
        plan: What runs; of a sweep, what its trials are made from.
        afresh: Run finished trials again, from nothing.
        sweep: The folder of the sweep; None where nothing is swept.
        sweep_feed: The tracker's feed of the sweep.
        objective: The metric that the search goes by.
        prunes: A trial that was pruned stays so.
    """

    def __init__(
        self,
        loaded: LoadedSpec[ExperimentSpec],
        plan: Plan,
        storage: Path,
        overrides: Sequence[str],
        *,
        afresh: bool,
    ) -> None:
        """Take the plan, the folder of all runs, and the `--set` assignments for the record.

        Raises:
            UnmetError: The spec's cache cannot be reached with what is installed here.
        """
        self.loaded, self.plan, self.afresh = loaded, plan, afresh
        self._storage, self._overrides = storage, overrides
        self.sweep: SweepFolder | None = None
        self.sweep_feed: RunSync | None = None
        self.objective: str | None = None
        self.prunes = False
        self._cache = Cache.of(plan.spec.compute.cache, storage)
        self._pruned: PrunedTrials | None = None

    @property
    def folder(self) -> Path:
        """Where its trials lie."""
        return self._storage / self.plan.spec.name

    def run_directory(self, trial: Trial) -> RunDirectory:
        """A trial's folder."""
        return RunDirectory(self.folder / trial.name)

    def begin_sweep(self, sweep: SweepFolder, objective: Mapping[str, Any] | None, *, prunes: bool) -> None:
        """Let the trials be those of a sweep, whose folder is held."""
        sweep.begin(self.loaded.file.read_text(encoding="utf-8"), objective)
        self.sweep, self.prunes = sweep, prunes
        if prunes and not self.afresh and self.plan.spec.sweep is not None:
            self._pruned = PrunedTrials(self._cache, self.plan.spec.sweep)
        self.objective = str(objective["metric"]) if objective else None
        run = tracked_sweep(self.plan.spec, self.plan.dataset, sweep.path)
        self.sweep_feed = RunSync(self._tracker, run, store=store_of(self.plan.spec))

    def begin(self, trial: Trial, run: RunDirectory) -> bool:
        """Make a trial's folder ready; whether it goes on from an earlier launch."""
        if self.afresh:
            run.clear()
        resumed = bool(run.read_record())
        text = self.loaded.file.read_text(encoding="utf-8")
        run.begin(trial.plan, text, self._overrides, self._made_by)
        run.update_record(status="running")
        return resumed

    @cached_property
    def _made_by(self) -> Provenance:
        return Provenance.of(self.loaded.file.resolve().parent)

    def keep_pruned(self, trial: Trial, run: RunDirectory) -> None:
        """Keep how far a trial came that was pruned, so that one with the same training need not come as far."""
        if self._pruned is not None:
            self._pruned.keep(trial, run)

    def take_pruned(self, trial: Trial, run: RunDirectory) -> bool:
        """End a trial as one with the same training was pruned in this sweep, if any was; whether it was."""
        if self._pruned is None or not self._pruned.knows(trial):
            return False
        self.begin(trial, run)
        return self._pruned.take(trial, run)

    def feed(self, trial: Trial, run: RunDirectory) -> RunSync:
        """Make the tracker's feed of a trial, under that of its sweep."""
        tags = {}
        if self.sweep is not None:
            arm = {"arm": trial.arm} if trial.arm else {}
            tags = {"group": trial.group, **arm, "trial": str(self.sweep.number(trial))}
        tracked = tracked_trial(trial.plan.spec, trial.plan.dataset, run, tags)
        return RunSync(self._tracker, tracked, self.sweep_feed, store_of(self.plan.spec))

    def note(self, trial: Trial, status: str, objective: float | None) -> None:
        """Write a trial's state and value into the folder of the sweep."""
        if self.sweep is not None:
            self.sweep.note(trial, status, objective)

    def _tracker(self) -> Tracker:
        return implement(self.plan.spec.tracker, self._storage)  # type: ignore[no-any-return]
