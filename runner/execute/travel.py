"""What of a spec travels to a cluster, where nobody has the file, its folder or this machine's environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.errors import Problem, SpecError, SpecPath
from runner.secrets import holds_password
from runner.spec.load import LoadedSpec
from runner.spec.models import ExperimentSpec


def travelling(loaded: LoadedSpec[ExperimentSpec]) -> str:
    """Write a spec so that it means the same anywhere: `extends`, `--set`, the environment and defaults filled in.

    Its paths are absolute, and mean the cluster's files.

    Raises:
        SpecError: It does not say where on the cluster its runs go; or it holds a password, which is no secret in what
            a cluster is sent.
    """
    told = loaded.spec.as_json()
    problems = [Problem(_HIDE, path) for path, text in _texts(told, ()) if holds_password(text)]
    if loaded.spec.compute.storage is None:
        problems.append(
            Problem(
                "is missing: a launch that is detached keeps its runs on the cluster; name a folder that all nodes "
                "share, such as --set compute.storage=/shared/runs",
                ("compute", "storage"),
            )
        )
    if problems:
        raise loaded.located(SpecError(problems))
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


_HIDE = (
    "holds a password, and everybody who may see the cluster sees what it was sent; leave it out here and set it in "
    "the environment of the head's `ray start` (for MLflow MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
)


def _texts(value: Any, path: SpecPath) -> Iterator[tuple[SpecPath, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, (*path, index))
    elif isinstance(value, str):
        yield path, value
