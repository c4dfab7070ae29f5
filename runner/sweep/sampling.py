"""Draws points with Optuna's samplers, determined only by the seed, the point's number and the earlier results."""

from __future__ import annotations

import hashlib
import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

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
    copy.add_trials(earlier_trials)
    trial = copy.ask()

    def choose(_: Tree, name: str) -> ParamValue:
        return _suggest(trial, name, variants.sweep.space[name])

    variants.choose_values(arm, choose)
    return copy.get_trials(deepcopy=False)[-1]


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
