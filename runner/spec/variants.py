"""Lays what a sweep varies over a spec's tree: its arms, the points of its space, its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import SpecError, SpecPath
from runner.spec.check import check, spec_with_defaults
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.layers import assign, parts
from runner.spec.sweep_section import Drawn, SweepOptions, label
from runner.spec.tree import Mark, Tree

SPACE: SpecPath = ("sweep", "space")
ARMS: SpecPath = ("sweep", "arms")
Parameters = Mapping[str, Drawn]
"""A point of the space: what was drawn for each of its paths whose condition holds."""


class OutsideSpaceError(ValueError):
    """A point lies outside of the space; `name` is the path that does."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class Variants:
    """A spec's tree, and the sweep in it.

    Attributes:
        tree: As read, the section `sweep` included.
        sweep: That section, checked.
    """

    tree: Tree
    sweep: SweepOptions

    @property
    def arms(self) -> tuple[str | None, ...]:
        """The names of the arms; one without a name where there are none."""
        return tuple(self.sweep.arms) or (None,)

    def base(self, arm: str | None = None) -> Tree:
        """The spec without its sweep, as an arm has it."""
        value = {key: each for key, each in self.tree.value.items() if key != "sweep"}
        tree = Tree(value, {path: mark for path, mark in self.tree.marks.items() if path[:1] != ("sweep",)})
        for name in self.sweep.arms[arm] if arm else ():
            tree = assign(tree, parts(name), self._leaf((*ARMS, arm or "", name)))
        return tree

    def lay(self, tree: Tree, name: str, drawn: Drawn) -> Tree:
        """Set a path of the space to what was drawn for it."""
        dimension = self.sweep.space[name]
        where = (*SPACE, name, dimension.kind)
        if dimension.labelled:
            named = isinstance(getattr(dimension, dimension.kind), dict)
            key = drawn if named else list(dimension.labelled).index(str(drawn))
            return assign(tree, parts(name), self._leaf((*where, key)))  # type: ignore[arg-type] # a label is text
        position = 1 if drawn == dimension.bounds[1] else 0
        mark = self.tree.mark((*where, position)) or Mark("spec")
        return assign(tree, parts(name), Tree(drawn, {(): mark}))

    def _leaf(self, where: SpecPath) -> Tree:
        value = self.tree.value
        for part in where:
            value = value[part]
        depth = len(where)
        marks = {path[depth:]: mark for path, mark in self.tree.marks.items() if path[:depth] == where}
        return Tree(value, {(): self.tree.mark(where) or Mark("spec")} | marks)

    def active(self, tree: Tree, name: str) -> bool:
        """Whether a path's condition holds in a tree that has the paths before it."""
        return all(value_at(tree, path) == wanted for path, wanted in (self.sweep.space[name].when or {}).items())

    def walk(self, arm: str | None, choose: Callable[[Tree, str], Drawn]) -> dict[str, Drawn]:
        """Go through the space in order, choosing a value for each path whose condition holds."""
        tree, chosen = self.base(arm), dict[str, Drawn]()
        for name in self.sweep.space:
            if self.active(tree, name):
                chosen[name] = choose(tree, name)
                tree = self.lay(tree, name, chosen[name])
        return chosen

    def grid(self, arm: str | None) -> Iterator[dict[str, Drawn]]:
        """Yield every point once, the last path changing first; the space must name its values."""
        yield from self._combine(self.base(arm), list(self.sweep.space))

    def _combine(self, tree: Tree, names: list[str]) -> Iterator[dict[str, Drawn]]:
        if not names:
            yield {}
            return
        name, *later = names
        if not self.active(tree, name):
            yield from self._combine(tree, later)
            return
        for drawn in self.sweep.space[name].values() or ():
            for rest in self._combine(self.lay(tree, name, drawn), later):
                yield {name: drawn, **rest}

    def place(self, arm: str | None, written: Mapping[str, Any]) -> dict[str, Drawn]:
        """Find a point in the space; a path that it leaves out is as the arm has it.

        Args:
            arm: The arm.
            written: Paths to values, or to labels.

        Raises:
            OutsideSpaceError: A value is not in its dimension, or a path is not in the space and not as the arm has it.
        """

        def choose(tree: Tree, name: str) -> Drawn:
            dimension = self.sweep.space[name]
            drawn = dimension.drawn(written[name]) if name in written else self._own(tree, name)
            if drawn is None:
                value = written[name] if name in written else value_at(tree, name)
                raise OutsideSpaceError(name, f"is {label(value)}, which lies outside of {dimension}")
            return drawn

        chosen = self.walk(arm, choose)
        whole = self.compose(arm, chosen)
        for name in written.keys() - chosen.keys():
            if (stands := value_at(whole, name)) != written[name] and label(stands) != written[name]:
                raise OutsideSpaceError(name, f"is not varied here, where it is {label(stands)}")
        return chosen

    def _own(self, tree: Tree, name: str) -> Drawn | None:
        """Find what a tree has at a path in the path's dimension."""
        dimension, value = self.sweep.space[name], value_at(tree, name)
        if not isinstance(value, dict | list):
            return dimension.drawn(value)
        whole = check(tree, ExperimentSpec)
        return next((each for each in dimension.labelled if _checked(self.lay(tree, name, each)) == whole), None)

    def compose(self, arm: str | None, parameters: Parameters, seed: int | None = None) -> Tree:
        """Lay an arm, a point and a seed over the spec."""
        tree = self.base(arm)
        for name, drawn in parameters.items():
            tree = self.lay(tree, name, drawn)
        if seed is None:
            return tree
        return assign(tree, ("seed",), Tree(seed, {(): self.tree.mark(("sweep", "seeds")) or Mark("spec")}))

    def shown(self, arm: str | None, parameters: Parameters, seed: int | None = None) -> dict[str, Any]:
        """What sets a trial apart, by dotted path: numbers and plain values as they are, others by their labels."""
        told = {name: _plain(value) for name, value in (self.sweep.arms[arm] if arm else {}).items()}
        for name, drawn in parameters.items():
            value = self.sweep.space[name].labelled.get(str(drawn), drawn)
            told[name] = drawn if isinstance(value, dict | list) else _plain(value)
        return told | ({} if seed is None else {"seed": seed})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, str) else value


def _checked(tree: Tree) -> ExperimentSpec | None:
    try:
        return check(tree, ExperimentSpec)
    except SpecError:
        return None


def value_at(tree: Tree, name: str) -> Any:
    """The value of a dotted path, its default where the tree does not say it; None where there is no such path."""
    found, value = look_up(tree.value, parts(name))
    return value if found else look_up(spec_with_defaults(tree, ExperimentSpec), parts(name))[1]


def look_up(value: Any, path: SpecPath) -> tuple[bool, Any]:
    """Follow a path into plain values; whether it is there, and what is."""
    for part in path:
        key: Any = str(part) if isinstance(value, dict) else part
        inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not inside and not (isinstance(value, dict) and key in value):
            return False, None
        value = value[key]
    return True, value
