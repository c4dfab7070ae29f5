"""The Optuna study of one arm, stored in a journal that survives a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from runner.errors import Problem, SpecError
from runner.fingerprint_and_provenance import fingerprint
from runner.spec.check import check_spec, with_location
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.variants import SPACE_PATH, OutsideSpaceError
from runner.sweep.sampling import draw_point, make_distribution, make_pruner
from runner.trial.cache_entry import training_key
from runner.trial_factory import SweepPoint, TrialFactory, point_key

JOURNAL = "journal.log"
"""The file name of the journal in the folder of a sweep."""


def open_study_storage(folder: Path) -> JournalStorage:
    """Open the journal of a sweep.

    This process must hold the lock of the folder. Therefore a journal lock is stale and is removed, and a last line
    that a kill truncated is cut off.
    """
    file = folder / JOURNAL
    file.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if file.exists():
        complete, _, truncated = file.read_bytes().rpartition(b"\n")
        if truncated:
            with file.open("r+b") as opened:
                opened.truncate(len(complete) + 1 if complete else 0)
    return JournalStorage(JournalFileBackend(str(file)))


def studies_by_arm(storage: JournalStorage) -> dict[str | None, list[str]]:
    """List the names of each arm's studies, the latest last."""
    names: dict[str | None, list[str]] = {}
    for study in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if "arm" in study.user_attrs:
            names.setdefault(study.user_attrs["arm"], []).append(study.study_name)
    return names


MAX_DRAWS = 100
"""The space counts as exhausted after this many draws in a row that were tried before or are invalid."""
PRUNED_AT = "pruned_at"
"""The attribute of a study's trial that holds the step at which its point was pruned. It makes the decision final, even
if the driver is killed before the trial ends."""


