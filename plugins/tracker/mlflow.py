"""Shows runs in MLflow: parameters, curves, data set, predictions, artifacts and the model, one run a trial."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

# MLflow reads this when it is imported; what a researcher runs is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from plugins.tracker.mlflow_options import MlflowOptions
from runner.errors import SpecError, UnmetError
from runner.stages import TrackedRun

FINGERPRINT_TAG = "mmre.fingerprint"
"""By which a run is found again."""
STATUSES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
BATCH = {"params": 100, "metrics": 1000}
"""What MLflow takes in one request."""
MAX_PARAM_LENGTH = 6000
"""Characters of a parameter that MLflow keeps; the whole value stands in the plan, which is an artifact."""
MAX_DIGEST_LENGTH = 36
FILES = ("spec.yaml", "plan.json", "record.json", "metrics.json", "scores.jsonl", "predictions.jsonl")
TABLE = "predictions.json"

# Migrations of a new database are announced line by line, which tells a user nothing.
for _name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class MlflowTracker:
    """The writer of one trial to MLflow; see `runner.stages.Tracker`."""

    def __init__(self, options: MlflowOptions, storage: Path) -> None:
        """Open the store, making it where there is none.

        Raises:
            UnmetError: It cannot be opened.
        """
        self._options, self._storage = options, storage
        self._uri = options.uri or f"sqlite:///{storage / 'mlflow.db'}"
        self._run: Run | None = None
        self._tracked: TrackedRun | None = None
        self._last_steps: dict[str, int] = {}

    def start(self, run: TrackedRun) -> str:
        """Open the trial's run, or take up the one of the same fingerprint.

        Raises:
            UnmetError: The store does not answer.
        """
        self._tracked = run
        self._storage.mkdir(parents=True, exist_ok=True)
        try:
            # Two processes that migrate a new database at once: one of them would crash.
            with FileLock(self._storage / ".mlflow.lock"):
                self._client = MlflowClient(tracking_uri=self._uri)
                self._run = self._find_run(self._experiment(run.experiment)) or self._new_run()
        except Exception as error:  # whatever the store's own client raises: SQLAlchemy, requests, MLflow
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnmetError(f"the tracker's store {self._uri} cannot be opened: {reason}") from error
        self._client.update_run(self._run_id, status="RUNNING")
        self._last_steps = {key: self._last_step(key) for key in self._run.data.metrics}
        self._log_parameters(run.parameters)
        self._log_dataset(run)
        return self._run_id

    @property
    def _run_id(self) -> str:
        assert self._run is not None
        return str(self._run.info.run_id)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        location = None if self._options.uri else (self._storage / "mlartifacts" / name).as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _find_run(self, experiment_id: str) -> Run | None:
        self._experiment_id = experiment_id
        assert self._tracked is not None
        wanted = f"tags.`{FINGERPRINT_TAG}` = '{self._tracked.fingerprint}'"
        found = self._client.search_runs([experiment_id], wanted, max_results=1)
        return found[0] if found else None

    def _new_run(self) -> Run:
        assert self._tracked is not None
        tags = {FINGERPRINT_TAG: self._tracked.fingerprint, "mmre.run_dir": str(self._tracked.run_dir)}
        return self._client.create_run(self._experiment_id, tags=tags, run_name=self._tracked.trial)

    def _last_step(self, key: str) -> int:
        return max(int(each.step) for each in self._client.get_metric_history(self._run_id, key))

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        assert self._run is not None
        # A parameter of MLflow never changes: one that is there stays (where it ran may differ after a resume).
        known = self._run.data.params
        fitted = [Param(key, _fitted(value)) for key, value in parameters.items() if key not in known]
        for start in range(0, len(fitted), BATCH["params"]):
            self._client.log_batch(self._run_id, params=fitted[start : start + BATCH["params"]])

    def _log_dataset(self, run: TrackedRun) -> None:
        info = run.dataset
        dataset = Dataset(
            name=info.name,
            digest=info.fingerprint[:MAX_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": info.location, "fingerprint": info.fingerprint}),
            profile=json.dumps({"num_samples": dict(info.num_samples), "labels": list(info.labels)}),
        )
        context = InputTag("mlflow.data.context", "train and test")
        self._client.log_inputs(self._run_id, [DatasetInput(dataset, [context])])

    def deliver(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Log the metrics among events, each key and step at most once."""
        metrics = []
        for event in events:
            if event["kind"] == "metrics":
                metrics += self._new_metrics(event)
        for start in range(0, len(metrics), BATCH["metrics"]):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + BATCH["metrics"]])
        for metric in metrics:
            self._last_steps[metric.key] = max(metric.step, self._last_steps.get(metric.key, -1))

    def _new_metrics(self, event: Mapping[str, Any]) -> list[Metric]:
        time = round(datetime.fromisoformat(event["time"]).timestamp() * 1000)
        step = event["step"] or 0
        return [
            Metric(key, float(value), time, step)
            for key, value in event["values"].items()
            if value is not None and step > self._last_steps.get(key, -1)
        ]

    def finish(self, status: Literal["finished", "failed", "interrupted"]) -> None:
        """Log files, table and model, and set the final status."""
        assert self._tracked is not None
        folder = self._tracked.run_dir
        for name in FILES:
            if (folder / name).exists():
                self._client.log_artifact(self._run_id, str(folder / name))
        if status == "finished":
            self._log_table(folder)
            self._log_model(folder / "model")
        self._client.set_terminated(self._run_id, STATUSES[status])

    def _log_table(self, folder: Path) -> None:
        # MLflow appends to a table that is there: once is enough.
        if any(entry.path == TABLE for entry in self._client.list_artifacts(self._run_id)):
            return
        outputs, scores = (_rows(folder / name) for name in ("predictions.jsonl", "scores.jsonl"))
        rows = [
            {
                "id": output["id"],
                "output": output["output"],
                "reference": score["reference"],
                "parsed": score["ending"],
                "notes": "; ".join(score["notes"]),
                **{f"{name}.{key}": value for name, counts in score["counts"].items() for key, value in counts.items()},
            }
            for output, score in zip(outputs, scores, strict=True)
        ]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = {column: [row.get(column) for row in rows] for column in columns}
        self._client.log_table(self._run_id, data=table, artifact_file=TABLE)

    def _log_model(self, model: Path) -> None:
        if not model.is_dir():
            return
        size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file()) / 1e6
        self._client.log_batch(self._run_id, tags=[RunTag("mmre.model_uri", model.as_uri())])
        if size <= self._options.max_artifact_mb:
            self._client.log_artifacts(self._run_id, str(model), "model")

    def link(self) -> str:
        """The run's page; for a database, with the command that serves it."""
        page = f"#/experiments/{self._experiment_id}/runs/{self._run_id}"
        if self._uri.startswith(("http://", "https://")):
            return f"{self._uri.rstrip('/')}/{page}"
        return f"runner ui, then http://127.0.0.1:5000/{page}"

    def serve_command(self, host: str, port: int) -> Sequence[str]:
        """The command that serves MLflow's pages on this store.

        Raises:
            SpecError: The store is a server already.
        """
        if self._uri.startswith(("http://", "https://")):
            raise SpecError(f"the spec's tracker is a server already: open {self._uri}", path=("tracker", "uri"))
        return [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._uri,
            "--default-artifact-root", (self._storage / "mlartifacts").as_uri(),
            "--host", host, "--port", str(port), "--workers", "1",
        ]  # fmt: skip


def _fitted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 1] + "…"


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
