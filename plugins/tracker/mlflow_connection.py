"""The MLflow store: opens a server or database, explains in one line why it cannot be opened, and serves its pages."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from runner.errors import RequirementError
from runner.files import user_cache_dir
from runner.redaction import redact_passwords, redact_value

ARTIFACTS = "mlartifacts"
"""Folder of the artifacts, in the folder of all runs, unless a server stores them."""
JOB_EXECUTION = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
"""Environment variable that enables or disables background jobs in MLflow's server."""


class Store:
    """An open MLflow store."""

    def __init__(self, uri: str | None, storage: Path) -> None:
        """Open the store; create the database and its tables if they do not exist.

        Args:
            uri: A tracking server or database; None for a SQLite database in `storage`.
            storage: The folder of all runs.

        Raises:
            RequirementError: The store cannot be opened.
        """
        self._storage = storage.resolve()
        self._is_default = uri is None
        self.uri = _with_driver(uri or f"sqlite:///{self._storage / 'mlflow.db'}")
        self.is_server = self.uri.startswith(("http://", "https://", "databricks"))
        file = _sqlite_file(self.uri) if self.uri.startswith("sqlite") else None
        self._lock = (file.parent if file else self._storage) / ".mlflow.lock"
        self._display_uri = redact_value(self.uri)
        _silence_loggers(self.uri)
        with self.translated_errors(), self.locked():
            self._storage.mkdir(parents=True, exist_ok=True)
            if file:
                _create_sqlite(file)
            self.client = MlflowClient(tracking_uri=self.uri)
            self.client.search_experiments(max_results=1)

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Convert errors of MLflow's client, its database and its connections to one line.

        Raises:
            RequirementError: Instead of the original error.
        """
        try:
            yield
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            advice = "start it, or name" if self.is_server else "name"
            if isinstance(error, ImportError):
                advice = "install its driver (for PostgreSQL: pip install 'mmre-runner[postgresql]'), or name"
            raise RequirementError(
                f"the tracker's store {self._display_uri} cannot be opened: {self._redact(lines[0])[:300]}; "
                f"{advice} another one under tracker.uri"
            ) from error

    def _redact(self, message: str) -> str:
        """Remove the address of the store with its password, and other passwords, from a message."""
        return redact_passwords(message.replace(self.uri, self._display_uri))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time create tables, experiments and runs; of two at once, one would fail.

        The lock file is next to a SQLite database, because launches with different storage folders may share it.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            yield

    def check_artifact_uri(self, artifact_uri: str) -> None:
        """Check that a run of the database in the folder of all runs has its artifacts on this machine.

        Raises:
            RequirementError: The database, which somebody may have copied here, sends them to another machine.
        """
        if self._is_default and urlsplit(artifact_uri).scheme not in {"", "file"}:
            raise RequirementError(
                f"{self._display_uri} sends artifacts to {redact_value(artifact_uri)}; if this is intended, name "
                "the database under tracker.uri"
            )

    def experiment(self, name: str) -> str:
        """Return the id of an experiment; create it, or restore it if it was deleted in MLflow."""
        existing = self.client.get_experiment_by_name(name)
        if existing is None:
            location = None if self.is_server else (self._storage / ARTIFACTS / name).as_uri()
            # Without this, MLflow takes a run with a table of answers for a chat assistant's, and hides its curves.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(self.client.create_experiment(name, artifact_location=location, tags=kind))
        if existing.lifecycle_stage == "deleted":
            self.client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)

    def link(self, experiment_id: str, run_id: str) -> str:
        """Return the address of a run's page; for a database, with the command that serves it."""
        # Without `workflowType`, MLflow shows its pages for chat assistants.
        page = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
        if self.is_server:
            return f"{self._display_uri.rstrip('/')}/{page}"
        command = "runner ui" if self._storage == Path("runs").resolve() else "runner ui SPEC"
        return f"http://127.0.0.1:5000/{page} while `{command}` serves {self._display_uri}"

    def serve_command(self, host: str, port: int) -> Sequence[str]:
        """Return the command that serves MLflow's pages on this store.

        Raises:
            RequirementError: The store is a server, which has its own pages.
        """
        if self.is_server:
            raise RequirementError(
                f"the tracker's store is a server that serves its own pages: open {self._display_uri} in a browser"
            )
        # MLflow's jobs evaluate chats with language models; they would start eight unneeded processes.
        environment = () if JOB_EXECUTION in os.environ else ("/usr/bin/env", f"{JOB_EXECUTION}=false")
        return (
            *environment,
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", self.uri),
            *("--artifacts-destination", (self._storage / ARTIFACTS).as_uri()),
            *("--host", host, "--port", str(port), "--workers", "1"),
        )


def _with_driver(uri: str) -> str:
    """Select the installed PostgreSQL driver. SQLAlchemy's default is the newer psycopg; MLflow recommends psycopg2."""
    scheme = "postgresql://"
    if uri.startswith(scheme) and find_spec("psycopg") is None and find_spec("psycopg2") is not None:
        return f"postgresql+psycopg2://{uri.removeprefix(scheme)}"
    return uri


def _silence_loggers(uri: str) -> None:
    """Silence messages about migrations, unless the user set MLflow's logging level."""
    if "MLFLOW_LOGGING_LEVEL" in os.environ:
        return
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith("sqlite"):
        # This logger prints a traceback for errors that the store reports in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite database; None for a database in memory."""
    file = make_url(uri).database
    return Path(file) if file and file != ":memory:" else None


def _create_sqlite(file: Path) -> None:
    """Create the database atomically if it does not exist, and check at once that it can be written.

    MLflow's first migrations are many transactions. A kill between them would leave tables that MLflow cannot use
    later, so the database is created under another name and then moved. MLflow itself would retry for 100 seconds if
    the file cannot be written.

    Raises:
        sqlite3.Error: The database cannot be opened, read or written.
        OSError: Its folder cannot be created.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if _is_empty(file):
        unfinished = file.with_name(f".{file.name}.unfinished")
        # Remove the journal too: SQLite would use it to roll back the new file of the same name.
        for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
            leftover.unlink(missing_ok=True)
        _create_tables(unfinished)
        unfinished.replace(file)


def _create_tables(file: Path) -> None:
    """Create an empty database.

    MLflow runs all its migrations for a new database, which takes a second or more. The empty database is therefore
    cached for the next store of the same MLflow version.
    """
    cached = user_cache_dir(f"mlflow-{mlflow.__version__}.db")
    if cached is not None and _is_intact(cached):
        shutil.copyfile(cached, file)
        return
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)
    if cached is None:
        return
    with suppress(OSError):  # It is created again next time.
        cached.parent.mkdir(parents=True, exist_ok=True)
        unfinished = cached.with_name(f".{cached.name}.{os.getpid()}")
        shutil.copyfile(file, unfinished)
        unfinished.replace(cached)


def _is_intact(file: Path) -> bool:
    """Whether a file is a SQLite database that has tables and is not damaged."""
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return bool(num_tables and connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    except sqlite3.Error:
        return False


def _is_empty(file: Path) -> bool:
    with closing(sqlite3.connect(file, timeout=20)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.rollback()
    return bool(num_tables == 0)
