"""Converts events, parameters and predictions to what MLflow stores: metrics, tags, tables."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS
from mlflow.utils.validation import (
    MAX_DATASET_DIGEST_SIZE,
    MAX_DATASET_NAME_SIZE,
    MAX_ENTITY_KEY_LENGTH,
    MAX_PARAM_VAL_LENGTH,
    MAX_TAG_VAL_LENGTH,
)

from runner.errors import DataError
from runner.files import read_json_object
from runner.stages import DatasetInfo

DATASET_CONTEXTS = {"train": "training", "test": "testing"}
"""MLflow's name for the use of a split; other splits keep their own name."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""Characters that PostgreSQL does not store in a text, or that UTF-8 cannot encode."""


def valid_key(name: str) -> str:
    """Convert a name to the characters and the length that MLflow allows.

    A name that is changed ends with six digits of its hash, so that two names never become the same key.
    """
    allowed = re.sub(r"[^\w/.\- :]", "_", name)
    # MLflow treats names as paths and requires them to be normalized.
    parts = [part for part in allowed.split("/") if part not in ("", ".", "..")]
    normalized = "/".join(parts)
    if normalized == name and 0 < len(name) <= MAX_ENTITY_KEY_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", errors="backslashreplace")).hexdigest()[:6]
    return f"{normalized[: MAX_ENTITY_KEY_LENGTH - 7].rstrip('/') or '_'}-{digest}"


