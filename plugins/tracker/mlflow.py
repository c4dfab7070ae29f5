"""Shows runs in MLflow: parameters, curves, data set, predictions, files, model; one MLflow run a trial."""

from __future__ import annotations

import getpass
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

# MLflow reads this when it is imported; what somebody runs is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# With MLflow's own seven retries a server that is away holds the delivery up for minutes. One is enough, since the
# engine delivers later what was missed; and a server that takes a minute to answer is still heard.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "90")
# It would print the addresses of runs into a command's JSON, and bars into its messages.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# Its bars would stand between the lines of a command that fetches many small files.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Run, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_BRANCH,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAMS_TAGS_PER_BATCH, MAX_TAG_VAL_LENGTH

from plugins.tracker import mlflow_content as content
from plugins.tracker.mlflow_content import LoggedMetrics, last_told, milliseconds
from plugins.tracker.mlflow_options import MlflowOptions
from plugins.tracker.mlflow_store import Store
from runner.errors import RequirementError
from runner.stages import TrackedRun

FINGERPRINT_TAG = "mmre.fingerprint"
"""By which a run is found again, with the two that name its place: one spec may be run by several people."""
HOST_TAG, FOLDER_TAG = "mmre.host", "mmre.run_dir"

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}
"""MLflow has no word for what a search has pruned; the tag `mmre.status` has."""
FILES_AT_START = ("spec.yaml", "plan.json", "record.json", "packages.txt", "workspace.diff", "code.diff")
FILES = (
    *("spec.yaml", "plan.json", "record.json", "events.jsonl"),
    *("parameters.jsonl", "predictions.jsonl", "scores.jsonl", "metrics.json"),
)
"""What is copied from the run directory of a trial: when it begins, and what has come or grown at its end."""
SWEEP_FILE = "sweep.json"
SWEEP_FIGURES = ("parallel_coordinates.html", "importances.html")
"""What is copied from the folder of a sweep besides; the figures are for people, and not fetched again."""


