"""The Optuna study of one arm, stored in a journal that survives a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from runner.errors import SpecError
from runner.fingerprint import fingerprint
from runner.spec.check import check
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.sweep_section import Drawn
from runner.spec.variants import OutsideSpaceError
from runner.sweep.sampling import distributions, draw, pruner
from runner.trial.cache_keys import training_key
from runner.trial_factory import SweepPoint, TrialFactory, frozen

JOURNAL = "journal.log"
"""The journal's name in the folder of a sweep."""


def open_journal(folder: Path) -> JournalStorage:
    """Open the journal of a sweep whose folder is held by this process.

    A last line that a kill tore is cut off, and so is a lock that it left: nobody else can be at work here.
    """
    file = folder / JOURNAL
    file.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if file.exists():
        whole, _, torn = file.read_bytes().rpartition(b"\n")
        if torn:
            with file.open("r+b") as opened:
                opened.truncate(len(whole) + 1 if whole else 0)
    return JournalStorage(JournalFileBackend(str(file)))


def studies_by_arm(storage: JournalStorage) -> dict[str | None, list[str]]:
    """Name the studies of each arm, the latest last."""
    found: dict[str | None, list[str]] = {}
    for study in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if "arm" in study.user_attrs:
            found.setdefault(study.user_attrs["arm"], []).append(study.study_name)
    return found


ATTEMPTS = 100
"""So many draws in a row that were tried before, or do not go together: the space is taken to be exhausted."""
PRUNED_AT = "pruned_at"
"""Where a study notes the step after which a point was to be stopped: a driver that is killed between the decision and
the trial's end decides no second time."""


