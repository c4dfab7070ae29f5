"""The MLflow store: opens a server or database, explains in one line why it cannot be opened, and serves its pages."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from packaging.version import Version
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from plugins.tracker.mlflow_options import ENVIRONMENT
from runner.errors import RequirementError
from runner.files import apply_umask, user_cache_dir
from runner.redaction import is_loopback, redact_passwords, redact_value
from runner.stages import StoreDescription

INVALID_HOST = "Invalid Host header"
"""Part of the answer of an MLflow server that does not accept the host name of its address."""
ARTIFACTS = "mlartifacts"
"""Folder of the artifacts, in the folder of all runs, unless a server stores them."""
WORKFLOW = "workflowType=machine_learning"
"""Part of a page's address. Without it, MLflow shows its pages for chat assistants."""
ALLOWED_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
"""Environment variable with the host names under which MLflow's server may be addressed."""
CONNECT_SECONDS = 20
"""How long a database server may take to accept a connection."""
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
        self.uri = _with_driver(uri or f"sqlite:///{self._storage / 'mlflow.db'}")
        self.is_server = self.uri.startswith(("http://", "https://", "databricks"))
        file = _sqlite_file(self.uri) if self.uri.startswith("sqlite") else None
        self._own_database = file if uri is None else None
        self._lock = (file.parent if file else self._storage) / ".mlflow.lock"
        self._display_uri = redact_value(self.uri)
        # Again for each store, because a caller may have reset the environment.
        os.environ.update({**ENVIRONMENT, **os.environ})
        _silence_loggers(self.uri)
        with self.translated_errors(), self.locked():
            self._storage.mkdir(parents=True, exist_ok=True)
            if file:
                _create_sqlite(file)
            elif not self.is_server:
                _check_connection(self.uri)
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
            advice = _advice(str(error)) if self.is_server else "name"
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
        """Check that a run of the database in the folder of all runs has its artifacts in that folder, too.

        Raises:
            RequirementError: The database, which somebody may have copied here, sends them to another machine or to
                another folder, or a link among them leads to another folder.
        """
        if self._own_database is None:
            return
        folder = _path_of(artifact_uri)
        if urlsplit(artifact_uri).scheme not in {"", "file"} or not folder.resolve().is_relative_to(
            (self._storage / ARTIFACTS).resolve()
        ):
            raise RequirementError(
                f"{self._display_uri} sends artifacts to {redact_value(artifact_uri)}, not to {ARTIFACTS}/ beside the "
                "database; if this is intended, name the database under tracker.uri"
            )
        if link := next((file for file in folder.rglob("*") if file.is_symlink()), None):
            raise RequirementError(f"{link}: is a link, so that an artifact would be written elsewhere; remove it")

    def relocate(self, experiment: Experiment) -> None:
        """Correct the recorded artifact folders of an experiment if the folder of all runs was moved or copied."""
        if self._own_database is not None:
            location = (self._storage / ARTIFACTS / experiment.name).as_uri()
            _relocate(self._own_database, str(experiment.artifact_location), location)

    def experiment(self, name: str) -> str:
        """Return the id of an experiment; create it if it does not exist.

        Raises:
            RequirementError: It was deleted in MLflow. MLflow can restore it, but only with all runs that it ever had.
        """
        existing = self.client.get_experiment_by_name(name)
        location = None if self.is_server else (self._storage / ARTIFACTS / name).as_uri()
        if existing is None:
            # Without this, MLflow takes a run with a table of answers for a chat assistant's, and hides its curves.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            try:
                return str(self.client.create_experiment(name, artifact_location=location, tags=kind))
            except MlflowException:
                # The lock excludes launches with this folder of all runs. Another launch may have been faster.
                existing = self.client.get_experiment_by_name(name)
                if existing is None:
                    raise
        if existing.lifecycle_stage == "deleted":
            command = f"MLFLOW_TRACKING_URI={self._display_uri} mlflow experiments restore -x {existing.experiment_id}"
            raise RequirementError(
                f"the experiment {name!r} was deleted in MLflow. Restore it with `{command}`, which also restores "
                "all of its runs that were deleted one by one, or choose another `name` in the spec"
            )
        self.relocate(existing)
        return str(existing.experiment_id)

    def describe(self) -> StoreDescription:
        """Describe the store with its versions.

        Raises:
            RequirementError: A server does not answer.
        """
        client = f"MLflow {mlflow.__version__} here"
        with self.translated_errors():
            if not self.is_server:
                return StoreDescription(f"{self._display_uri}, schema {_schema_version(self.uri)}; {client}")
            credentials = get_default_host_creds(self.uri)  # type: ignore[no-untyped-call]
            answer = http_request(credentials, "/version", "GET", max_retries=0)  # type: ignore[no-untyped-call]
        server = answer.text.strip()
        text = f"{self._display_uri}, MLflow {server}; {client}"
        is_older = Version(server) < Version(mlflow.__version__)
        return StoreDescription(text, f"the server's MLflow {server} is older than the client's" if is_older else "")

    def link(self, experiment_id: str, run_id: str) -> str:
        """Return the address of a run's page; for a database, with the command that serves it."""
        page = f"#/experiments/{experiment_id}/runs/{run_id}?{WORKFLOW}"
        if self.is_server:
            return f"{self._display_uri.rstrip('/')}/{page}"
        command = "runner ui" if self._storage == Path("runs").resolve() else "runner ui SPEC"
        return f"http://127.0.0.1:5000/{page} while `{command}` serves {self._display_uri}"

    def serve_command(self, host: str, port: int, allowed_hosts: Sequence[str]) -> Sequence[str]:
        """Return the command that serves MLflow's pages on this store.

        Args:
            host: The network address.
            port: The port.
            allowed_hosts: Names of this machine by which browsers may address the server, beside its own names and
                those that MLflow allows.

        Raises:
            RequirementError: The store is a server, which has its own pages.
        """
        if self.is_server:
            raise RequirementError(
                f"the tracker's store is a server that serves its own pages: open {self._display_uri} in a browser"
            )
        # MLflow's jobs evaluate chats with language models; they would start eight unneeded processes. Usage data must
        # not leave the machine.
        settings = {JOB_EXECUTION: "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        names = _allowed_hosts(host, port, allowed_hosts)
        if names and (allowed_hosts or ALLOWED_HOSTS not in os.environ):
            settings[ALLOWED_HOSTS] = ",".join(names)
        environment = [
            f"{name}={value}" for name, value in settings.items() if name == ALLOWED_HOSTS or name not in os.environ
        ]
        return (
            *(("/usr/bin/env", *environment) if environment else ()),
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", self.uri),
            *("--artifacts-destination", (self._storage / ARTIFACTS).as_uri()),
            *("--host", host, "--port", str(port), "--workers", "1"),
        )


def _advice(message: str) -> str:
    """Say what to do about an error of a tracking server; the sentence continues with an address."""
    if INVALID_HOST in message:
        return "start the server with `--allowed-hosts` and the host name of this address, or name"
    if re.search(r"\b(401|403)\b", message):
        return "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN), or name"
    return "start it, or name"


def _allowed_hosts(host: str, port: int, names: Sequence[str]) -> list[str]:
    """Return the values of the header `Host` that the server accepts; empty for MLflow's default, which is loopback."""
    if not names and is_loopback(host):
        return []
    # This import loads the whole server, which no launch needs.
    from mlflow.server.security_utils import get_default_allowed_hosts  # noqa: PLC0415

    own = {platform.node(), socket.getfqdn(), *names, host} - {"", "0.0.0.0", "::"}
    return [*get_default_allowed_hosts(), *(value for name in sorted(own) for value in (name, f"{name}:{port}"))]


def _check_connection(uri: str) -> None:
    """Connect to a database server once, because MLflow would repeat a refused connection for minutes.

    Raises:
        SQLAlchemyError: The server refuses, or does not answer in time.
        ImportError: Its driver is not installed.
    """
    timed = uri.startswith(("postgresql", "mysql"))
    engine = create_engine(uri, connect_args={"connect_timeout": CONNECT_SECONDS} if timed else {})
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _schema_version(uri: str) -> str:
    """Return the number of the migration that last changed the tables of a database."""
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
    finally:
        engine.dispose()


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
        apply_umask(unfinished)  # SQLite gives others no right to write, whatever the umask is.
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


def _relocate(database: Path, recorded: str, location: str) -> None:
    """Correct the recorded artifact folders in the database of a folder of all runs that has been moved or copied.

    MLflow records absolute paths, so it would write the artifacts of new runs to the old path.

    Args:
        database: The SQLite database in the folder of all runs.
        recorded: The recorded artifact folder of an experiment, as a `file` URI.
        location: Where this folder is now, as a `file` URI.
    """
    end = f"{ARTIFACTS}/{location.rpartition('/')[2]}"
    old, new = recorded.removesuffix(end), location.removesuffix(end)
    if recorded == location or not recorded.startswith("file:") or not recorded.endswith(f"/{end}"):
        return
    with suppress(OSError):
        if _path_of(old).samefile(_path_of(new)):
            return  # The same folder by another path, for example through a link.
    columns = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        for table, column in columns:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old), old),
            )


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


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