class ArmStudy:
    """The Optuna study of one arm; each point of the sweep is one trial of the study.

    A study's trial stays `running` until its point has ended with a value, so that a resumed search finds the points
    that it still has to run.

    Attributes:
        name: The arm; None where there are no arms.
        points: The proposed points, in order.
        is_new: The study was created by this process.
        is_exhausted: No untried point is left.
        dropped: Messages about points of an earlier spec that do not fit any more.
        refused: Messages about drawn points that are invalid.
    """

    def __init__(self, factory: TrialFactory, name: str | None, storage: JournalStorage) -> None:
        """Open the arm's study, or create it with the points of an earlier spec's study that still fit.

        Raises:
            SpecError: Predetermined points combine values that are not valid together; the error lists all of them.
        """
        self.name = name
        self.is_exhausted = False
        self.dropped: list[str] = []
        self.refused: list[str] = []
        self._factory, self._storage = factory, storage
        self._predetermined = factory.predetermined_points(name)
        factory.check_points(name, self._predetermined)
        earlier = studies_by_arm(storage).get(name, [])
        self._study = self._open()
        self.points = [
            factory.point(name, trial.number, trial.params) for trial in self._study.get_trials(deepcopy=False)
        ]
        self.is_new = not self._study.user_attrs.get("taken_over")
        if self.is_new:
            for study_name in [study_name for study_name in earlier if study_name != self._study.study_name][-1:]:
                self._take_over(optuna.load_study(study_name=study_name, storage=storage))
            self._study.set_user_attr("taken_over", True)

    def _open(self) -> optuna.Study:
        """Open or create the study of exactly this base spec, space, objective and seeds."""
        sweep = self._factory.variants.sweep
        objective = sweep.objective
        base = self._factory.resolver.resolve(
            self._factory.adjust(check_spec(self._factory.variants.base_tree(self.name), ExperimentSpec))
        )
        compared = sweep.model_dump(mode="json", include={"space", "seeds", "objective"})
        key = fingerprint({"base": base.fingerprint, "sweep": compared, "order": list(sweep.space)})
        study = optuna.create_study(
            storage=self._storage,
            study_name=f"{self.name or 'all'}-{key[:8]}",
            direction="maximize" if objective and objective.mode == "max" else "minimize",
            sampler=optuna.samplers.RandomSampler(),  # unused: `draw_point` samples outside the journal
            pruner=make_pruner(sweep.pruning),
            load_if_exists=True,
        )
        study.set_user_attr("arm", self.name)
        return study

    def _take_over(self, earlier: optuna.Study) -> None:
        """Add the points of an earlier spec's study again, in order; their finished trials are only reported."""
        for trial in earlier.get_trials(deepcopy=False):
            try:
                parameters = self._factory.variants.parse_point(self.name, trial.params)
                if point_key(parameters) in self._point_keys():
                    continue
                point = self._factory.point(self.name, len(self.points), parameters)
            except (OutsideSpaceError, SpecError) as error:
                self._drop(trial, str(error))
                continue
            training_keys = {training_key(point_trial.plan.spec) for point_trial in point.trials}
            if training_keys.isdisjoint(trial.user_attrs["training"]):
                self._drop(trial, "the inputs of its training have changed")
                continue
            is_same = trial.user_attrs["trials"] == [point_trial.name for point_trial in point.trials]
            is_comparable = is_same and earlier.directions == self._study.directions
            self._add(point, trial.intermediate_values if is_comparable else {})

    def _drop(self, trial: FrozenTrial, reason: str) -> None:
        values = _join_values(trial.params)
        self.dropped.append(f"dropped {trial.user_attrs['group']}{f' ({values})' if values else ''}: {reason}")

    def _point_keys(self) -> set[frozenset[tuple[str, Any]]]:
        return {point_key(point.parameters) for point in self.points}

    def propose_point(self) -> SweepPoint | None:
        """Add the next point to the study; return None if no untried point is left.

        Raises:
            SpecError: No point that was drawn is valid, and the arm has no other point.
        """
        tried = self._point_keys()
        for parameters in self._predetermined:
            if point_key(parameters) not in tried:
                return self._add(self._factory.point(self.name, len(self.points), parameters))
        if self._factory.variants.sweep.search.type == "grid":
            self.is_exhausted = True
            return None
        return self._draw(tried)

    def _draw(self, tried: set[frozenset[tuple[str, Any]]]) -> SweepPoint | None:
        num_refused = 0
        for attempt in range(MAX_DRAWS):
            drawn = draw_point(self._factory.variants, self.name, self._study, attempt)
            if point_key(drawn.params) in tried:
                continue
            try:
                point = self._factory.point(self.name, len(self.points), drawn.params)
            except SpecError as error:
                problems = "; ".join(problem.message for problem in error.problems)
                self.refused.append(f"skipped {_join_values(drawn.params)}: {problems}")
                num_refused += 1
                continue
            return self._add(point, system_attrs=drawn.system_attrs)
        if not self.points:
            raise self._no_valid_point()
        if num_refused:
            self.refused.append(
                f"the search ends after {len(self.points)} point(s): of the {MAX_DRAWS} points that it drew next, "
                f"{num_refused} are invalid, and the others were tried before"
            )
        self.is_exhausted = True
        return None

    def _no_valid_point(self) -> SpecError:
        arm = f" of the arm {self.name!r}" if self.name else ""
        message = (
            f"no trial can run, because each of {MAX_DRAWS} points{arm} that the search drew is invalid; change the "
            f"values of the space so that they can be combined. The last point: {self.refused[-1]}"
        )
        return SpecError([with_location(Problem(message, SPACE_PATH), self._factory.variants.tree)])

    def _add(
        self,
        point: SweepPoint,
        intermediate_values: Mapping[int, float] = MappingProxyType({}),
        system_attrs: Mapping[str, Any] = MappingProxyType({}),
    ) -> SweepPoint:
        """Write a point into the journal, as one line."""
        space = self._factory.variants.sweep.space
        user_attrs = {
            "group": point.group,
            "trials": [trial.name for trial in point.trials],
            "training": [training_key(trial.plan.spec) for trial in point.trials],
        }
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(point.parameters),
                distributions={name: make_distribution(space[name]) for name in point.parameters},
                user_attrs=user_attrs,
                system_attrs=dict(system_attrs),
                intermediate_values=dict(intermediate_values),
            )
        )
        self.points.append(point)
        return point

    def report(self, point: SweepPoint, step: int, value: float) -> bool:
        """Record the objective while a point's first trial trains; return True if the point must be pruned.

        Steps that were recorded before, which a resumed trial reports again, change nothing.
        """
        recorded = self._study.get_trials(deepcopy=False)[point.number]
        if recorded.state.is_finished() or PRUNED_AT in recorded.user_attrs:
            return recorded.state != TrialState.COMPLETE
        trial = optuna.Trial(self._study, recorded._trial_id)
        if step > max(recorded.intermediate_values, default=-1) and math.isfinite(value):
            trial.report(value, step)
        must_prune = trial.should_prune()
        if must_prune:
            trial.set_user_attr(PRUNED_AT, step)
        return must_prune

    def tell(self, point: SweepPoint, value: float | None, *, is_pruned: bool = False) -> None:
        """Record how a point ended: pruned, with a value, or without a finite value, because a training diverged."""
        if self._study.get_trials(deepcopy=False)[point.number].state.is_finished():
            return
        if is_pruned:
            self._study.tell(point.number, state=TrialState.PRUNED)
        elif value is not None and math.isfinite(value):
            self._study.tell(point.number, value)
        else:
            self._study.tell(point.number, state=TrialState.FAIL)

    def __iter__(self) -> Iterator[SweepPoint]:
        """Iterate over the points, in order."""
        return iter(self.points)

    @property
    def seconds(self) -> float:
        """The seconds that earlier launches searched; the search uses only the value of its first arm."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._study.set_user_attr("seconds", seconds)


def _join_values(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in parameters.items())
