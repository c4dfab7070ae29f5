"""Writes out a spec for a launch that starts elsewhere or later: as a job of a Ray cluster or of Slurm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import Problem, SpecError, SpecPath
from runner.redaction import has_password
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import LoadedSpec

MLFLOW_VARIABLES = "for MLflow: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"

RAY_REMEDY = (
    "everybody with access to the cluster could read; remove it here and set it in the environment of the head's `ray "
    f"start` ({MLFLOW_VARIABLES})"
)
SLURM_REMEDY = (
    "everybody who may read the folder of all runs could read; remove it here and set it in the environment in which "
    f"you submit, which sbatch passes on ({MLFLOW_VARIABLES})"
)


def serialize_spec(
    loaded: LoadedSpec[ExperimentSpec], password_remedy: str = RAY_REMEDY, storage: Path | None = None
) -> str:
    """Serialize a spec so that it does not depend on this machine.

    `extends`, `--set`, environment variables and defaults are filled in. Paths are absolute, and refer to files of the
    cluster.

    Args:
        loaded: The spec.
        password_remedy: Who could read a password in the spec, and where it belongs instead.
        storage: The folder of all runs, if the spec names none.

    Raises:
        SpecError: There is no folder for its runs on the cluster, or it contains a password.
    """
    content = loaded.spec.as_json()
    problems = [
        Problem(f"holds a password, which {password_remedy}", path)
        for path, text in _strings(content, ())
        if has_password(text)
    ]
    if loaded.spec.compute.storage is None:
        content["compute"]["storage"] = str(storage)
        if storage is None:
            problems.append(Problem(_STORAGE_MESSAGE, ("compute", "storage")))
    if problems:
        raise loaded.with_locations(SpecError(problems))
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


_STORAGE_MESSAGE = (
    "is missing: a detached launch stores its runs on the cluster; name a folder that all nodes share, such as --set "
    "compute.storage=/shared/runs"
)


def _strings(value: Any, path: SpecPath) -> Iterator[tuple[SpecPath, str]]:
    """Yield every string of nested data with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, (*path, index))
    elif isinstance(value, str):
        yield path, value
