"""Shows runs in MLflow: parameters, curves, data set, predictions, files, model; one MLflow run a trial."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

# MLflow reads this when it is imported; what somebody runs is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# With MLflow's own seven retries a server that is away holds a launch up for minutes. Two are enough, since the
# engine delivers later what was missed.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow.entities import Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAMS_TAGS_PER_BATCH

from plugins.tracker import mlflow_content as content
from plugins.tracker.mlflow_metrics import Ledger, milliseconds
from plugins.tracker.mlflow_options import MlflowOptions
from plugins.tracker.mlflow_store import Store
from runner.stages import TrackedRun

FINGERPRINT_TAG = "mmre.fingerprint"
"""By which a run is found again."""

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}
"""MLflow has no word for what a search has pruned; the tag `mmre.status` has."""
FILES = ("plan.json", "record.json", "metrics.json", "scores.jsonl", "predictions.jsonl", "events.jsonl")
"""What is copied from the run directory of a trial, beside the spec."""
SWEEP_FILES = ("sweep.json", "parallel_coordinates.html", "importances.html")
"""What is copied from the folder of a sweep besides."""

TABLE = "predictions.json"


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
        self._ledger = Ledger()
        self._last_event: int | None = None

    def start(self, run: TrackedRun) -> str:
        """Open the trial's run, or take up the one of the same fingerprint.

        Raises:
            UnmetError: The store cannot be used.
        """
        self._tracked = run
        with self._store.explained():
            with self._store.locked():
                experiment_id = self._store.experiment(run.experiment)
                self._run = self._find(experiment_id) or self._create(experiment_id)
            self._client.update_run(self._run_id, status="RUNNING")
            self._client.log_batch(self._run_id, tags=self._tags(run))
            self._ledger = Ledger(
                metric
                for key in self._run.data.metrics
                for metric in self._client.get_metric_history(self._run_id, key)
            )
            self._send_parameters(run.parameters)
            self._client.log_inputs(self._run_id, [content.dataset_input(run.dataset)])
            self._send_files(run.spec_file, run.run_dir / "plan.json", run.run_dir / "record.json")
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
        tracked = self._started()
        try:
            self._client.log_batch(self._run_id, tags=[RunTag("mmre.status", status)])
            self._send_files(tracked.spec_file, *(tracked.run_dir / name for name in (*FILES, *SWEEP_FILES)))
            if status == "finished":
                self._send_predictions(tracked.run_dir)
                self._send_model(tracked.run_dir / "model")
        finally:
            self._client.set_terminated(self._run_id, STATUSES[status], end_time=self._last_event)

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
        wanted = f"tags.`{FINGERPRINT_TAG}` = '{self._started().fingerprint}'"
        latest_first = ["attributes.start_time DESC"]
        found = self._client.search_runs([experiment_id], wanted, max_results=1, order_by=latest_first)
        return found[0] if found else None

    def _create(self, experiment_id: str) -> Run:
        tracked = self._started()
        tags = {FINGERPRINT_TAG: tracked.fingerprint, "mmre.run_dir": str(tracked.run_dir)}
        return self._client.create_run(experiment_id, tags=tags, run_name=tracked.trial)

    def _tags(self, run: TrackedRun) -> list[RunTag]:
        """The tags that a later launch may change: the sweep that a trial belongs to, and its place in it."""
        nested = {MLFLOW_PARENT_RUN_ID: run.parent} if run.parent else {}
        told = {**nested, **{f"mmre.{name}": value for name, value in run.tags.items()}}
        return [RunTag(name, value) for name, value in told.items()]

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

    def _send_predictions(self, folder: Path) -> None:
        table = content.prediction_table(folder)
        if table is None:
            return
        # MLflow would append to the table of an earlier launch.
        if any(entry.path == TABLE for entry in self._client.list_artifacts(self._run_id)):
            assert self._run is not None
            artifacts = get_artifact_repository(self._run.info.artifact_uri, tracking_uri=self._store.uri)
            artifacts.delete_artifacts(TABLE)  # type: ignore[no-untyped-call]
        self._client.log_table(self._run_id, data=table, artifact_file=TABLE)

    def _send_model(self, model: Path) -> None:
        """Note where the model lies, and copy it if it is small enough."""
        if not model.is_dir():
            return
        self._client.log_batch(self._run_id, tags=[RunTag("mmre.model_uri", model.resolve().as_uri())])
        size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
        if size <= self._options.max_artifact_mb * 1e6:
            self._client.log_artifacts(self._run_id, str(model), "model")
