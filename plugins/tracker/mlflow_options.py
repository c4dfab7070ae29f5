"""Options of the tracker `mlflow`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from runner.files import resolve_path
from runner.redaction import redact_value
from runner.stages import OutsideFingerprint, TrackerOptions, base_folder

_RELATIVE_SQLITE = re.compile(r"sqlite:///(?!/)(?P<file>.+)", re.DOTALL)
_SUPPORTED = re.compile(r"(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://.+|databricks(://.+)?", re.DOTALL)


ENVIRONMENT = {
    # Usage data must not leave the machine.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # With MLflow's default of seven retries, an unreachable server blocks the upload for minutes. One retry is enough,
    # because the engine uploads the missing events later. The timeout allows a server that needs a minute to answer.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "90",
    # MLflow would print run addresses, with their passwords, into a command's output, and bars between its messages.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Settings of MLflow, unless the environment has others."""


def _checked_uri(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        urlsplit(value)
    except ValueError as error:
        raise ValueError(
            f"{redact_value(value)!r} is not an address: {error}; in a user or password, write [ as %5B and ] as %5D"
        ) from error
    if not _SUPPORTED.fullmatch(value):
        raise ValueError(
            f"{redact_value(value)!r} is not a store of MLflow 3. Name a server (http://host:5000) or a database "
            "(sqlite:///runs/mlflow.db), or omit it to use a database in the folder of all runs"
        )
    relative = _RELATIVE_SQLITE.fullmatch(value)
    if relative is None:
        return str(value)
    return f"sqlite:///{resolve_path(relative['file'], base_folder(value))}"


StoreUri = Annotated[str, BeforeValidator(_checked_uri)]
"""The MLflow store. A relative SQLite path is relative to the spec, like every path of a spec."""


CREDENTIALS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(
        ("http", "https"), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    ),
    "databricks": ("DATABRICKS_TOKEN", "DATABRICKS_USERNAME", "DATABRICKS_PASSWORD"),
    "postgresql": ("PGPASSWORD",),
    "mysql": ("MYSQL_PWD",),
}
"""Environment variables with credentials for a store, by the scheme of its address."""


class MlflowOptions(TrackerOptions):
    """Logs runs to MLflow."""

    uri: Annotated[StoreUri | None, OutsideFingerprint()] = None
    """Address of a tracking server or database. Default: the SQLite database `mlflow.db` in the folder of all runs,
    with the artifacts in `mlartifacts/` next to the database."""

    max_artifact_mb: Annotated[float, Field(ge=0), OutsideFingerprint()] = 200
    """Maximum size of a folder that is uploaded, the model's or the profile's, in megabytes (10^6 bytes). For a larger
    model folder, only the path is logged. Default: 200, our choice: small models are uploaded, a 7B model is not."""

    @property
    def remote_address(self) -> str | None:
        """The address of the store, unless it is a file."""
        return None if self.uri is None or self.uri.startswith("sqlite") else self.uri

    @property
    def key_variables(self) -> Sequence[str]:
        """The variables with credentials that are set; MLflow and the libraries of databases read them."""
        scheme = (self.remote_address or "").partition(":")[0].partition("+")[0]
        return [name for name in CREDENTIALS.get(scheme, ()) if name in os.environ]

    @property
    def stays_in_storage(self) -> bool:
        """Whether the store is the database in the folder of all runs."""
        return self.uri is None