class MlflowTracker:
    """The writer of one trial to MLflow; see `runner.stages.Tracker`."""

    def __init__(self, options: MlflowOptions, storage: Path) -> None:
        """Open the store, making it where there is none.

        Raises:
            UnmetError: It cannot be opened.
        """
        self._options = options
        self._store = Store(options.uri, storage)
        self._client = self._store.client
        self._tracked: TrackedRun | None = None
        self._run: Run | None = None
        self._ledger = LoggedMetrics()
        self._last_event: int | None = None

    def start(self, run: TrackedRun) -> str:
        """Open the trial's run, or take up the one that was begun for the same folder.

        Raises:
            UnmetError: The store cannot be used.
        """
        self._tracked = run
        with self._store.explained():
            with self._store.locked():
                experiment_id = self._store.experiment(run.experiment)
                self._run = self._find(experiment_id) or self._create(experiment_id)
            self._client.update_run(self._run_id, status="RUNNING")
            self._client.log_batch(self._run_id, tags=_tags(run))
            self._ledger = LoggedMetrics(
                metric
                for key in self._run.data.metrics
                for metric in self._client.get_metric_history(self._run_id, key)
            )
            self._send_parameters(run.parameters)
            trained = run.parameters.get("trainer") != "none"
            self._client.log_inputs(self._run_id, list(content.dataset_inputs(run.dataset, trained=trained)))
            self._send_files(*(run.run_dir / name for name in FILES_AT_START))
        return self._run_id

    def deliver(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Log the metrics among events, each key and step once, whatever is delivered again."""
        metrics = self._ledger.new(events)
        for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            batch = metrics[start : start + MAX_METRICS_PER_BATCH]
            self._client.log_batch(self._run_id, metrics=batch)
            self._ledger.note(batch)
        if events:
            self._last_event = milliseconds(events[-1])

    def finish(self, status: Literal["finished", "failed", "interrupted", "pruned"]) -> None:
        """Send files, and of a finished trial predictions and model; set the final status in any case."""
        folder = self._started().run_dir
        try:
            self._client.log_batch(self._run_id, tags=[RunTag("mmre.status", status)])
            self._send_files(*(folder / name for name in (*FILES, SWEEP_FILE, *SWEEP_FIGURES)))
            if status == "finished":
                self._send_tables(folder)
                self._send_model(folder / "model")
        finally:
            ended = self._last_event or last_told(folder / "events.jsonl")
            self._client.set_terminated(self._run_id, STATUSES[status], end_time=ended)

    def attach(self, run_id: str, file: Path, folder: str) -> None:
        """Add a file to the artifacts of a run, in place of an earlier one of its name."""
        self._client.log_artifact(run_id, str(file), folder or None)

    def fetch(self, experiment: str, into: Path) -> Sequence[Path]:
        """Bring the files of an experiment's trials here, and of its sweep; of several of a name the newest.

        Raises:
            UnmetError: There is no such experiment, or its artifacts cannot be had.
        """
        folders: dict[Path, None] = {}
        with self._store.explained():
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                raise RequirementError(f"the tracker has no experiment {experiment!r}")
            oldest_first = ["attributes.start_time ASC"]
            for run in self._client.search_runs([found.experiment_id], order_by=oldest_first):
                if FOLDER_TAG in run.data.tags:
                    folders[self._fetch_run(run, into)] = None
        return list(folders)

    def link(self) -> str:
        """The run's page; for a database, with the command that serves it."""
        assert self._run is not None, "start comes first"
        return self._store.link(self._run.info.experiment_id, self._run_id)

    def serve_command(self, host: str, port: int) -> Sequence[str]:
        """The command that serves MLflow's pages on this store.

        Raises:
            UnmetError: The store is a server, which has its own pages.
        """
        return self._store.serve_command(host, port)

    @property
    def _run_id(self) -> str:
        assert self._run is not None, "start comes first"
        return str(self._run.info.run_id)

    def _started(self) -> TrackedRun:
        assert self._tracked is not None, "start comes first"
        return self._tracked

    def _find(self, experiment_id: str) -> Run | None:
        """The run that was begun for this folder.

        A request that was taken for lost may have made it and the next one another: of these the first is kept.
        """
        run = self._started()
        wanted = f"tags.`{FINGERPRINT_TAG}` = '{run.fingerprint}'"
        found = self._client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"])
        own = [each for each in found if each.info.run_id == run.known_as or _is_of(each, run)]
        for surplus in own[1:]:
            if not surplus.data.metrics:
                self._client.delete_run(surplus.info.run_id)
        return own[0] if own else None

    def _create(self, experiment_id: str) -> Run:
        run = self._started()
        told = content.description(run.parameters, run.chosen)
        fixed = {
            FINGERPRINT_TAG: run.fingerprint,
            HOST_TAG: platform.node(),
            FOLDER_TAG: str(run.run_dir),
            MLFLOW_RUN_NOTE: told,
            MLFLOW_USER: _user(),
        }
        return self._client.create_run(experiment_id, tags=fixed, run_name=run.trial)

    def _send_parameters(self, plan: Mapping[str, Any]) -> None:
        """Log the parameters that are not there yet; those that are stay, since MLflow changes none."""
        assert self._run is not None
        known = self._run.data.params
        parameters = [each for each in content.parameters(plan) if each.key not in known]
        for start in range(0, len(parameters), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self._run_id, params=parameters[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def _send_files(self, *files: Path) -> None:
        for file in files:
            if file.exists():
                self._client.log_artifact(self._run_id, str(file))

    def _send_tables(self, folder: Path) -> None:
        """Send predictions beside references, and the wrong ones that have pictures."""
        with tempfile.TemporaryDirectory() as place:
            written = content.write_tables(folder, Path(place))
            self._send_files(*written)
        if (folder / "mistakes").is_dir():
            self._client.log_artifacts(self._run_id, str(folder / "mistakes"), "mistakes")
        if written:
            listed = content.listed(file.name for file in written)
            self._client.log_batch(self._run_id, tags=[RunTag(content.LISTED_TAG, listed)])

    def _fetch_run(self, run: Run, into: Path) -> Path:
        folder = into / Path(run.data.tags[FOLDER_TAG]).name
        folder.mkdir(parents=True, exist_ok=True)
        there = {entry.path for entry in self._client.list_artifacts(run.info.run_id)}
        for name in (*FILES, SWEEP_FILE):
            if name in there:
                self._client.download_artifacts(run.info.run_id, name, str(folder))
        return folder

    def _send_model(self, model: Path) -> None:
        """Note where the model lies, and copy it if it is small enough."""
        if not model.is_dir():
            return
        self._client.log_batch(self._run_id, tags=[RunTag("mmre.model_uri", model.resolve().as_uri())])
        size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
        if size <= self._options.max_artifact_mb * 1e6:
            self._client.log_artifacts(self._run_id, str(model), "model")


def _is_of(found: Run, run: TrackedRun) -> bool:
    """Whether a run of the same fingerprint was begun for the same folder."""
    tags = found.data.tags
    return tags.get(FOLDER_TAG) == str(run.run_dir) and tags.get(HOST_TAG, platform.node()) == platform.node()


def _tags(run: TrackedRun) -> list[RunTag]:
    """The tags that a later launch may change: the sweep that a trial belongs to, its place in it, its code."""
    record = run.run_dir / "record.json"
    tree = json.loads(record.read_text(encoding="utf-8")).get("workspace", {}) if record.exists() else {}
    told = {
        MLFLOW_PARENT_RUN_ID: run.parent,
        MLFLOW_SOURCE_NAME: str(run.spec_file),
        MLFLOW_SOURCE_TYPE: "LOCAL",
        MLFLOW_GIT_COMMIT: tree.get("commit"),
        MLFLOW_GIT_BRANCH: tree.get("branch"),
        "mmre.experiment": run.experiment,
        "mmre.status": "running",
        **{f"mmre.{name}": value for name, value in run.tags.items()},
    }
    return [RunTag(name, content.fitted_text(str(value), MAX_TAG_VAL_LENGTH)) for name, value in told.items() if value]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need have no name
        return str(os.getuid())
