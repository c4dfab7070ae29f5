"""Loads a spec: reads the file, merges `extends`, environment variables and `--set`, and validates the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar, cast

from runner.errors import SpecError
from runner.spec.check import check_spec, with_location
from runner.spec.experiment_spec import ExperimentSpec, Specification
from runner.spec.yaml_layers import Tree, apply_overrides, read_layers

S = TypeVar("S", bound=Specification)


@dataclass(frozen=True)
class LoadedSpec(Generic[S]):
    """A validated spec with the source locations of its values, for errors that are found later.

    Attributes:
        spec: The validated spec.
        tree: Its values with their source locations.
        file: The file that it was read from.
        overrides: The `PATH=VALUE` assignments that were applied to it.
    """

    spec: S
    tree: Tree = field(repr=False)
    file: Path
    overrides: tuple[str, ...] = ()

    def with_locations(self, error: SpecError) -> SpecError:
        """Return the error with file, line and column added to its problems."""
        return SpecError([with_location(problem, self.tree) for problem in error.problems])


def load_spec(file: Path, overrides: Sequence[str] = ()) -> LoadedSpec[ExperimentSpec]:
    """Load an experiment spec.

    Args:
        file: A YAML file, or the `plan.json` of an earlier run.
        overrides: `PATH=VALUE` assignments.

    Raises:
        SpecError: The spec is invalid; with every problem found, each with file, line and column.
    """
    return load(file, ExperimentSpec, overrides)


def load(file: Path, kind: type[S], overrides: Sequence[str] = ()) -> LoadedSpec[S]:
    """Load a spec of a given kind; see `load_spec`."""
    tree = apply_overrides(read_layers(file, str(file)), overrides, Path.cwd())
    _check_kind(tree, kind)
    return LoadedSpec(_check(tree, kind), tree, file, tuple(overrides))


def _check_kind(tree: Tree, kind: type[Specification]) -> None:
    """Report a spec of the other kind as one problem; otherwise each of its lines would be one."""
    if "source" in kind.stages() and "trainer" in tree.value:
        raise SpecError(
            [tree.marks[("trainer",)].problem("this spec describes an experiment; run it with `runner launch`")]
        )
    if "trainer" in kind.stages() and "source" in tree.value:
        raise SpecError(
            [tree.marks[("source",)].problem("this is the spec of a data set; build it with `runner build`")]
        )


def _check(tree: Tree, kind: type[S]) -> S:
    if kind is not ExperimentSpec or not {"sweep", "claims", "criterion"} & tree.value.keys():
        return check_spec(tree, kind)
    from runner.spec.sweep_check import check_with_sweep

    return cast("S", check_with_sweep(tree))


def load_any(file: Path, overrides: Sequence[str] = ()) -> Specification:
    """Load a spec of either kind; a spec with a `source` is the spec of a data set.

    Raises:
        SpecError: The spec is invalid; with every problem found.
    """
    tree = apply_overrides(read_layers(file, str(file)), overrides, Path.cwd())
    if "source" not in tree.value:
        return _check(tree, ExperimentSpec)
    from runner.spec.dataset_spec import DatasetSpec

    return _check(tree, DatasetSpec)
