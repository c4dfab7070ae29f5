"""Trials that were pruned, for those that differ in nothing but what comes after the training, such as metrics."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from runner.artifacts import RunDirectory
from runner.cache.cache import Cache
from runner.cache.entry import DamagedError, Entry
from runner.events import EventLog
from runner.fingerprint import fingerprint
from runner.plan import Trial
from runner.spec.sweep import SweepOptions
from runner.steps.context import TrialContext
from runner.steps.kept import TOLD, empty_folder, pass_on, told_in_training
from runner.steps.keys import training_key

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

    def _entry(self, trial: Trial) -> Entry:
        compared = self.sweep.model_dump(mode="json", exclude=BUDGETS)
        key = fingerprint({"training": training_key(trial.plan.spec), "sweep": compared, "order": [*self.sweep.space]})
        return self.cache.entry("pruned", key)

    def keep(self, trial: Trial, run: RunDirectory) -> None:
        """Keep what a trial told before it was pruned; what cannot be kept is found out anew."""
        entry = self._entry(trial)
        with suppress(OSError):
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            entry.publish({TOLD: told_in_training(_context(trial, run))}, run.name)

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
            told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
        except (DamagedError, OSError):
            entry.remove()
            return False
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        maker = str(described["made_by"])
        message = f"pruned as {maker} was, whose training is the same ({entry.name})"
        context.log.append("cache", step="train", state="reused", trial=maker, message=message)
        pass_on(context, told, maker)
        context.log.state("train", "reused")
        run.record_step("train", "interrupted", datetime.now(UTC), cache=f"{entry.kind}/{entry.key}", reused_from=maker)
        run.update_record(status="pruned")
        return True


def _context(trial: Trial, run: RunDirectory) -> TrialContext:
    return TrialContext(trial.plan.spec, run, EventLog(run.events))
