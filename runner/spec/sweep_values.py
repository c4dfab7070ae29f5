"""Tries every value that a sweep may set on the spec: both bounds, every choice, every arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from runner.errors import Problem, SpecError, SpecPath, dotted
from runner.spec.check import check, outline
from runner.spec.dimension import Drawn, label
from runner.spec.layers import parts
from runner.spec.models import ExperimentSpec
from runner.spec.tree import Tree
from runner.spec.variants import ARMS, SPACE, Variants, look_up, value_at


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
    known = outline(tree, ExperimentSpec)
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
