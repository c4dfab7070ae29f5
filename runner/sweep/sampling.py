"""Draws points with Optuna's samplers, each as a function of seed, number and results alone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from runner.spec.sweep_section import (
    Dimension,
    Drawn,
    GaussianSearch,
    GeneticSearch,
    HalvingPruning,
    HyperbandPruning,
    MedianPruning,
    Pruning,
    RandomSearch,
    Search,
    TpeSearch,
)
from runner.spec.tree import Tree
from runner.spec.variants import Variants

optuna.logging.set_verbosity(optuna.logging.ERROR)


def distribution(dimension: Dimension) -> BaseDistribution:
    """The dimension as Optuna knows it; values that are no numbers go by their labels."""
    if dimension.labelled:
        return CategoricalDistribution(list(dimension.labelled))
    low, high = dimension.bounds
    log = dimension.kind in {"loguniform", "logint"}
    if dimension.kind in {"int", "logint"}:
        return IntDistribution(round(low), round(high), log=log)
    return FloatDistribution(low, high, log=log, step=dimension.step)


def draw(swept: Variants, arm: str | None, earlier: optuna.Study, attempt: int) -> FrozenTrial:
    """Draw the next point of an arm.

    The sampler works on a copy of the study in memory, and its random numbers follow from the search's seed, the number
    of the point and the attempt. So a point that was being drawn when the process died is drawn again just the same.

    Args:
        swept: The space and the search.
        arm: The arm.
        earlier: Its study, in which the points before this one are.
        attempt: 0, or how often what was drawn could not be used: then it is drawn at random.

    Returns:
        A trial with parameters, distributions and what the sampler noted of it.
    """
    trials = earlier.get_trials(deepcopy=False)
    search = swept.sweep.search if attempt == 0 else RandomSearch(type="random", seed=_seed(swept.sweep.search))
    conditional = any(dimension.when for dimension in swept.sweep.space.values())
    copy = optuna.create_study(
        study_name=earlier.study_name,
        directions=earlier.directions,
        sampler=sampler(search, _mixed(_seed(search), len(trials), attempt), conditional=conditional),
        pruner=earlier.pruner,
    )
    copy.add_trials(trials)
    trial = copy.ask()

    def choose(_: Tree, name: str) -> Drawn:
        return _suggest(trial, name, swept.sweep.space[name])

    swept.walk(arm, choose)
    return copy.get_trials(deepcopy=False)[-1]


def _suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Drawn:
    if dimension.labelled:
        return str(trial.suggest_categorical(name, list(dimension.labelled)))
    low, high = dimension.bounds
    log = dimension.kind in {"loguniform", "logint"}
    if dimension.kind in {"int", "logint"}:
        return trial.suggest_int(name, round(low), round(high), log=log)
    return trial.suggest_float(name, low, high, log=log, step=dimension.step)


def _seed(search: Search) -> int:
    return getattr(search, "seed", 0)


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers; neighbours give seeds that have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "big")


def sampler(search: Search, seed: int, *, conditional: bool = False) -> optuna.samplers.BaseSampler:
    """Make the sampler of a search; a grid needs none and gets the random one."""
    with warnings.catch_warnings():
        # Which parts of Optuna are young is its own business; the versions that go together are pinned.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _sampler(search, seed, conditional=conditional)


def _sampler(search: Search, seed: int, *, conditional: bool) -> optuna.samplers.BaseSampler:
    if isinstance(search, TpeSearch):
        return optuna.samplers.TPESampler(n_startup_trials=search.n_startup_trials, seed=seed, group=conditional)
    if isinstance(search, GaussianSearch):
        return optuna.samplers.GPSampler(n_startup_trials=search.n_startup_trials, seed=seed)
    if isinstance(search, GeneticSearch):
        return optuna.samplers.NSGAIISampler(population_size=search.population_size, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(pruning: Pruning | None) -> optuna.pruners.BasePruner:
    """Make the pruner."""
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


def distributions(swept: Variants, names: Sequence[str]) -> dict[str, BaseDistribution]:
    """The dimensions of some paths as Optuna knows them."""
    return {name: distribution(swept.sweep.space[name]) for name in names}
