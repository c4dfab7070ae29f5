"""Validates a sweep: every value it may set is checked against the fields' schemas, then the rules between fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from runner.errors import Problem, SpecError, SpecPath, dotted
from runner.spec.check import check, in_order, located, spec_with_defaults
from runner.spec.experiment_spec import VALIDATION, ExperimentSpec, Specification, unknown_figure, validation_figures
from runner.spec.layers import parts
from runner.spec.sweep_section import Drawn, SweepOptions, label
from runner.spec.tree import Tree
from runner.spec.variants import ARMS, SPACE, OutsideSpaceError, Variants, look_up, value_at


def value_problems(swept: Variants, known: Sequence[Problem]) -> Iterator[Problem]:
    """Yield what the spec's own fields refuse of a sweep's values.

    Args:
        swept: The sweep in its spec.
        known: What is wrong without the sweep, which is not told again.
    """
    told: set[tuple[SpecPath, str]] = {(problem.path, problem.message) for problem in known}
    for problem in (*_arm_problems(swept), *_space_problems(swept)):
        # Each bound and each choice finds, say, an unknown key anew.
        if (problem.path, problem.message) not in told:
            told.add((problem.path, problem.message))
            yield problem


def _arm_problems(swept: Variants) -> Iterator[Problem]:
    plain = swept.base()
    for arm, values in swept.sweep.arms.items():
        unknown = [(name, problem) for name in values for problem in _unknown(plain, name, (*ARMS, arm, name))]
        yield from (problem for _, problem in unknown)
        if not unknown:
            yield from _refused(swept, lambda arm=arm: swept.base(arm))


def _space_problems(swept: Variants) -> Iterator[Problem]:
    for name, dimension in swept.sweep.space.items():
        if dimension.when:
            yield from _never(swept, name)
        drawn: Sequence[Drawn] = list(dimension.labelled) or dimension.bounds
        for tree in _settings(swept, name):
            unknown = list(_unknown(tree, name, (*SPACE, name)))
            yield from unknown
            for each in drawn if not unknown else ():
                before = set(_problems(tree))
                laid = _laid(swept, tree, name, each)
                yield from (problem for problem in laid if problem not in before)


def _laid(swept: Variants, tree: Tree, name: str, drawn: Drawn) -> list[Problem]:
    try:
        return _problems(swept.lay(tree, name, drawn))
    except SpecError as error:
        return list(error.problems)


def _refused(swept: Variants, make: Any) -> Iterator[Problem]:
    before = set(_problems(swept.base()))
    try:
        yield from (problem for problem in _problems(make()) if problem not in before)
    except SpecError as error:
        yield from error.problems


def _problems(tree: Tree) -> list[Problem]:
    try:
        check(tree, ExperimentSpec)
    except SpecError as error:
        return list(error.problems)
    return []


def _unknown(tree: Tree, name: str, where: SpecPath) -> Iterator[Problem]:
    """Yield a path that leads nowhere; its last part may be new, and is then the schema's to judge."""
    known = spec_with_defaults(tree, ExperimentSpec)
    path = parts(name)
    found, above = look_up(known, path[:-1])
    if found and (above is None or isinstance(above, dict | list)):
        return
    if any(look_up(known, path[:depth]) == (True, None) for depth in range(1, len(path))):
        return
    near = get_close_matches(name, _paths(known), n=1, cutoff=0.6)
    yield Problem("the spec has no such path" + (f"; did you mean {near[0]!r}?" if near else ""), where)


def _paths(value: Any, above: SpecPath = ()) -> list[str]:
    """Every path of plain values."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    here = [dotted(above)] if above else []
    return here + [path for key, each in inside for path in _paths(each, (*above, key))]


def _settings(swept: Variants, name: str) -> list[Tree]:
    """Make the trees that a path is tried in: each in which its condition holds, by arm and by section around it."""
    trees = [swept.base(arm) for arm in (None, *swept.sweep.arms) if arm is None or _touches(swept, arm, name)]
    if swept.sweep.arms and len(trees) > 1:
        trees = trees[1:]
    found = []
    for tree in trees:
        held = _holding(swept, tree, name)
        around = [each for each in _before(swept, name) if parts(name)[: len(parts(each))] == parts(each)]
        for each in around:
            for choice in swept.sweep.space[each].labelled:
                laid = swept.lay(tree, each, choice)
                found += [laid] if swept.active(laid, name) else []
        found += [held] if held is not None and (not around or not found) else []
    return found


def _touches(swept: Variants, arm: str, name: str) -> bool:
    return any(parts(each)[0] == parts(name)[0] for each in swept.sweep.arms[arm])


def _before(swept: Variants, name: str) -> list[str]:
    names = list(swept.sweep.space)
    return names[: names.index(name)]


def _holding(swept: Variants, tree: Tree, name: str) -> Tree | None:
    """Choose values of earlier paths until a path's condition holds; None where it never does."""
    for path, wanted in (swept.sweep.space[name].when or {}).items():
        if value_at(tree, path) != wanted:
            made = _made_so(swept, tree, name, path, wanted)
            if made is None:
                return None
            tree = made
    return tree


