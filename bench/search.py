"""Measures what a search learns from trainings that diverge, from pruned trials, and from conditional paths.

    python bench/search.py {divergence,pruning,conditions} [--searches tpe gp nsga2] [--repetitions 20] [--points 30]

No model is trained: each point gets the value of a known function. `divergence` compares what a sampler can be told
about a point whose training diverged; `pruning` the same for a pruned point; `conditions` compares the settings of a
sampler for a space with `when`. In each, `runner` is what the runner does. Prints one JSON document per line.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from runner.spec.sweep_section import SweepOptions
from runner.spec.variants import SweepVariants
from runner.spec.yaml_layers import Mark, Tree
from runner.sweep.sampling import TrialAdapter, draw_point, make_distribution, make_sampler

Point = Mapping[str, Any]
STEPS = (1, 2, 4, 8)
"""The steps at which a simulated training reports its loss."""


@dataclass(frozen=True)
class Problem:
    """A known function over a space.

    Attributes:
        name: Its name.
        space: The space, as in a spec.
        loss: The value of a point; infinite where the training diverges.
    """

    name: str
    space: Mapping[str, Any]
    loss: Callable[[Point], float]


def _rates(edge: float, optimum: float) -> Callable[[Point], float]:
    """A loss over two learning rates that is lowest at `optimum` and diverges above `edge`, both as powers of ten."""

    def loss(point: Point) -> float:
        powers = [math.log10(point[name]) for name in ("vision", "language")]
        return math.inf if max(powers) > edge else sum((power - optimum) ** 2 for power in powers)

    return loss


RATE = {"loguniform": [1e-5, 1e-1]}
RATES = {"vision": RATE, "language": RATE}
DIVERGENCE = [
    Problem("optimum at the edge", RATES, _rates(-3.0, -3.05)),
    Problem("optimum inside", RATES, _rates(-3.0, -3.5)),
    Problem("optimum beyond the edge", RATES, _rates(-3.0, -2.5)),
]
"""In each, the training diverges for 3 of 4 points of the space."""

PRUNING = [Problem("convex", RATES, _rates(0.0, -3.0))]
"""Nothing diverges."""

UNIT = {"uniform": [0.0, 1.0]}
BRANCHES = {
    "common": UNIT,
    "branch": {"choice": ["a", "b"]},
    "a": {**UNIT, "when": {"branch": "a"}},
    "b": {**UNIT, "when": {"branch": "b"}},
}


def _separable(point: Point) -> float:
    inner = 2 * (point["a"] - 0.7) ** 2 if point["branch"] == "a" else 0.15 + 2 * (point["b"] - 0.2) ** 2
    return float((point["common"] - 0.6) ** 2 + inner)


def _correlated(point: Point) -> float:
    """The function of optuna/optuna issue 5299, with one better branch: the common value must equal the inner one."""
    common, branch = 4 * point["common"] - 2, point["branch"]
    return float((point["a"] + 1 - common) ** 2 if branch == "a" else 0.3 + (3 * point["b"] - 2 - common) ** 2)


def _valley(point: Point) -> float:
    branch, inner = point["branch"], point[point["branch"]]
    offset, target = (0.0, 0.7) if branch == "a" else (0.1, 0.3)
    return float(offset + 10 * (point["common"] + inner - 0.9) ** 2 + (inner - target) ** 2)


PAIRS = {
    "branch": {"choice": ["a", "b"]},
    "a1": {**UNIT, "when": {"branch": "a"}},
    "a2": {**UNIT, "when": {"branch": "a"}},
    "b1": {**UNIT, "when": {"branch": "b"}},
    "b2": {**UNIT, "when": {"branch": "b"}},
}


def _pair(point: Point) -> float:
    """A narrow valley over the two values of a branch."""
    branch = point["branch"]
    first, second = point[f"{branch}1"], point[f"{branch}2"]
    offset, target = (0.0, 0.7) if branch == "a" else (0.1, 0.3)
    return float(offset + 50 * (first + second - 1) ** 2 + (first - target) ** 2)


CONDITIONS = [
    Problem("valley in a branch", PAIRS, _pair),
    Problem("separable", BRANCHES, _separable),
    Problem("correlated", BRANCHES, _correlated),
    Problem("valley across branches", BRANCHES, _valley),
]

PROBLEMS = {"divergence": DIVERGENCE, "pruning": [*PRUNING, *DIVERGENCE], "conditions": CONDITIONS}
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "tpe": {"type": "tpe"},
    "gp": {"type": "gp"},
    "nsga2": {"type": "nsga2", "population_size": 10},
}
Draw = Callable[[SweepVariants, optuna.Study], FrozenTrial]
"""Draws the next point of a study: its values and the sampler's attributes."""
Sampler = Callable[[int], optuna.samplers.BaseSampler]


