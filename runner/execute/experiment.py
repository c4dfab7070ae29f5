"""What the trials of a launch have in common: the spec, the storage, the tracker, the folder of their sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.artifacts import RunDirectory
from runner.cache.cache import Cache
from runner.execute.delivery import TrackerFeed
from runner.execute.pruned import PrunedTrials
from runner.execute.sweep_folder import SweepFolder
from runner.plan import Plan, Trial, flatten, implement
from runner.spec.load import LoadedSpec
from runner.spec.models import ExperimentSpec
from runner.stages import TrackedRun, Tracker


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
        self.sweep_feed: TrackerFeed | None = None
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
        run = TrackedRun(
            experiment=self.plan.spec.name,
            trial=f"sweep-{self.plan.fingerprint[:8]}",
            fingerprint=f"sweep-{self.plan.fingerprint}",
            run_dir=sweep.path,
            parameters=_parameters(self.plan),
            dataset=self.plan.dataset,
            spec_file=sweep.path / "spec.yaml",
        )
        self.sweep_feed = TrackerFeed(self._tracker, run)

    def begin(self, trial: Trial, run: RunDirectory) -> bool:
        """Make a trial's folder ready; whether it goes on from an earlier launch."""
        if self.afresh:
            run.clear()
        resumed = bool(run.read_record())
        run.begin(trial.plan, self.loaded.file.read_text(encoding="utf-8"), self._overrides)
        run.update_record(status="running")
        return resumed

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

    def feed(self, trial: Trial, run: RunDirectory) -> TrackerFeed:
        """Make the tracker's feed of a trial.

        The first one opens the store, as a tracker that cannot be opened stops a launch; one that is away later does
        not.

        Raises:
            UnmetError: The store cannot be opened.
        """
        parent, tags = None, {}
        if self.sweep is not None and self.sweep_feed is not None:
            self.sweep_feed.open()
            parent = self.sweep_feed.run_id
            tags = {"group": trial.group, "seed": str(trial.seed), "trial": str(self.sweep.number(trial))}
        tracked = TrackedRun(
            experiment=self.plan.spec.name,
            trial=trial.name,
            fingerprint=trial.plan.fingerprint,
            run_dir=run.path,
            parameters=_parameters(trial.plan),
            dataset=trial.plan.dataset,
            spec_file=run.spec,
            parent=parent,
            tags=tags,
        )
        feed = TrackerFeed(self._tracker, tracked)
        if parent is None:
            feed.open()
        return feed

    def note(self, trial: Trial, status: str, objective: float | None) -> None:
        """Write a trial's state and value into the folder of the sweep."""
        if self.sweep is not None:
            self.sweep.note(trial, status, objective)

    def _tracker(self) -> Tracker:
        return implement(self.plan.spec.tracker, self._storage)  # type: ignore[no-any-return]


def _parameters(plan: Plan) -> dict[str, Any]:
    # The tracker's own section says nothing of the run, and its URI may hold a password.
    return dict(flatten({name: value for name, value in plan.spec.as_json().items() if name != "tracker"}))