def _made_so(swept: Variants, tree: Tree, name: str, path: str, wanted: Any) -> Tree | None:
    for each in _before(swept, name):
        if parts(path)[: len(parts(each))] != parts(each):
            continue
        held = _holding(swept, tree, each)
        dimension = swept.sweep.space[each]
        drawn = dimension.drawn(wanted) if each == path else None
        for choice in [drawn] if drawn is not None else dimension.labelled:
            laid = None if held is None else swept.lay(held, each, choice)
            if laid is not None and value_at(laid, path) == wanted:
                return laid
    return None


def _never(swept: Variants, name: str) -> Iterator[Problem]:
    """Yield the condition that no trial meets."""
    bases = [swept.base(arm) for arm in swept.arms]
    if any(_holding(swept, tree, name) is not None for tree in bases):
        return
    for path, wanted in (swept.sweep.space[name].when or {}).items():
        if all(value_at(tree, path) != wanted and _made_so(swept, tree, name, path, wanted) is None for tree in bases):
            where = (*SPACE, name, "when", path)
            unknown = [problem for tree in bases[:1] for problem in _unknown(tree, path, where)]
            yield from unknown
            if not unknown:
                stands = label(value_at(bases[0], path))
                message = f"never holds: {path} is {stands}, and nothing before this path makes it {label(wanted)}"
                yield Problem(message, where)


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
        "enqueue": bool(sweep.enqueue),
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
            share = "; set trainer.validation_ratio, the share of the training samples to keep aside, such as 0.05"
            message = f"nothing is measured while training{share if spec.trainer else ''}"
        if message:
            yield Problem(message + (f" (in the arm {arm!r})" if arm else ""), ("sweep", "objective", "metric"))
            return


S = TypeVar("S", bound=Specification)


def check_swept(tree: Tree, kind: type[S]) -> S:
    """Check a tree, and what its sweep, if it has one, would make of it.

    Raises:
        SpecError: With every problem found, in the order of the file.
    """
    try:
        spec, problems = check(tree, kind), list[Problem]()
    except SpecError as error:
        spec, problems = None, list(error.problems)
    if kind is ExperimentSpec and isinstance(tree.value.get("sweep"), dict):
        found = _swept_problems(tree, cast("ExperimentSpec | None", spec), problems)
        problems += [problem for problem in dict.fromkeys(found) if problem not in problems]
    if problems or spec is None:
        raise SpecError(in_order(problems))
    return spec


def _swept_problems(tree: Tree, spec: ExperimentSpec | None, known: list[Problem]) -> Iterator[Problem]:
    written = tree.value["sweep"]
    try:
        swept = Variants(tree, SweepOptions.model_validate(written))
    except ValidationError as error:
        # What its fields refuse has been told with the spec; the values of the others are tried all the same.
        right = _without(written, [details["loc"] for details in error.errors(include_url=False)])
        swept = Variants(tree, SweepOptions.model_validate(right))
        found = value_problems(swept, known)
    else:
        found = _spec_problems(swept, spec, known)
    yield from (located(problem, tree) for problem in found)


def _without(written: dict[str, Any], refused: list[tuple[int | str, ...]]) -> dict[str, Any]:
    """Leave out what is refused: a path of the space or an arm alone, anything else whole."""
    left = {key: dict(value) if isinstance(value, dict) else value for key, value in written.items()}
    for head, *rest in refused:
        if head in {"space", "arms"} and rest and isinstance(left.get(str(head)), dict):
            left[str(head)].pop(rest[0], None)
        else:
            left.pop(str(head), None)
    return left


def _spec_problems(swept: Variants, spec: ExperimentSpec | None, known: list[Problem]) -> Iterator[Problem]:
    yield from rule_problems(swept, spec)
    wrong = list(value_problems(swept, known))
    yield from wrong
    # Points are composed of the values, which must be right for that.
    if spec is not None and not wrong:
        yield from _first_problems(swept)


def _first_problems(swept: Variants) -> Iterator[Problem]:
    for number, written in enumerate(swept.sweep.enqueue):
        for arm in swept.arms:
            try:
                swept.place(arm, written)
            except OutsideSpaceError as error:
                where: SpecPath = ("sweep", "enqueue", number)
                yield Problem(f"{error}", (*where, error.name) if error.name in written else where)
                break
