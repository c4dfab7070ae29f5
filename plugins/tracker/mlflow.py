"""The tracker plugin `mlflow`: logs parameters, metrics, data set, predictions, files and model; one run per trial."""

from __future__ import annotations

import getpass
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from plugins.tracker.mlflow_options import ENVIRONMENT

# MLflow reads some of these variables when it is imported.
os.environ.update({**ENVIRONMENT, **os.environ})

from mlflow.entities import LifecycleStage, Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
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
from plugins.tracker.mlflow_connection import WORKFLOW, Store
from plugins.tracker.mlflow_content import LoggedMetrics
from plugins.tracker.mlflow_options import MlflowOptions
from runner.errors import RequirementError
from runner.stages import StoreDescription, TrackedRun

FINGERPRINT_TAG = "mmre.fingerprint"
"""Tag that identifies a run, together with host and folder: several people may run the same spec."""
HOST_TAG, FOLDER_TAG = "mmre.host", "mmre.run_dir"
BEST_TAG = "mmre.best"
"""Tag of a sweep: the trials of its best point. `mmre.best.<path>` holds each of the point's parameters."""

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}
"""MLflow status of each run status. MLflow has no status for pruned runs; the tag `mmre.status` has one."""
CLAIMS_FILE = "claims.jsonl"
"""The registry of a sweep's claims, which is uploaded before the first result."""
FILES_AT_START = ("spec.yaml", "plan.json", "record.json", "packages.txt", "workspace.diff", "code.diff", CLAIMS_FILE)
FILES = (
    *("spec.yaml", "plan.json", "record.json", "events.jsonl"),
    *("parameters.jsonl", "predictions.jsonl", "scores.jsonl", "metrics.json", CLAIMS_FILE),
)
"""Files copied from the run directory: `FILES_AT_START` when the run starts, `FILES` when it ends."""
SWEEP_FILE = "sweep.json"
SWEEP_PLOTS = ("parallel_coordinates.html", "importances.html")
"""Also copied from the folder of a sweep. The plots are for people; `download_runs` does not download them."""


