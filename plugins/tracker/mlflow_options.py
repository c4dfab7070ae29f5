"""The options of the MLflow tracker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from runner.stages import LocatedStr, Options, OutsideFingerprint

_RELATIVE_SQLITE = re.compile(r"sqlite:///(?!/)(?P<file>.+)", re.DOTALL)
_SUPPORTED = re.compile(r"(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://.+|databricks(://.+)?", re.DOTALL)


def _checked_uri(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not _SUPPORTED.fullmatch(value):
        raise ValueError(
            f"{value!r} is no store of MLflow 3; name a server (http://host:5000) or a database "
            "(sqlite:///runs/mlflow.db), or leave it out for a database beside the runs"
        )
    relative = _RELATIVE_SQLITE.fullmatch(value)
    if relative is None:
        return str(value)
    folder = value.folder if isinstance(value, LocatedStr) else Path.cwd()
    return f"sqlite:///{(folder / relative['file']).resolve()}"


StoreUri = Annotated[str, BeforeValidator(_checked_uri)]
"""Where MLflow keeps runs; a relative SQLite path is relative to the spec, as every path of a spec is."""


class MlflowOptions(Options):
    """Where runs are shown, and how much is copied there."""

    uri: Annotated[StoreUri | None, OutsideFingerprint()] = None
    """A tracking server or database. Default: the SQLite database `mlflow.db` in the folder of all runs,
    artifacts beside it."""

    max_artifact_mb: Annotated[float, Field(ge=0), OutsideFingerprint()] = 200
    """The largest model folder that is copied, in megabytes (10^6 bytes); of a larger one only the place is
    noted. Default: our choice, room for a small model and none for a 7B."""
