"""Tells what kind of spec a file is: an experiment, or a data set to be built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.spec.dataset_spec import DatasetSpec
from runner.spec.layers import apply_overrides, read_layers
from runner.spec.models import ExperimentSpec, Specification
from runner.spec.sweep_check import check_swept


def load_any(file: Path, overrides: Sequence[str] = ()) -> Specification:
    """Load a spec of either kind: one that names a `source` describes a data set.

    Raises:
        SpecError: With every problem found.
    """
    tree = apply_overrides(read_layers(file, str(file)), overrides, Path.cwd())
    kind: type[Specification] = DatasetSpec if "source" in tree.value else ExperimentSpec
    return check_swept(tree, kind)