class MlflowTracker:
    """Logs one trial, or one sweep, to MLflow; see `runner.stages.Tracker`."""

    def __init__(self, options: MlflowOptions, storage: Path) -> None:
        """Open the store; create it if it does not exist.

        Raises:
            RequirementError: The store cannot be opened.
        """
        self._options = options
        self._store = Store(options.uri, storage)
        self._client = self._store.client
        self._tracked: TrackedRun | None = None
        self._run: Run | None = None
        self._logged = LoggedMetrics()
        self._last_event: int | None = None

    def start(self, run: TrackedRun) -> str:
        """Create the run in MLflow, or reopen the one created earlier for the same folder.

        Raises:
            RequirementError: The store cannot be used.
        """
        self._tracked = run
        with self._store.translated_errors():
            with self._store.locked():
                experiment_id = self._store.experiment(run.experiment)
                self._run = self._find(experiment_id) or self._create(experiment_id)
            self._store.check_artifact_uri(self._run.info.artifact_uri)
            self._client.update_run(self._run_id, status="RUNNING", name=_current_name(run, self._run))
            self._client.log_batch(self._run_id, tags=_tags(run))
            self._logged = LoggedMetrics(
                metric
                for key in self._run.data.metrics
                for metric in self._client.get_metric_history(self._run_id, key)
            )
            self._send_parameters(run.parameters)
            trained = run.parameters.get("trainer") != "none"
            self._client.log_inputs(self._run_id, list(content.dataset_inputs(run.dataset, trained=trained)))
            self._send_files(*(run.run_dir / name for name in FILES_AT_START))
        return self._run_id

    def log_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Log the metrics of events, each key and step once, even if an event is delivered again."""
        self._log(self._logged.select_new(events))
        if events:
            self._last_event = content.milliseconds(events[-1])

    def _log(self, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            batch = metrics[start : start + MAX_METRICS_PER_BATCH]
            self._client.log_batch(self._run_id, metrics=batch)
            self._logged.add(batch)

    def finish(self, status: Literal["finished", "failed", "interrupted", "pruned"]) -> None:
        """Upload files, and the predictions and model of a finished trial; set the final status in any case."""
        folder = self._started().run_dir
        try:
            self._client.log_batch(self._run_id, tags=[RunTag("mmre.status", status)])
            self._send_files(*(folder / name for name in (*FILES, SWEEP_FILE, *SWEEP_PLOTS)))
            self._send_small_folder(folder / "profile")
            if status == "finished":
                self._send_tables(folder)
                self._send_model(folder / "model")
            self._send_best(folder / SWEEP_FILE)
        finally:
            ended = self._last_event or content.last_event_time(folder / "events.jsonl")
            self._client.set_terminated(self._run_id, STATUSES[status], end_time=ended)

    def log_file(self, run_id: str, file: Path, folder: str) -> None:
        """Add a file to the artifacts of a run; replace an earlier file of the same name."""
        self._store.relocate(self._client.get_experiment(self._client.get_run(run_id).info.experiment_id))
        self._store.check_artifact_uri(self._client.get_run(run_id).info.artifact_uri)
        self._client.log_artifact(run_id, str(file), folder or None)

    def download_runs(self, experiment: str, into: Path) -> Sequence[Path]:
        """Download the files of an experiment's trials and of its sweep; of several with the same name, the newest.

        Raises:
            RequirementError: The experiment does not exist, or its artifacts cannot be read.
        """
        folders: dict[Path, None] = {}
        with self._store.translated_errors():
            existing = self._client.get_experiment_by_name(experiment)
            if existing is None:
                raise RequirementError(f"the tracker has no experiment {experiment!r}")
            self._store.relocate(existing)
            oldest_first = ["attributes.start_time ASC"]
            for run in self._search_runs(existing.experiment_id, "", oldest_first):
                if FOLDER_TAG in run.data.tags:
                    folders[self._download_run(run, into)] = None
        return list(folders)

    def find_run(self, run_id: str) -> Literal["present", "deleted", "missing"]:
        """Look a run up by its id; one of a deleted experiment is deleted.

        Raises:
            RequirementError: The store cannot be used.
        """
        with self._store.translated_errors():
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                    raise
                return "missing"
        return "present" if run.info.lifecycle_stage == LifecycleStage.ACTIVE else "deleted"

    def link(self) -> str:
        """Return the address of the run's page; for a database, with the command that serves it."""
        assert self._run is not None, "call start first"
        return self._store.link(self._run.info.experiment_id, self._run_id)

    def describe_store(self) -> StoreDescription:
        """Describe the store with its versions; see `runner.stages.DescribesStore`.

        Raises:
            RequirementError: A server does not answer.
        """
        return self._store.describe()

    def serve_command(self, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> Sequence[str]:
        """Return the command that serves MLflow's pages on this store.

        Raises:
            RequirementError: The store is a server, which has its own pages.
        """
        return self._store.serve_command(host, port, allowed_hosts)

    def pages_path(self) -> str:
        """Return the path of the page with MLflow's experiments; without it, MLflow opens those for chat assistants."""
        return f"#/experiments?{WORKFLOW}"

    @property
    def _run_id(self) -> str:
        assert self._run is not None, "call start first"
        return str(self._run.info.run_id)

    def _started(self) -> TrackedRun:
        assert self._tracked is not None, "call start first"
        return self._tracked

    def _find(self, experiment_id: str) -> Run | None:
        """Find the run that was created earlier for this folder.

        A request that seemed to fail may have created a run, and its repetition a second one. The first one is used.
        """
        run = self._started()
        query = f"tags.`{FINGERPRINT_TAG}` = '{run.fingerprint}'"
        candidates = self._search_runs(experiment_id, query, ["attributes.start_time ASC"])
        matches = [
            candidate
            for candidate in candidates
            if candidate.info.run_id == run.existing_run_id or _is_same_folder(candidate, run)
        ]
        for duplicate in matches[1:]:
            if not duplicate.data.metrics:
                self._client.delete_run(duplicate.info.run_id)
        return matches[0] if matches else None

    def _search_runs(self, experiment_id: str, query: str, order_by: list[str]) -> Iterator[Run]:
        """Yield all runs that match a query; MLflow returns them in pages of a thousand."""
        token = None
        while True:
            page = self._client.search_runs([experiment_id], query, order_by=order_by, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, experiment_id: str) -> Run:
        run = self._started()
        tags = {
            FINGERPRINT_TAG: run.fingerprint,
            HOST_TAG: platform.node(),
            FOLDER_TAG: str(run.run_dir),
            MLFLOW_RUN_NOTE: content.description(run.parameters, run.non_default),
            MLFLOW_USER: _user(),
        }
        return self._client.create_run(experiment_id, tags=tags, run_name=_run_name(run.trial, run.tags))

    def _send_parameters(self, plan: Mapping[str, Any]) -> None:
        """Log the parameters that the run lacks; MLflow does not allow to change the others."""
        assert self._run is not None
        logged = self._run.data.params
        parameters = [param for param in content.parameters(plan) if param.key not in logged]
        for start in range(0, len(parameters), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self._run_id, params=parameters[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def _send_files(self, *files: Path) -> None:
        for file in files:
            if file.exists():
                _check_no_links(file)
                self._client.log_artifact(self._run_id, str(file))

    def _send_tables(self, folder: Path) -> None:
        """Upload the tables of predictions and of mistakes, with the images of the mistakes."""
        if (folder / "mistakes.jsonl").exists():
            _check_no_links(folder / "mistakes.jsonl")
        with tempfile.TemporaryDirectory() as temporary:
            tables = content.write_tables(folder, Path(temporary))
            self._send_files(*tables)
        if (folder / "mistakes").is_dir():
            _check_no_links(folder / "mistakes")
            self._client.log_artifacts(self._run_id, str(folder / "mistakes"), "mistakes")
        if tables:
            value = content.tables_tag(file.name for file in tables)
            self._client.log_batch(self._run_id, tags=[RunTag(content.TABLES_TAG, value)])

    def _send_best(self, sweep_file: Path) -> None:
        """Log the metrics of a sweep's best point on the sweep's run, and its parameters as tags.

        Tags, because the best point may change with a later launch, and MLflow does not allow to change parameters.
        """
        best = content.best_point(sweep_file) if sweep_file.exists() else None
        if best is None:
            return
        event = {"time": datetime.now(UTC).isoformat(), "kind": "metrics", "step": None, "values": best.metrics}
        self._log(self._logged.select_new([event]))
        tags = {f"{BEST_TAG}.{path}": content.as_text(value) for path, value in best.parameters.items()}
        tags |= {BEST_TAG: ", ".join(best.trials)}
        entries = [_fitted_tag(name, value) for name, value in tags.items()]
        stored = {name for name in self._client.get_run(self._run_id).data.tags if name.startswith(f"{BEST_TAG}.")}
        for outdated in stored - {entry.key for entry in entries}:
            self._client.delete_tag(self._run_id, outdated)
        self._client.log_batch(self._run_id, tags=entries)

    def _download_run(self, run: Run, into: Path) -> Path:
        name = Path(run.data.tags[FOLDER_TAG]).name
        if name in {"", ".."}:
            raise RequirementError(f"run {run.info.run_id}: its tag {FOLDER_TAG} names no folder of a trial")
        self._store.check_artifact_uri(run.info.artifact_uri)
        folder = into / name
        folder.mkdir(parents=True, exist_ok=True)
        available = {entry.path for entry in self._client.list_artifacts(run.info.run_id)}
        for name in (*FILES, SWEEP_FILE):
            if name in available:
                self._client.download_artifacts(run.info.run_id, name, str(folder))
        return folder

    def _send_model(self, model: Path) -> None:
        """Log the path of the model, and upload it if it is small enough."""
        if not model.is_dir():
            return
        self._client.log_batch(self._run_id, tags=[RunTag("mmre.model_uri", model.resolve().as_uri())])
        self._send_small_folder(model)

    def _send_small_folder(self, folder: Path) -> None:
        """Upload a folder if it exists and is not larger than `max_artifact_mb`."""
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if folder.is_dir() and size <= self._options.max_artifact_mb * 1e6:
            _check_no_links(folder)
            self._client.log_artifacts(self._run_id, str(folder), folder.name)


def _check_no_links(path: Path) -> None:
    """Check that a file of a run, or a folder with all that it holds, is no link, which could lead to a private file.

    Raises:
        RequirementError: There is a link.
    """
    for file in (path, *path.rglob("*")):
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise RequirementError(f"{file}: is a link or no regular file, and is not uploaded; replace it by a copy")


def _is_same_folder(candidate: Run, run: TrackedRun) -> bool:
    """Whether a run with the same fingerprint was created for the same folder on the same host."""
    tags = candidate.data.tags
    return tags.get(FOLDER_TAG) == str(run.run_dir) and tags.get(HOST_TAG, platform.node()) == platform.node()


def _tags(run: TrackedRun) -> list[RunTag]:
    """Build the tags that a later launch may change: the sweep of a trial, its number in the sweep, and its code."""
    record = run.run_dir / "record.json"
    tree = json.loads(record.read_text(encoding="utf-8")).get("workspace", {}) if record.exists() else {}
    tags = {
        MLFLOW_PARENT_RUN_ID: run.parent,
        MLFLOW_SOURCE_NAME: str(run.spec_file),
        MLFLOW_SOURCE_TYPE: "LOCAL",
        MLFLOW_GIT_COMMIT: tree.get("commit"),
        MLFLOW_GIT_BRANCH: tree.get("branch"),
        "mmre.experiment": run.experiment,
        "mmre.status": "running",
        **{f"mmre.{name}": value for name, value in run.tags.items()},
    }
    return [_fitted_tag(name, str(value)) for name, value in tags.items() if value]


def _fitted_tag(name: str, value: str) -> RunTag:
    return RunTag(content.valid_key(name), content.storable_text(value, MAX_TAG_VAL_LENGTH))


def _run_name(trial: str, tags: Mapping[str, str]) -> str:
    """Name a trial of a sweep by its arm or point and its seed (`baseline, seed 1`), any other run by its folder."""
    return f"{tags['group']}, seed {tags['seed']}" if "group" in tags and "seed" in tags else trial


def _current_name(run: TrackedRun, stored: Run) -> str:
    """Return the name that a run should have now; a name that a user typed stays.

    A later launch may move a trial into another sweep, and with it to another point.
    """
    earlier = {name.removeprefix("mmre."): value for name, value in stored.data.tags.items()}
    if stored.info.run_name in {run.trial, _run_name(run.trial, earlier)}:
        return _run_name(run.trial, run.tags)
    return str(stored.info.run_name)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        return str(os.getuid())
