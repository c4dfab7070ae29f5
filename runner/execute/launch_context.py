"""The context that the trials of a launch share: spec, storage, tracker, sweep folder and records of pruned trials."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import DataError
from runner.execute.results_and_interfaces import Start
from runner.files import parse_size, read_json_object
from runner.fingerprint_and_provenance import Provenance, fingerprint
from runner.resolved_plan import NOT_FINGERPRINTED, Plan, Trial, create_plugin, describe_changes
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import LoadedSpec
from runner.spec.sweep_section import SweepOptions
from runner.stages import Tracker
from runner.sweep.claim_registry import register_claims
from runner.tracking.run_description import tracked_sweep, tracked_trial, tracker_identity
from runner.tracking.uploader import RunSync
from runner.trial.cache_and_mirror import Cache
from runner.trial.cache_contents import least_recently_used, list_items, prune, sum_sizes
from runner.trial.cache_entry import CacheEntry, DamagedEntryError, InvalidEntryError, training_key
from runner.trial.restore_from_cache import (
    RECORD_FILE,
    make_staging_folder,
    read_training_record,
    replay_training_record,
    training_record,
)
from runner.trial.run_directory_and_events import EventLog, RunDirectory
from runner.trial.trial_components import TrialContext

if TYPE_CHECKING:
    from runner.sweep.sweep_folder import SweepFolder


BUDGETS = {"budget", "parallel"}
"""Fields of a sweep that do not change which trials it compares."""


@dataclass(frozen=True)
class PrunedTrials:
    """Cached records of pruned trials, by their training and by the sweep that pruned them.

    Attributes:
        cache: The storage's cache; the records are small, and are not mirrored elsewhere.
        sweep: The sweep's options. They are part of the key, since another sweep compares a trial with other trials
            and may not prune it.
    """

    cache: Cache
    sweep: SweepOptions

    def _entry(self, trial: Trial) -> CacheEntry:
        options = self.sweep.model_dump(mode="json", exclude=BUDGETS)
        key = fingerprint({"training": training_key(trial.plan.spec), "sweep": options, "order": [*self.sweep.space]})
        return self.cache.entry("pruned", key)

    def store(self, trial: Trial, run: RunDirectory) -> None:
        """Store the training record of a pruned trial; one that cannot be written is not stored."""
        entry = self._entry(trial)
        with suppress(OSError):
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            entry.publish({RECORD_FILE: training_record(_context(trial, run))}, run.name, run.id)
            run.record_cache_use(f"{entry.kind}/{entry.key}")

    def has_record(self, trial: Trial) -> bool:
        """Whether a trial with the same training was pruned."""
        try:
            return self._entry(trial).read_description() is not None
        except (DamagedEntryError, InvalidEntryError, OSError):
            return True  # `restore` says what is wrong with the entry

    def restore(self, trial: Trial, run: RunDirectory) -> bool:
        """Mark a trial, whose run directory exists, as pruned, with the record of the trial with the same training.

        Returns:
            Whether that record could be read.
        """
        entry, folder, context = self._entry(trial), make_staging_folder(run), _context(trial, run)
        try:
            description = entry.link_into(folder)
            if description is None:
                return False
            record = read_training_record(folder)
        except (DamagedEntryError, InvalidEntryError, OSError) as error:
            message = f"the cache entry cannot be used: {error}; the trial runs"
            context.log.append("cache", step="train", state="trouble", message=message)
            if isinstance(error, DamagedEntryError):
                entry.remove()
            return False
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        producer = str(description["made_by"])
        message = f"pruned like {producer}, which has the same training ({entry.name})"
        context.log.append("cache", step="train", state="reused", trial=producer, message=message)
        replay_training_record(context, record, producer)
        context.log.state("train", "reused")
        run.record_step(
            "train", "interrupted", datetime.now(UTC), cache=f"{entry.kind}/{entry.key}", reused_from=producer
        )
        run.update_record(status="pruned")
        return True


def _compared_options(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plan.items() if name not in NOT_FINGERPRINTED}


def _context(trial: Trial, run: RunDirectory) -> TrialContext:
    return TrialContext(trial.plan.spec, run, EventLog(run.events))


class LaunchContext:
    """The trials of one plan, with their folders and their tracker.

    Attributes:
        loaded: The spec as it was read, which maps late errors to their lines.
        plan: The plan of the only trial, or the base plan of a sweep.
        from_scratch: Whether finished trials run again, from nothing.
        rerun: The first step that runs again in every trial, without the cache; None if no step does.
        sweep: The folder of the sweep; None without a sweep.
        sweep_sync: Uploads the sweep's run to the tracker; None without a sweep.
        objective: The name of the metric that the search optimizes.
        has_pruning: Whether the sweep prunes; then a pruned trial is not run again.
    """

    def __init__(
        self,
        loaded: LoadedSpec[ExperimentSpec],
        plan: Plan,
        storage: Path,
        overrides: Sequence[str],
        *,
        from_scratch: bool,
        rerun: str | None = None,
    ) -> None:
        """Initialize the experiment; `storage` is the folder of all runs, `overrides` the `--set` assignments.

        Raises:
            RequirementError: The spec's cache needs a package that is not installed here.
        """
        self.loaded, self.plan, self.from_scratch, self.rerun = loaded, plan, from_scratch, rerun
        self._storage, self._overrides = storage, overrides
        self.sweep: SweepFolder | None = None
        self.sweep_sync: RunSync | None = None
        self.objective: str | None = None
        self.has_pruning = False
        self._cache = Cache.open(plan.spec.compute.cache, storage)
        self._pruned: PrunedTrials | None = None

    @property
    def keeps_trainings(self) -> bool:
        """Whether trainings of earlier launches count, also those that were pruned."""
        return not self.from_scratch and self.rerun != "train"

    @property
    def folder(self) -> Path:
        """The folder of its trials."""
        return self._storage / self.plan.spec.name

    def run_directory(self, trial: Trial) -> RunDirectory:
        """The run directory of a trial."""
        return RunDirectory(self.folder / trial.name)

    def begin_sweep(self, sweep: SweepFolder, objective: Mapping[str, Any] | None, *, has_pruning: bool) -> None:
        """Make this the experiment of a sweep, and register its claims.

        Args:
            sweep: The sweep's folder, which is locked.
            objective: The `metric` and `mode` that the search optimizes, if any.
            has_pruning: Whether the sweep prunes.

        Raises:
            DataError: The registry of the sweep's claims is damaged.
        """
        sweep.begin(self.loaded.file.read_text(encoding="utf-8"), objective)
        self.sweep, self.has_pruning = sweep, has_pruning
        if has_pruning and self.keeps_trainings and self.plan.spec.sweep is not None:
            self._pruned = PrunedTrials(self._cache, self.plan.spec.sweep)
        self.objective = str(objective["metric"]) if objective else None
        register_claims(self.plan.spec, sweep.path)
        run = tracked_sweep(self.plan.spec, self.plan.dataset, sweep.path)
        self.sweep_sync = RunSync(self._tracker, run, store=tracker_identity(self.plan.spec.tracker))

    def prepare(self, trial: Trial, run: RunDirectory) -> Start:
        """Prepare a trial's folder, and return how the trial starts."""
        if self.from_scratch:
            run.clear()
        elif self.rerun is not None:
            run.forget_steps(self.rerun)
        start: Start = "running"
        if run.read_record():
            start = "resuming" if run.has_saved_work() else "restarting"
        text = self.loaded.file.read_text(encoding="utf-8")
        run.create(trial.plan, text, self._overrides, self._provenance)
        run.update_record(status="running")
        return start

    @cached_property
    def _provenance(self) -> Provenance:
        return Provenance.collect(self.loaded.file.resolve().parent)

    @cached_property
    def _earlier_plans(self) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
        """Trial, options and pins of the plans in the folder before this launch, the newest first, read once."""
        plans: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
        files = sorted(self.folder.glob("trial-*/plan.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files:
            with suppress(DataError):  # A damaged plan explains nothing; `runner status` names it.
                plan = read_json_object(file, "")
                if "pinned" in plan:
                    plans.append((file.parent.name, _compared_options(plan), plan["pinned"]))
        return plans

    def explain_new_trial(self, trial: Trial) -> str | None:
        """Say why no earlier trial of the same options is reused: what has changed since; None if there is none."""
        options = _compared_options(trial.plan.spec.as_json())
        for name, earlier_options, pinned in self._earlier_plans:
            if name != trial.name and earlier_options == options:
                changes = describe_changes(pinned, trial.plan.pins)
                return (
                    f"{trial.name} has the options of {name}, but does not continue or repeat it: "
                    f"{'; '.join(changes)}. Results that this change cannot affect are reused from the cache"
                )
        return None

    def store_pruned(self, trial: Trial, run: RunDirectory) -> None:
        """Store the training record of a pruned trial, so that no other trial repeats this training."""
        if self._pruned is not None:
            self._pruned.store(trial, run)

    def reuse_pruned(self, trial: Trial, run: RunDirectory) -> bool:
        """Mark a trial as pruned if this sweep has pruned one with the same training; return whether it has."""
        if self._pruned is None or not self._pruned.has_record(trial):
            return False
        self.prepare(trial, run)
        return self._pruned.restore(trial, run)

    def limit_cache(self, running: Collection[str]) -> str | None:
        """Delete the least recently used items of the cache if the cache exceeds the spec's limit.

        Args:
            running: The running trials, as `experiment/trial`. What they use is kept.

        Returns:
            A message about what was deleted, or why nothing could be; None if the cache is within the limit.
        """
        limit = self.plan.spec.compute.cache_limit
        if limit is None or self.from_scratch:
            return None
        cache, unreadable = Cache(self._cache.root), list[str]()
        try:
            items = list_items(cache, self._storage, unreadable.append)
            candidates = [item for item in items if set(item.used_by or ()).isdisjoint(running)]
            chosen = least_recently_used(items, candidates, parse_size(limit))
            prune(cache, chosen)
        except OSError as error:
            return f"compute.cache_limit: the cache cannot be limited to {limit}: {error}"
        if not chosen:
            return None
        freed = sum_sizes(chosen)["freed"] / 1e9
        return (
            f"compute.cache_limit: the cache exceeded {limit}, so the {len(chosen)} least recently used item(s) were "
            f"deleted ({freed:.3g} GB){''.join(f'; {problem}' for problem in unreadable)}"
        )

    def make_sync(self, trial: Trial, run: RunDirectory) -> RunSync:
        """Create the sync that uploads a trial to the tracker, under the run of its sweep."""
        tags = {}
        if self.sweep is not None:
            arm = {"arm": trial.arm} if trial.arm else {}
            tags = {"group": trial.group, **arm, "trial": str(self.sweep.number(trial))}
        tracked = tracked_trial(trial.plan.spec, trial.plan.dataset, run, tags)
        return RunSync(self._tracker, tracked, self.sweep_sync, tracker_identity(self.plan.spec.tracker))

    def record_trial(self, trial: Trial, status: str, objective: float | None) -> None:
        """Write a trial's status and objective value into the sweep's folder, if there is a sweep."""
        if self.sweep is not None:
            self.sweep.record_trial(trial, status, objective)

    def _tracker(self) -> Tracker:
        return create_plugin(self.plan.spec.tracker, self._storage)  # type: ignore[no-any-return]
