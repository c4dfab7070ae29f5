"""Applies the variations of a sweep to the tree of a spec: its arms, the points of its space, its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.errors import SpecError, SpecPath
from runner.spec.check import check_spec, spec_with_defaults
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import LoadedSpec
from runner.spec.sweep_section import ParamValue, SweepOptions, value_label
from runner.spec.yaml_layers import Mark, Tree, assign, split_path
from runner.stages.registry import suggestion

SPACE_PATH: SpecPath = ("sweep", "space")
ARMS_PATH: SpecPath = ("sweep", "arms")
SECTIONS_OF_SWEEP = ("sweep", "claims", "criterion")
"""Sections that are about all trials of a sweep together, and that a trial's own spec does not have."""
Parameters = Mapping[str, ParamValue]
"""A point of the space: the value of each path whose condition holds."""


class OutsideSpaceError(ValueError):
    """A point lies outside the space; `name` is the path whose value does."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class SweepVariants:
    """The tree of a spec and its sweep, from which the specs of the trials are composed.

    Attributes:
        tree: The tree as read, including the section `sweep`.
        sweep: The validated section.
    """

    tree: Tree
    sweep: SweepOptions

    @property
    def arms(self) -> tuple[str | None, ...]:
        """The names of the arms; (None,) if there are no arms."""
        return tuple(self.sweep.arms) or (None,)

    def base_tree(self, arm: str | None = None) -> Tree:
        """Return the spec without its sweep and its claims, with the values of an arm applied."""
        value = {key: section for key, section in self.tree.value.items() if key not in SECTIONS_OF_SWEEP}
        marks = {path: mark for path, mark in self.tree.marks.items() if not (path and path[0] in SECTIONS_OF_SWEEP)}
        tree = Tree(value, marks)
        for name in self.sweep.arms[arm] if arm else ():
            tree = assign(tree, split_path(name), self._subtree((*ARMS_PATH, arm or "", name)))
        return tree

    def set_parameter(self, tree: Tree, name: str, value: ParamValue) -> Tree:
        """Set a path of the space to a parameter value."""
        dimension = self.sweep.space[name]
        location = (*SPACE_PATH, name, dimension.kind)
        if dimension.labelled_values:
            is_mapping = isinstance(getattr(dimension, dimension.kind), dict)
            key = str(value) if is_mapping else list(dimension.labelled_values).index(str(value))
            return assign(tree, split_path(name), self._subtree((*location, key)))
        position = 1 if value == dimension.bounds[1] else 0
        mark = self.tree.mark((*location, position)) or Mark("spec")
        return assign(tree, split_path(name), Tree(value, {(): mark}))

    def _subtree(self, location: SpecPath) -> Tree:
        value = self.tree.value
        for part in location:
            value = value[part]
        depth = len(location)
        marks = {path[depth:]: mark for path, mark in self.tree.marks.items() if path[:depth] == location}
        return Tree(value, {(): self.tree.mark(location) or Mark("spec")} | marks)

    def is_active(self, tree: Tree, name: str) -> bool:
        """Return whether a path's condition holds in a tree in which the earlier paths are set."""
        return all(value_at(tree, path) == required for path, required in (self.sweep.space[name].when or {}).items())

    def choose_values(self, arm: str | None, choose: Callable[[Tree, str], ParamValue]) -> dict[str, ParamValue]:
        """Call `choose` for each path of the space in order, if its condition holds, and return the point."""
        tree, point = self.base_tree(arm), dict[str, ParamValue]()
        for name in self.sweep.space:
            if self.is_active(tree, name):
                point[name] = choose(tree, name)
                tree = self.set_parameter(tree, name, point[name])
        return point

    def grid_points(self, arm: str | None) -> Iterator[dict[str, ParamValue]]:
        """Yield every point once, the last path varying fastest; no dimension may be continuous."""
        yield from self._combine(self.base_tree(arm), list(self.sweep.space))

    def _combine(self, tree: Tree, names: list[str]) -> Iterator[dict[str, ParamValue]]:
        if not names:
            yield {}
            return
        name, *later = names
        if not self.is_active(tree, name):
            yield from self._combine(tree, later)
            return
        for value in self.sweep.space[name].values() or ():
            for rest in self._combine(self.set_parameter(tree, name, value), later):
                yield {name: value, **rest}

    def parse_point(self, arm: str | None, written: Mapping[str, Any]) -> dict[str, ParamValue]:
        """Convert the values of a point to parameter values; a path that is omitted has the arm's value.

        Args:
            arm: The arm.
            written: Values or labels, by path.

        Raises:
            OutsideSpaceError: A value lies outside its dimension, or a path that is not varied has another value than
                in the arm.
        """

        def choose(tree: Tree, name: str) -> ParamValue:
            dimension = self.sweep.space[name]
            param = dimension.to_param_value(written[name]) if name in written else self._current_value(tree, name)
            if param is None:
                value = written[name] if name in written else value_at(tree, name)
                raise OutsideSpaceError(name, f"is {value_label(value)}, which is outside {dimension}")
            return param

        point = self.choose_values(arm, choose)
        tree = self.compose(arm, point)
        for name in written.keys() - point.keys():
            if (value := value_at(tree, name)) != written[name] and value_label(value) != written[name]:
                raise OutsideSpaceError(name, f"is not varied here and has the value {value_label(value)}")
        return point

    def _current_value(self, tree: Tree, name: str) -> ParamValue | None:
        """Convert the value that a tree has at a path to a parameter value; None if it is outside the dimension."""
        dimension, value = self.sweep.space[name], value_at(tree, name)
        if not isinstance(value, dict | list):
            return dimension.to_param_value(value)
        spec = check_spec(tree, ExperimentSpec)
        for label in dimension.labelled_values:
            if _check_or_none(self.set_parameter(tree, name, label)) == spec:
                return label
        return None

    def compose(self, arm: str | None, parameters: Parameters, seed: int | None = None) -> Tree:
        """Apply an arm, a point and a seed to the spec."""
        tree = self.base_tree(arm)
        for name, value in parameters.items():
            tree = self.set_parameter(tree, name, value)
        if seed is None:
            return tree
        return assign(tree, ("seed",), Tree(seed, {(): self.tree.mark(("sweep", "seeds")) or Mark("spec")}))

    def display_values(self, arm: str | None, parameters: Parameters, seed: int | None = None) -> dict[str, Any]:
        """Return what distinguishes a trial, by dotted path: plain values, or labels of mappings and lists."""
        values = {name: _to_plain(value) for name, value in (self.sweep.arms[arm] if arm else {}).items()}
        for name, param in parameters.items():
            value = self.sweep.space[name].labelled_values.get(str(param), param)
            values[name] = param if isinstance(value, dict | list) else _to_plain(value)
        return values | ({} if seed is None else {"seed": seed})


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _check_or_none(tree: Tree) -> ExperimentSpec | None:
    try:
        return check_spec(tree, ExperimentSpec)
    except SpecError:
        return None


