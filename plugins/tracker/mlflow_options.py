"""Options of the MLflow tracker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.stages import Options, OutsideFingerprint


class MlflowOptions(Options):
    """Where runs are kept and how much of them is copied there."""

    uri: Annotated[str | None, OutsideFingerprint()] = None
    """A tracking server or database; none: SQLite in `mlflow.db` beside the runs."""
    max_artifact_mb: Annotated[float, Field(ge=0), OutsideFingerprint()] = 200
    """A model folder of more megabytes (10^6 bytes) is not copied; its place is noted instead."""
