"""Draws points with Optuna's samplers, determined only by the seed, the point's number and the earlier results."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from runner.spec.sweep_section import (
    Dimension,
    GaussianSearch,
    GeneticSearch,
    HalvingPruning,
    HyperbandPruning,
    MedianPruning,
    ParamValue,
    Pruning,
    RandomSearch,
    Search,
    TpeSearch,
)
from runner.spec.variants import SweepVariants
from runner.spec.yaml_layers import Tree

optuna.logging.set_verbosity(optuna.logging.ERROR)
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def make_distribution(dimension: Dimension) -> BaseDistribution:
    """Convert a dimension to Optuna's distribution; values that are not numbers are represented by their labels."""
    if dimension.labelled_values:
        return CategoricalDistribution(list(dimension.labelled_values))
    low, high = dimension.bounds
    log = dimension.kind in {"loguniform", "logint"}
    if dimension.kind in {"int", "logint"}:
        return IntDistribution(round(low), round(high), log=log)
    return FloatDistribution(low, high, log=log, step=dimension.step)


def draw_point(variants: SweepVariants, arm: str | None, study: optuna.Study, attempt: int) -> FrozenTrial:
    """Draw the next point of an arm.

    The sampler works on a copy of the study in memory. Its random numbers depend only on the search's seed, the
    point's number and the attempt, so that a killed process draws the same point again.

    Args:
        variants: The spec's tree with the space and the search.
        arm: The arm; None where there are no arms.
        study: The study of the arm, which holds the earlier points.
        attempt: The number of draws for this point that could not be used. After the first draw, points are drawn
            uniformly at random.

    Returns:
        A trial with parameters, distributions and the sampler's own attributes.
    """
    earlier_trials = study.get_trials(deepcopy=False)
    configured = variants.sweep.search
    search = configured if attempt == 0 else RandomSearch(type="random", seed=_seed_of(configured))
    is_conditional = any(dimension.when for dimension in variants.sweep.space.values())
    seed = _derive_seed(_seed_of(search), len(earlier_trials), attempt)
    copy = optuna.create_study(
        study_name=study.study_name,
        directions=study.directions,
        sampler=make_sampler(search, seed, is_conditional=is_conditional),
        pruner=study.pruner,
    )
    copy.add_trials(TrialAdapter(variants, study).trials())
    trial = copy.ask()

    def choose(_: Tree, name: str) -> ParamValue:
        return _suggest(trial, name, variants.sweep.space[name])

    variants.choose_values(arm, choose)
    return copy.get_trials(deepcopy=False)[-1]