def draw_as_runner(variants: SweepVariants, study: optuna.Study) -> FrozenTrial:
    """Draw the next point as a launch does."""
    return draw_point(variants, None, study, 0)


def draw_with(
    sampler: Sampler, rewrite: Callable[[FrozenTrial, Sequence[FrozenTrial]], FrozenTrial], *, fill: bool = False
) -> Draw:
    """Draw with a sampler of Optuna, from trials that are rewritten one by one.

    Args:
        sampler: Creates the sampler from a seed.
        rewrite: Rewrites a trial, given all trials.
        fill: Whether the paths that a trial does not have get random values.
    """

    def draw(variants: SweepVariants, study: optuna.Study) -> FrozenTrial:
        trials = study.get_trials(deepcopy=False)
        search: Any = variants.sweep.search
        copy = optuna.create_study(sampler=sampler(1000 * search.seed + len(trials)))
        adapter = TrialAdapter(variants, study)
        rewritten = [rewrite(trial, trials) for trial in trials]
        copy.add_trials([adapter.fill(trial) if fill else trial for trial in rewritten])
        asked = copy.ask()

        def choose(_: Tree, name: str) -> Any:
            return asked._suggest(name, make_distribution(variants.sweep.space[name]))

        variants.choose_values(None, choose)
        return copy.get_trials(deepcopy=False)[-1]

    return draw