def storable_text(text: str, limit: int) -> str:
    """Replace the characters that some store rejects, and cut a text that is longer than `limit` characters."""
    plain = _UNSTORABLE.sub("\ufffd", text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


def parameters(plan: Mapping[str, Any]) -> list[Param]:
    """Convert a flattened plan to parameters: strings unchanged, other values as JSON, long values cut.

    The plan, which is an artifact of the run, has the full values.
    """
    return [Param(valid_key(path), storable_text(as_text(value), MAX_PARAM_VAL_LENGTH)) for path, value in plan.items()]


def description(plan: Mapping[str, Any], non_default: Collection[str]) -> str:
    """List the settings that differ from their defaults, in Markdown; MLflow shows it above everything else.

    MLflow sorts parameters by name and cannot pin any. A prefix would make them harder to search, so every value of
    the plan, default or not, is a parameter under its own path.
    """
    rows = [f"| {_code(path)} | {_code(as_text(value))} |" for path, value in plan.items() if path in non_default]
    head = "Settings of the spec; everything else is a default.\n\n| setting | value |\n|---|---|\n"
    while rows and len(head) + sum(len(row) + 1 for row in rows) > MAX_TAG_VAL_LENGTH:
        rows.pop()
    return storable_text(head + "\n".join(rows), MAX_TAG_VAL_LENGTH)


def _code(text: str) -> str:
    """Write a text as code in a table of Markdown, so that MLflow shows its links, images and HTML as text."""
    shown = storable_text(" ".join(text.split()), 200)
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{padding}{shown}{padding}{fence}".replace("|", "\\|") if shown else ""


def as_text(value: Any) -> str:
    """Write a value of a plan: a string unchanged, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def dataset_inputs(info: DatasetInfo, *, trained: bool) -> Iterator[DatasetInput]:
    """Describe the splits of the data set. Their digest is the data set's fingerprint, cut to MLflow's length.

    Args:
        info: The data set.
        trained: Whether the run uses the training split.
    """
    for split, num_samples in info.num_samples.items():
        if split == "train" and not trained:
            continue
        profile = {
            "num_samples": num_samples,
            "split": split,
            "labels": list(info.labels),
            "fingerprint": info.fingerprint,
        }
        dataset = Dataset(
            # Of two inputs with the same name and digest, MLflow keeps only the first.
            name=storable_text(f"{info.name}/{split}", MAX_DATASET_NAME_SIZE),
            digest=info.fingerprint[:MAX_DATASET_DIGEST_SIZE],
            source_type="local",
            source=json.dumps({"uri": info.location}),
            profile=json.dumps(profile),
        )
        yield DatasetInput(dataset, [InputTag("mlflow.data.context", DATASET_CONTEXTS.get(split, split))])


METRIC_PREFIXES = {"metrics": "", "system": "system/"}
"""Event kinds that contain metrics, and the prefix of their names. MLflow shows `system/` metrics on their own page."""

TAIL_BYTES = 100_000
"""Bytes at the end of a log that are enough to contain its last event."""


class LoggedMetrics:
    """The metrics that a run has, so that a resumed training or a repeated delivery logs none twice."""

    def __init__(self, logged: Iterable[Metric] = ()) -> None:
        """Start with the metrics that the store has for the run."""
        self._steps: dict[str, set[int]] = defaultdict(set)
        self._results: dict[str, float] = {}
        self.add(sorted(logged, key=lambda metric: int(metric.timestamp)))

    def add(self, metrics: Iterable[Metric]) -> None:
        """Record metrics that are now in the store."""
        for metric in metrics:
            self._steps[metric.key].add(metric.step)
            if metric.step == 0:
                self._results[metric.key] = metric.value

    def select_new(self, events: Sequence[Mapping[str, Any]]) -> list[Metric]:
        """Return the metrics of events that the store does not have yet, in order.

        A step that a key already has is a repetition by a resumed training. The steps of a sweep are trial numbers,
        which come in any order. Results of a trial have no step and are logged at step 0; a result is new if its value
        has changed.
        """
        pending = LoggedMetrics()
        metrics: list[Metric] = []
        for event in events:
            if event["kind"] in METRIC_PREFIXES:
                new = [metric for metric in _metrics(event) if not self._has(metric, pending, event["step"] is None)]
                pending.add(new)
                metrics += new
        return metrics

    def _has(self, metric: Metric, pending: LoggedMetrics, is_result: bool) -> bool:
        """Whether the store has a metric, or will have it once `pending` is logged."""
        if is_result:
            value = pending._results.get(metric.key, self._results.get(metric.key))
            return value is not None and (value == metric.value or (math.isnan(value) and math.isnan(metric.value)))
        return metric.step in self._steps[metric.key] or metric.step in pending._steps[metric.key]


def _metrics(event: Mapping[str, Any]) -> list[Metric]:
    timestamp, prefix = milliseconds(event), METRIC_PREFIXES[event["kind"]]
    return [
        Metric(valid_key(f"{prefix}{name}"), _stored_value(float(value)), timestamp, event["step"] or 0)
        for name, value in sorted(event["values"].items(), key=_is_published)
        if value is not None
    ]


def _is_published(metric: tuple[str, Any]) -> bool:
    """Whether a metric belongs to the other parse mode; such metrics follow the main ones."""
    return metric[0].startswith("published/")


def _stored_value(value: float) -> float:
    """Return a value as MLflow's database returns it: NaN unchanged, infinity as the largest float."""
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value


def last_event_time(log: Path) -> int | None:
    """Return the time of the last event in a run's log, in milliseconds since 1970; None if there is no event."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(-min(log.stat().st_size, TAIL_BYTES), os.SEEK_END)
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    # The first line may be cut by the seek. Text after the last newline was cut when the process was killed.
    complete = [line for line in lines[:-1] if line.startswith("{") and line.endswith("}")]
    return milliseconds(json.loads(complete[-1])) if complete else None


def milliseconds(event: Mapping[str, Any]) -> int:
    """Return the time of an event in MLflow's unit, milliseconds since 1970."""
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1000)


PREDICTIONS, MISTAKES = "predictions.json", "mistakes.json"
"""Files of the tables: all predictions; a selection of wrong ones, with images."""

TABLES_TAG = MLFLOW_LOGGED_ARTIFACTS
"""Tag that tells MLflow which files of a run are tables; see `tables_tag`."""