class TrialAdapter:
    """Rewrites the trials of a study so that a sampler of Optuna learns from all of them.

    A point whose training diverged is a failed trial, which every sampler ignores: the search would draw points near it
    again and again. The Gaussian process and NSGA-II also ignore pruned trials, and the Gaussian process draws a path
    that not every trial has at random for ever. `bench/search.py` measures the effects; docs/sweeps.md lists them.
    """

    def __init__(self, variants: SweepVariants, study: optuna.Study) -> None:
        """Take the space, the search and the study."""
        self._search = variants.sweep.search
        self._distributions = {name: make_distribution(each) for name, each in variants.sweep.space.items()}
        self._is_conditional = any(dimension.when for dimension in variants.sweep.space.values())
        self._study = study

    def trials(self) -> list[FrozenTrial]:
        """Return the trials of the study, in order, as the sampler of the search can use them."""
        trials = self._study.get_trials(deepcopy=False)
        if isinstance(self._search, TpeSearch):
            # Without a value, a pruned trial counts as the worst.
            return [_copy(each, state=PRUNED) if each.state == FAIL else each for each in trials]
        if isinstance(self._search, GaussianSearch | GeneticSearch):
            completed = self._complete(trials)
            # With filled trials, NSGA-II found worse points in `bench/search.py` than without.
            return [self.fill(each) for each in completed] if isinstance(self._search, GaussianSearch) else completed
        return trials

    def _complete(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Give each pruned trial its last value, and each failed one the worst value so far."""
        values = {each.number: _last_value(each) for each in trials if each.state in {COMPLETE, PRUNED}}
        known = [value for value in values.values() if value is not None]
        worst = (max if self._study.direction == StudyDirection.MINIMIZE else min)(known, default=0.0)
        return [
            _copy(each, state=COMPLETE, value=worst if (value := values.get(each.number)) is None else value)
            if each.state in {FAIL, PRUNED}
            else each
            for each in trials
        ]

    def fill(self, trial: FrozenTrial) -> FrozenTrial:
        """Give the paths that a trial does not have random values, always the same ones for the same trial."""
        missing = {name: each for name, each in self._distributions.items() if name not in trial.params}
        if not (self._is_conditional and missing):
            return trial
        sampler = optuna.samplers.RandomSampler(_derive_seed(_seed_of(self._search), trial.number, 0))
        values = {name: sampler.sample_independent(self._study, trial, name, each) for name, each in missing.items()}
        return _copy(trial, params={**trial.params, **values}, distributions={**trial.distributions, **missing})


def _last_value(trial: FrozenTrial) -> float | None:
    """The value of a trial, or the last one that it reported; None if it reported none."""
    steps = trial.intermediate_values
    return trial.value if trial.state == COMPLETE or not steps else steps[max(steps)]


def _copy(trial: FrozenTrial, **changes: Any) -> FrozenTrial:
    """Copy a trial with some of its attributes changed, without its intermediate values."""
    names = ("state", "value", "params", "distributions", "user_attrs", "system_attrs")
    return create_trial(**{**{name: getattr(trial, name) for name in names}, **changes})


def _suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> ParamValue:
    if dimension.labelled_values:
        return str(trial.suggest_categorical(name, list(dimension.labelled_values)))
    low, high = dimension.bounds
    log = dimension.kind in {"loguniform", "logint"}
    if dimension.kind in {"int", "logint"}:
        return trial.suggest_int(name, round(low), round(high), log=log)
    return trial.suggest_float(name, low, high, log=log, step=dimension.step)


def _seed_of(search: Search) -> int:
    return getattr(search, "seed", 0)


def _derive_seed(*numbers: int) -> int:
    """Hash several numbers into one seed, so that consecutive numbers give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "big")


def make_sampler(search: Search, seed: int, *, is_conditional: bool = False) -> optuna.samplers.BaseSampler:
    """Create the sampler of a search. A grid needs none and gets the random sampler."""
    with warnings.catch_warnings():
        # The Optuna version is pinned, so warnings about its experimental parts do not concern the user.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if isinstance(search, TpeSearch):
            return optuna.samplers.TPESampler(n_startup_trials=search.n_startup_trials, seed=seed, group=is_conditional)
        if isinstance(search, GaussianSearch):
            return optuna.samplers.GPSampler(n_startup_trials=search.n_startup_trials, seed=seed)
        if isinstance(search, GeneticSearch):
            return optuna.samplers.NSGAIISampler(population_size=search.population_size, seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(pruning: Pruning | None) -> optuna.pruners.BasePruner:
    """Create the pruner of a sweep; without pruning, one that prunes nothing."""
    if isinstance(pruning, MedianPruning):
        return optuna.pruners.MedianPruner(
            n_startup_trials=pruning.n_startup_trials, n_warmup_steps=pruning.n_warmup_steps
        )
    if isinstance(pruning, HalvingPruning):
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=pruning.min_resource, reduction_factor=pruning.reduction_factor
        )
    if isinstance(pruning, HyperbandPruning):
        return optuna.pruners.HyperbandPruner(
            min_resource=pruning.min_resource,
            max_resource=pruning.max_resource,
            reduction_factor=pruning.reduction_factor,
        )
    return optuna.pruners.NopPruner()