class ArmStudy:
    """Asks and tells the study of one arm; a point is one of the study's trials.

    A study's trial stays `running` until its point has come to an end with a value, so that a search that goes on
    finds there what it has to run.
    """

    def __init__(self, composer: TrialFactory, name: str | None, storage: JournalStorage) -> None:
        """Open the arm's study, or begin it with what fits of the study that an earlier spec left.

        Raises:
            SpecError: Points that are known beforehand have values that do not go together; all of them.
        """
        self.name = name
        self.exhausted = False
        self.dropped: list[str] = []
        self.refused: list[str] = []
        self._composer, self._storage = composer, storage
        self._known = composer.known(name)
        composer.refuse(name, self._known)
        earlier = studies_by_arm(storage).get(name, [])
        self._study = self._open()
        self.points = [self._restored(trial) for trial in self._study.get_trials(deepcopy=False)]
        self.is_new = not self._study.user_attrs.get("taken_over")
        if self.is_new:
            for left in [each for each in earlier if each != self._study.study_name][-1:]:
                self._take_over(optuna.load_study(study_name=left, storage=storage))
            self._study.set_user_attr("taken_over", True)

    def _open(self) -> optuna.Study:
        """Open the study of this very base, space, objective and seeds."""
        sweep = self._composer.swept.sweep
        objective = sweep.objective
        base = self._composer.survey.resolve(
            self._composer.adjust(check(self._composer.swept.base(self.name), ExperimentSpec))
        )
        told = sweep.model_dump(mode="json", include={"space", "seeds", "objective"})
        key = fingerprint({"base": base.fingerprint, "sweep": told, "order": list(sweep.space)})
        study = optuna.create_study(
            storage=self._storage,
            study_name=f"{self.name or 'all'}-{key[:8]}",
            direction="maximize" if objective and objective.mode == "max" else "minimize",
            sampler=optuna.samplers.RandomSampler(),  # points are drawn apart from the journal: `draw`
            pruner=pruner(sweep.pruning),
            load_if_exists=True,
        )
        study.set_user_attr("arm", self.name)
        return study

    def _restored(self, trial: FrozenTrial) -> SweepPoint:
        return self._composer.point(self.name, trial.number, trial.params)

    def _take_over(self, left: optuna.Study) -> None:
        """Go through the points of an earlier spec again, in order: their trials that are finished are reported."""
        for trial in left.get_trials(deepcopy=False):
            try:
                parameters = self._composer.swept.place(self.name, trial.params)
                if frozen(parameters) in self._seen():
                    continue
                point = self._composer.point(self.name, len(self.points), parameters)
            except (OutsideSpaceError, SpecError) as error:
                self._drop(trial, str(error))
                continue
            trained = {training_key(each.plan.spec) for each in point.trials}
            if trained.isdisjoint(trial.user_attrs["training"]):
                self._drop(trial, "what it was trained with has changed")
                continue
            same = trial.user_attrs["trials"] == [each.name for each in point.trials]
            self._add(point, trial if same and left.directions == self._study.directions else None)

    def _drop(self, trial: FrozenTrial, reason: str) -> None:
        told = ", ".join(f"{name} = {value}" for name, value in trial.params.items())
        self.dropped.append(f"dropped {trial.user_attrs['group']}{f' ({told})' if told else ''}: {reason}")

    def _seen(self) -> set[frozenset[tuple[str, Any]]]:
        return {frozen(point.parameters) for point in self.points}

    def propose(self) -> SweepPoint | None:
        """Make the next point; None where there is none left that was not tried."""
        seen = self._seen()
        for parameters in self._known:
            if frozen(parameters) not in seen:
                point = self._composer.point(self.name, len(self.points), parameters)
                return self._add(point, None)
        if self._composer.swept.sweep.search.type == "grid":
            self.exhausted = True
            return None
        return self._draw(seen)

    def _draw(self, seen: set[frozenset[tuple[str, Any]]]) -> SweepPoint | None:
        for attempt in range(ATTEMPTS):
            drawn = draw(self._composer.swept, self.name, self._study, attempt)
            if frozen(drawn.params) in seen:
                continue
            try:
                point = self._composer.point(self.name, len(self.points), drawn.params)
            except SpecError as error:
                self._refuse(drawn.params, error)
                continue
            return self._add(point, None, drawn.system_attrs)
        self.exhausted = True
        return None

    def _refuse(self, parameters: Mapping[str, Drawn], error: SpecError) -> None:
        told = ", ".join(f"{name} = {value}" for name, value in parameters.items())
        self.refused.append(f"left out {told}: {'; '.join(each.message for each in error.problems)}")

    def _add(self, point: SweepPoint, like: FrozenTrial | None, noted: Mapping[str, Any] | None = None) -> SweepPoint:
        """Write a point into the journal, in one line."""
        attributes = {
            "group": point.group,
            "trials": [trial.name for trial in point.trials],
            "training": [training_key(trial.plan.spec) for trial in point.trials],
        }
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(point.parameters),
                distributions=distributions(self._composer.swept, list(point.parameters)),
                user_attrs=attributes,
                system_attrs=dict(noted or {}),
                intermediate_values=like.intermediate_values if like else {},
            )
        )
        self.points.append(point)
        return point

    def report(self, point: SweepPoint, step: int, value: float) -> bool:
        """Note the objective while a point's first trial trains; whether the point is to be pruned.

        Steps that were noted before, as a resumed trial tells them again, change nothing.
        """
        noted = self._study.get_trials(deepcopy=False)[point.number]
        if noted.state.is_finished() or PRUNED_AT in noted.user_attrs:
            return noted.state != TrialState.COMPLETE
        trial = optuna.Trial(self._study, noted._trial_id)
        if step > max(noted.intermediate_values, default=-1) and math.isfinite(value):
            trial.report(value, step)
        stopped = trial.should_prune()
        if stopped:
            trial.set_user_attr(PRUNED_AT, step)
        return stopped

    def end(self, point: SweepPoint, value: float | None, *, pruned: bool = False) -> None:
        """Note how a point ended: pruned, with a value, or finished without one that is a number."""
        noted = self._study.get_trials(deepcopy=False)[point.number]
        if noted.state.is_finished():
            return
        if pruned:
            self._study.tell(point.number, state=TrialState.PRUNED)
        elif value is not None and math.isfinite(value):
            self._study.tell(point.number, value)
        else:
            self._study.tell(point.number, state=TrialState.FAIL)

    def __iter__(self) -> Iterator[SweepPoint]:
        """Its points, in order."""
        return iter(self.points)

    @property
    def seconds(self) -> float:
        """How long earlier launches searched; kept with each arm's study, of which the first one's counts."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._study.set_user_attr("seconds", seconds)