def _unchanged(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    return trial


def _as_pruned(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    return trial if trial.state != TrialState.FAIL else _with(trial, TrialState.PRUNED, None)


def _as_worst(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    values = [each.value for each in trials if each.value is not None]
    is_rewritten = trial.state in {TrialState.FAIL, TrialState.PRUNED}
    return _with(trial, TrialState.COMPLETE, max(values, default=0.0)) if is_rewritten else trial


def _as_last(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    if trial.state != TrialState.PRUNED:
        return trial
    return _with(trial, TrialState.COMPLETE, trial.intermediate_values[max(trial.intermediate_values)])


def _with(trial: FrozenTrial, state: TrialState, value: float | None) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=trial.system_attrs,
    )


def simulate(problem: Problem, search: Mapping[str, Any], draw: Draw, num_points: int, *, prune: bool) -> Point:
    """Run a search on a known function.

    Returns:
        `diverged` and `pruned`: the number of these points; `best`: the lowest loss.
    """
    sweep = {"space": {name: dict(each) for name, each in problem.space.items()}, "search": dict(search)}
    variants = SweepVariants(Tree({"sweep": sweep}, {(): Mark("bench")}), SweepOptions.model_validate(sweep))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(pruner=pruner if prune else optuna.pruners.NopPruner())
    for number in range(num_points):
        drawn = draw(variants, study)
        study.add_trial(_with(drawn, TrialState.RUNNING, None))
        _train(study, number, problem.loss(drawn.params), prune=prune)
    states = [trial.state for trial in study.trials]
    values = [trial.value for trial in study.trials if trial.value is not None]
    return {
        "diverged": states.count(TrialState.FAIL),
        "pruned": states.count(TrialState.PRUNED),
        "best": min(values, default=math.nan),
    }


def _train(study: optuna.Study, number: int, loss: float, *, prune: bool) -> None:
    """Tell a study how the training of its last point ends: diverged, pruned, or finished."""
    if not math.isfinite(loss):
        study.tell(number, state=TrialState.FAIL)
        return
    trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    for step in STEPS if prune else ():
        trial.report(loss + 4 / step, step)
        if trial.should_prune():
            study.tell(number, state=TrialState.PRUNED)
            return
    study.tell(number, loss)


def _sampler_of(search: Mapping[str, Any], *, is_conditional: bool = False) -> Sampler:
    options = SweepOptions.model_validate({"search": dict(search)}).search
    return lambda seed: make_sampler(options, seed, is_conditional=is_conditional)


def variants_of(measurement: str, name: str) -> dict[str, Draw]:
    """List what is compared in a measurement, by a name in words."""
    search = SEARCHES[name]
    sampler = _sampler_of(search)
    if measurement == "divergence":
        told = {"not told": _unchanged, "told as pruned": _as_pruned, "told as the worst so far": _as_worst}
    elif measurement == "pruning":
        told = {"Optuna's default": _unchanged, "told as the worst so far": _as_worst, "told the last value": _as_last}
    elif name == "tpe":
        tpe = optuna.samplers.TPESampler
        return {
            "independent": draw_with(lambda seed: tpe(seed=seed, multivariate=False), _unchanged),
            "multivariate": draw_with(lambda seed: tpe(seed=seed, multivariate=True), _unchanged),
            "multivariate, group": draw_with(lambda seed: tpe(seed=seed, multivariate=True, group=True), _unchanged),
            "multivariate, filled": draw_with(lambda seed: tpe(seed=seed, multivariate=True), _unchanged, fill=True),
            "runner": draw_as_runner,
        }
    else:
        return {"Optuna's default": draw_with(sampler, _unchanged), "runner": draw_as_runner}
    return {**{words: draw_with(sampler, rewrite) for words, rewrite in told.items()}, "runner": draw_as_runner}


def measure(
    measurement: str, functions: Sequence[str] | None, names: Sequence[str], num_searches: int, num_points: int
) -> Iterator[dict[str, Any]]:
    """Yield means over searches with different seeds, for each function, search and variant."""
    for problem in PROBLEMS[measurement]:
        if functions and problem.name not in functions:
            continue
        always = {path: {key: each[key] for key in each if key != "when"} for path, each in problem.space.items()}
        for name in names:
            cases = {words: (problem, draw) for words, draw in variants_of(measurement, name).items()}
            if measurement == "conditions":
                cases["runner, the same function without `when`"] = (replace(problem, space=always), draw_as_runner)
            for words, (simulated, draw) in cases.items():
                runs = [{**SEARCHES[name], "seed": seed} for seed in range(num_searches)]
                is_pruned = measurement == "pruning"
                searches = [simulate(simulated, run, draw, num_points, prune=is_pruned) for run in runs]
                best = [search["best"] for search in searches if math.isfinite(search["best"])]
                powers = [math.log10(value) for value in best]
                yield {
                    "function": problem.name,
                    "search": name,
                    "variant": words,
                    "diverged": fmean(search["diverged"] for search in searches),
                    "pruned": fmean(search["pruned"] for search in searches),
                    "best": {"mean": fmean(best), "median": median(best), "geometric_mean": 10 ** fmean(powers)}
                    if best
                    else None,
                }


def main() -> None:
    """Run a measurement and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=["divergence", "pruning", "conditions"])
    parser.add_argument("--functions", nargs="+", help="names of functions; default: all of the measurement")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--repetitions", type=int, default=20, help="number of searches, each with another seed")
    parser.add_argument("--points", type=int, default=30, help="number of points of each search")
    options = parser.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    for row in measure(options.measurement, options.functions, options.searches, options.repetitions, options.points):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
