"""Opens an MLflow store, says in one line why it cannot be opened, and serves its pages."""

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

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from runner.errors import RequirementError
from runner.files import user_cache
from runner.secrets import without_passwords

ARTIFACTS = "mlartifacts"
"""The folder of artifacts, in the folder of all runs, where no server keeps them."""
JOB_EXECUTION = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
"""The variable by which a user has MLflow's server run jobs, or not."""


class Store:
    """An open MLflow store."""

    def __init__(self, uri: str | None, storage: Path) -> None:
        """Open it, making database and tables where there are none.

        Args:
            uri: A tracking server or database; None for a SQLite database in `storage`.
            storage: The folder of all runs.

        Raises:
            UnmetError: It cannot be opened.
        """
        self._storage = storage.resolve()
        self.uri = _with_driver(uri or f"sqlite:///{self._storage / 'mlflow.db'}")
        self.is_server = self.uri.startswith(("http://", "https://", "databricks"))
        file = _sqlite_file(self.uri) if self.uri.startswith("sqlite") else None
        self._lock = (file.parent if file else self._storage) / ".mlflow.lock"
        self._shown = without_passwords(self.uri)
        _quieten(self.uri)
        with self.explained(), self.locked():
            self._storage.mkdir(parents=True, exist_ok=True)
            if file:
                _make_sqlite(file)
            self.client = MlflowClient(tracking_uri=self.uri)
            self.client.search_experiments(max_results=1)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what MLflow's client, its database and its connections raise into one line.

        Raises:
            UnmetError: In place of theirs.
        """
        try:
            yield
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            advice = "start it, or name" if self.is_server else "name"
            if isinstance(error, ImportError):
                advice = "install its driver (for PostgreSQL: pip install 'mmre-runner[postgresql]'), or name"
            raise RequirementError(
                f"the tracker's store {self._shown} cannot be opened: {without_passwords(lines[0])[:300]}; "
                f"{advice} another one under tracker.uri"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time make tables, experiments and runs: of two at once, one would crash.

        The lock lies beside a database that is a file, which launches into several storages may share.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            yield

    def experiment(self, name: str) -> str:
        """Get the id of an experiment, making it, or bringing it back from MLflow's bin, where needed."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = None if self.is_server else (self._storage / ARTIFACTS / name).as_uri()
            # MLflow would take a run with a table of answers for a chat assistant's, and hide its curves.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(self.client.create_experiment(name, artifact_location=location, tags=kind))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def link(self, experiment_id: str, run_id: str) -> str:
        """Where a person looks at a run: its page, and for a database the command that serves it."""
        # Without the workflow, MLflow shows what it has for chat assistants.
        page = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
        if self.is_server:
            return f"{self._shown.rstrip('/')}/{page}"
        command = "runner ui" if self._storage == Path("runs").resolve() else "runner ui SPEC"
        return f"http://127.0.0.1:5000/{page} while `{command}` serves {self._shown}"

    def serve_command(self, host: str, port: int) -> Sequence[str]:
        """The command that serves MLflow's pages on this store.

        Raises:
            UnmetError: The store is a server, which has its own pages.
        """
        if self.is_server:
            raise RequirementError(
                f"the tracker's store is a server with pages of its own: open {self._shown} in a browser"
            )
        # Its jobs judge chats by language models: eight more processes to start and to end, of no use here.
        quiet = () if JOB_EXECUTION in os.environ else ("/usr/bin/env", f"{JOB_EXECUTION}=false")
        return (
            *quiet,
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", self.uri),
            *("--artifacts-destination", (self._storage / ARTIFACTS).as_uri()),
            *("--host", host, "--port", str(port), "--workers", "1"),
        )


def _with_driver(uri: str) -> str:
    """Name the driver of PostgreSQL that is installed: SQLAlchemy takes the newer one, MLflow recommends the older."""
    scheme = "postgresql://"
    if uri.startswith(scheme) and find_spec("psycopg") is None and find_spec("psycopg2") is not None:
        return f"postgresql+psycopg2://{uri.removeprefix(scheme)}"
    return uri


def _quieten(uri: str) -> None:
    """Leave out the announcements of migrations, unless the user asked MLflow to be talkative."""
    if "MLFLOW_LOGGING_LEVEL" in os.environ:
        return
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith("sqlite"):
        # It prints the traceback of what it raises; we tell it in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database; None for one in memory."""
    file = make_url(uri).database
    return Path(file) if file and file != ":memory:" else None


def _make_sqlite(file: Path) -> None:
    """Make the database where there is none, whole or not at all, and find out at once whether it can be written.

    MLflow's first migrations are many transactions, so that a kill among them would leave tables that none of its
    next starts can use: they are made beside the place and moved there. And where it cannot write, it would try
    for 100 seconds.

    Raises:
        sqlite3.Error: It cannot be opened, read or written.
        OSError: Its folder cannot be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if _is_empty(file):
        unfinished = file.with_name(f".{file.name}.unfinished")
        # The journal goes too: SQLite would roll a new file of this name back by it.
        for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
            left.unlink(missing_ok=True)
        _make_tables(unfinished)
        unfinished.replace(file)


def _make_tables(file: Path) -> None:
    """Make a database that holds nothing yet.

    MLflow runs all the migrations of its history for it, a second and more of computing: the empty database is kept for
    the next store of the same release.
    """
    kept = user_cache(f"mlflow-{mlflow.__version__}.db")
    if kept is not None and _is_whole(kept):
        shutil.copyfile(kept, file)
        return
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)
    if kept is None:
        return
    with suppress(OSError):  # It is made again next time.
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f".{kept.name}.{os.getpid()}")
        shutil.copyfile(file, unfinished)
        unfinished.replace(kept)


def _is_whole(file: Path) -> bool:
    """Whether a file is an SQLite database with tables, and without damage."""
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
