"""What a sweep must keep beyond its fields: what goes together, what would be ignored, and what may decide."""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import Problem, SpecError
from runner.spec.check import check
from runner.spec.layers import parts
from runner.spec.measures import VALIDATION, unknown_figure, validation_figures
from runner.spec.models import ExperimentSpec
from runner.spec.sweep import SweepOptions
from runner.spec.variants import ARMS, SPACE, Variants

UNTRIED = {"name", "tracker", "pinned", "sweep", "extends"}
"""What every trial of a sweep has in common."""


def rule_problems(swept: Variants, spec: ExperimentSpec | None) -> Iterator[Problem]:
    """Yield what is wrong with a sweep whose fields are each right.

    Args:
        swept: The sweep in its spec.
        spec: The spec, if it is right by itself.
    """
    sweep = swept.sweep
    if not (sweep.space or sweep.arms or sweep.seeds):
        yield Problem("varies nothing; give it a `space`, `arms` or `seeds`", ("sweep",))
    if spec is not None and spec.pinned is not None:
        yield Problem("does not go with `pinned`, which is of one trial; remove one of the two", ("sweep",))
    yield from _path_problems(sweep)
    yield from _search_problems(sweep)
    yield from _ignored(sweep)
    if spec is not None and sweep.objective is not None:
        yield from _objective_problems(swept)


def _path_problems(sweep: SweepOptions) -> Iterator[Problem]:
    """Yield paths that no sweep varies, and those that would overwrite one another."""
    for name in sweep.space:
        head = str(parts(name)[0])
        if head in {*UNTRIED, "compute"}:
            yield Problem(f"`{head}` changes no figure, so that there is nothing to search", (*SPACE, name))
        if name == "seed" and sweep.seeds:
            yield Problem("is repeated by `seeds` already; keep one of the two", (*SPACE, name))
        yield from _overwritten(name, list(sweep.space), (*SPACE, name))
    for arm, values in sweep.arms.items():
        for name in values:
            where = (*ARMS, arm, name)
            if parts(name)[0] in UNTRIED:
                yield Problem(f"`{parts(name)[0]}` is the same for all trials of a sweep", where)
            if name == "seed" and sweep.seeds:
                yield Problem("would be overwritten by `seeds`; keep one of the two", where)
            above = [path for path in sweep.space if _inside(name, path)]
            if above:
                yield Problem(f"would be overwritten by the space, which varies {above[0]}", where)
            yield from _overwritten(name, list(values), where)


def _inside(name: str, above: str) -> bool:
    return parts(name)[: len(parts(above))] == parts(above)


def _overwritten(name: str, names: list[str], where: tuple[str | int, ...]) -> Iterator[Problem]:
    earlier = [each for each in names[: names.index(name)] if _inside(each, name)]
    if earlier:
        yield Problem(f"comes after {earlier[0]}, which it would overwrite; write it before that", where)


def _search_problems(sweep: SweepOptions) -> Iterator[Problem]:
    search, grid = sweep.search.type, sweep.search.type == "grid"
    endless = [name for name, dimension in sweep.space.items() if dimension.values() is None]
    for name, dimension in sweep.space.items():
        if grid and name in endless:
            message = f"{dimension.kind} has no end of values, and the search is a grid; name the values, as in "
            yield Problem(message + "{grid: [1.0e-5, 1.0e-4]}, or say search: {type: random}", (*SPACE, name))
        if not grid and dimension.kind == "grid":
            message = f"all values of a `grid` are tried by search: {{type: grid}} alone; for {search} say `choice`"
            yield Problem(message, (*SPACE, name, "grid"))
    budget = sweep.budget
    if not grid and sweep.space and not (budget.trials or budget.hours or budget.gpu_hours):
        yield Problem("a search needs an end: budget: {trials: 20}, or hours, or gpu_hours", ("sweep", "search"))
    if search not in {"grid", "random"} and sweep.objective is None:
        wanted = "objective: {metric: validation/loss, mode: min}"
        yield Problem(f"{search} goes by results; say which: {wanted}", ("sweep", "search", "type"))
    if budget.trials is not None and budget.trials < len(sweep.seeds or (0,)):
        message = f"no point fits in {budget.trials}: each is {len(sweep.seeds or ())} trials, one a seed"
        yield Problem(message, ("sweep", "budget", "trials"))


def _ignored(sweep: SweepOptions) -> Iterator[Problem]:
    """Yield what a sweep without a space would ignore, and pruning that has nothing to go by."""
    given = {
        # Not whether it is written down: a plan has every default written out.
        "search": sweep.search != SweepOptions.model_fields["search"].default,
        "pruning": sweep.pruning is not None,
        "first": bool(sweep.first),
        "budget.trials": sweep.budget.trials is not None,
    }
    for name in (name for name, is_given in given.items() if is_given and not sweep.space):
        yield Problem("would be ignored, as there is no `space` to search", ("sweep", *name.split(".")))
    if sweep.pruning is not None and sweep.objective is None:
        wanted = "objective: {metric: validation/loss, mode: min}"
        yield Problem(f"goes by the objective while trials train; say which: {wanted}", ("sweep", "pruning"))


def _objective_problems(swept: Variants) -> Iterator[Problem]:
    """Yield why an objective cannot decide, in the spec or in one of its arms."""
    assert swept.sweep.objective is not None
    objective = swept.sweep.objective
    for arm in swept.arms:
        try:
            spec = check(swept.base(arm), ExperimentSpec)
        except SpecError:
            continue  # The values of the arm are told apart.
        message = unknown_figure(spec, objective.metric)
        if message and not validation_figures(spec) and objective.metric.startswith(VALIDATION):
            share = "; set trainer.validation, the share of the training samples to keep aside, such as 0.05"
            message = f"nothing is measured while training{share if spec.trainer else ''}"
        if message:
            yield Problem(message + (f" (in the arm {arm!r})" if arm else ""), ("sweep", "objective", "metric"))
            return
