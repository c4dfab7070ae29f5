"""Loads a spec: the file, what it extends, environment variables and `--set`, then validates the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from runner.errors import SpecError
from runner.spec.check import located
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import ExperimentSpec, Specification
from runner.spec.layers import apply_overrides, read_layers
from runner.spec.sweep_check import check_swept
from runner.spec.tree import Tree

S = TypeVar("S", bound=Specification)


@dataclass(frozen=True)
class LoadedSpec(Generic[S]):
    """A checked spec and where each of its values was written, for errors that are found later.

    Attributes:
        spec: What was written.
        tree: The same with places.
        file: The file that it was read from.
        overrides: The `PATH=VALUE` assignments that were laid over it.
    """

    spec: S
    tree: Tree
    file: Path
    overrides: tuple[str, ...] = ()

    def located(self, error: SpecError) -> SpecError:
        """Give the problems of an error that was raised far from the file their place in it."""
        return SpecError([located(problem, self.tree) for problem in error.problems])


def load_spec(file: Path, overrides: Sequence[str] = ()) -> LoadedSpec[ExperimentSpec]:
    """Load an experiment spec.

    Args:
        file: A YAML file, or the `plan.json` of an earlier run.
        overrides: `PATH=VALUE` assignments.

    Raises:
        SpecError: With every problem found, each with file, line and column.
    """
    return load(file, ExperimentSpec, overrides)


def load(file: Path, kind: type[S], overrides: Sequence[str] = ()) -> LoadedSpec[S]:
    """Load a spec of any kind; see `load_spec`."""
    tree = apply_overrides(read_layers(file, str(file)), overrides, Path.cwd())
    _refuse_other_kind(tree, kind)
    return LoadedSpec(check_swept(tree, kind), tree, file, tuple(overrides))


def _refuse_other_kind(tree: Tree, kind: type[Specification]) -> None:
    """Say so where a data set's spec stands for an experiment's: each of its lines would be wrong."""
    if "source" in kind.stages() and "trainer" in tree.value:
        raise SpecError(
            [tree.marks[("trainer",)].problem("this spec describes an experiment: `runner launch` runs it")]
        )
    if "trainer" in kind.stages() and "source" in tree.value:
        raise SpecError([tree.marks[("source",)].problem("this spec describes a data set: `runner build` makes it")])


def load_any(file: Path, overrides: Sequence[str] = ()) -> Specification:
    """Load a spec of either kind: one that names a `source` describes a data set.

    Raises:
        SpecError: With every problem found.
    """
    tree = apply_overrides(read_layers(file, str(file)), overrides, Path.cwd())
    kind: type[Specification] = DatasetSpec if "source" in tree.value else ExperimentSpec
    return check_swept(tree, kind)