def value_at(tree: Tree, name: str) -> Any:
    """Return the value at a dotted path, or its default if the tree does not set it; None if there is no such path."""
    exists, value = get_path(tree.value, split_path(name))
    return value if exists else get_path(spec_with_defaults(tree, ExperimentSpec), split_path(name))[1]


def get_path(value: Any, path: SpecPath) -> tuple[bool, Any]:
    """Follow a path into plain values; return whether it exists, and its value."""
    for part in path:
        key: Any = str(part) if isinstance(value, dict) else part
        is_index = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not is_index and not (isinstance(value, dict) and key in value):
            return False, None
        value = value[key]
    return True, value


def select_arm(loaded: LoadedSpec[ExperimentSpec], arm: str) -> LoadedSpec[ExperimentSpec]:
    """Return the spec of one arm of a sweep, without the sweep.

    Raises:
        SpecError: The spec has no such arm.
    """
    arms = loaded.spec.sweep.arms if loaded.spec.sweep else {}
    if loaded.spec.sweep is None or arm not in arms:
        known = suggestion(arm, arms) or "; the spec has no sweep.arms"
        raise SpecError(f"--arm {arm}: {loaded.file} has no such arm{known}")
    tree = SweepVariants(loaded.tree, loaded.spec.sweep).base_tree(arm)
    return replace(loaded, spec=check_spec(tree, ExperimentSpec), tree=tree)