def write_tables(run_dir: Path, into: Path) -> list[Path]:
    """Write the tables of a finished run in the format of MLflow's `log_table`.

    `log_table` itself would append to the table of an earlier launch.

    Args:
        run_dir: The run's folder.
        into: Folder that the tables are written to.

    Returns:
        The files of the tables; an empty table is not written.
    """
    files = []
    mistakes = map(_with_images, _lines(run_dir / "mistakes.jsonl"))
    for name, rows in ((MISTAKES, mistakes), (PREDICTIONS, _prediction_rows(run_dir))):
        table = _columns(rows)
        if table["data"]:
            (into / name).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
            files.append(into / name)
    return files


def tables_tag(names: Iterable[str]) -> str:
    """Return the value of `TABLES_TAG` for tables with these file names."""
    return json.dumps([{"path": name, "type": "table"} for name in names])


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    table = list(rows)
    columns = list(dict.fromkeys(column for row in table for column in row))
    return {"columns": columns, "data": [[row.get(column) for column in columns] for row in table]}


def _prediction_rows(run_dir: Path) -> Iterable[dict[str, Any]]:
    scores = {score["id"]: score for score in _lines(run_dir / "scores.jsonl")}
    for prediction in _lines(run_dir / "predictions.jsonl"):
        if prediction["id"] in scores:
            yield _prediction_row(prediction, scores[prediction["id"]])


def _prediction_row(prediction: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    counts = {f"{metric}.{name}": value for metric, values in score["counts"].items() for name, value in values.items()}
    return {
        "id": prediction["id"],
        "output": prediction["output"],
        "reference": json.dumps(score.get("reference"), ensure_ascii=False),
        "parse": score["ending"],
        "notes": "; ".join(score["notes"]),
        **counts,
    }


def _with_images(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the image path of a wrong prediction to a cell that MLflow shows as an image."""
    path = row["pictures"]
    cell = {"type": "image", "filepath": path, "compressed_filepath": path} if path else None
    return {"pictures": cell, **{name: value for name, value in row.items() if name != "pictures"}}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a missing file has none. Only a newline ends a line: a text may contain U+2028."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@dataclass(frozen=True)
class BestPoint:
    """The best point of a sweep so far: trials that differ only in their seed.

    Attributes:
        trials: Their names.
        parameters: What distinguishes the point from others, by dotted path.
        metrics: The mean of each metric over the trials; test metrics, and the objective under its own name.
    """

    trials: tuple[str, ...]
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]


def best_point(sweep_file: Path) -> BestPoint | None:
    """Find the point with the best mean objective among those whose trials have all finished.

    The objective is a validation metric: test metrics are logged, but not used for selection.

    Args:
        sweep_file: The file `sweep.json`; the folders of the trials are next to its folder.

    Returns:
        None if the sweep has no objective, or no point has finished.
    """
    sweep = json.loads(sweep_file.read_text(encoding="utf-8"))
    points: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial in sweep["trials"]:
        points[trial.get("group", trial["name"])].append(trial)
    finished = [trials for trials in points.values() if all(map(_has_objective, trials))]
    if not sweep["objective"] or not finished:
        return None
    select = min if sweep["objective"]["mode"] == "min" else max
    best = select(finished, key=_mean_objective)
    metrics = _mean_metrics(sweep_file.parent.parent / trial["name"] / "metrics.json" for trial in best)
    return BestPoint(
        trials=tuple(trial["name"] for trial in best),
        parameters={path: value for path, value in best[0]["parameters"].items() if path != "seed"},
        metrics={**metrics, sweep["objective"]["metric"]: _mean_objective(best)},
    )


def _has_objective(trial: Mapping[str, Any]) -> bool:
    value = trial.get("objective")
    return trial.get("status") == "finished" and value is not None and math.isfinite(value)


def _mean_objective(trials: Sequence[Mapping[str, Any]]) -> float:
    return fmean(trial["objective"] for trial in trials)


def _mean_metrics(files: Iterable[Path]) -> dict[str, float]:
    """Average each metric that all of these trials have; none if a file is damaged, which `runner status` reports."""
    try:
        results: list[Any] = [read_json_object(file, "") for file in files if file.exists()]
    except DataError:
        return {}
    columns = {name: [metrics.get(name) for metrics in results] for name in (results[0] if results else ())}
    return {name: fmean(values) for name, values in columns.items() if None not in values}
