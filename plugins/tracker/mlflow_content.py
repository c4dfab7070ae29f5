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
from datetime import datetime
from pathlib import Path
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

from runner.stages import DatasetInfo

CONTEXTS = {"train": "training", "test": "testing"}
"""MLflow's words for what a split is for; others are their own."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What PostgreSQL does not take in a text, and what UTF-8 cannot write."""


def fitted_key(name: str) -> str:
    """Write a name with the letters that MLflow allows, in the length that it allows.

    One that had to be changed carries six digits of its own hash, so that no two names become one.
    """
    allowed = re.sub(r"[^\w/.\- :]", "_", name)
    # It reads names as paths, which must be in their simplest form.
    parts = [part for part in allowed.split("/") if part not in ("", ".", "..")]
    fitted = "/".join(parts)
    if fitted == name and 0 < len(name) <= MAX_ENTITY_KEY_LENGTH:
        return name
    mark = hashlib.sha256(name.encode("utf-8", errors="backslashreplace")).hexdigest()[:6]
    return f"{fitted[: MAX_ENTITY_KEY_LENGTH - 7].rstrip('/') or '_'}-{mark}"


def fitted_text(text: str, limit: int) -> str:
    """Write a text so that every store takes it, cut where it is too long."""
    plain = _UNSTORABLE.sub("\ufffd", text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


def parameters(plan: Mapping[str, Any]) -> list[Param]:
    """Write a flattened plan as parameters: strings as they are, other values as JSON, the longest cut.

    The plan itself, which is an artifact, keeps them whole.
    """
    return [Param(fitted_key(path), fitted_text(_text(value), MAX_PARAM_VAL_LENGTH)) for path, value in plan.items()]


def description(plan: Mapping[str, Any], chosen: Collection[str]) -> str:
    """Describe a run by its settings that are no defaults, in Markdown: MLflow shows that above everything else.

    MLflow sorts parameters by name and can pin none, and a prefix would be in the way of who searches them: every value
    of the plan is a parameter by its own path, default or not.
    """
    rows = [f"| `{path}` | {_cell(_text(value))} |" for path, value in plan.items() if path in chosen]
    head = "What the spec sets; all else is a default.\n\n| setting | value |\n|---|---|\n"
    while rows and len(head) + sum(len(row) + 1 for row in rows) > MAX_TAG_VAL_LENGTH:
        rows.pop()
    return fitted_text(head + "\n".join(rows), MAX_TAG_VAL_LENGTH)


def _cell(text: str) -> str:
    return fitted_text(" ".join(text.split()), 200).replace("|", "\\|")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def dataset_inputs(info: DatasetInfo, *, trained: bool) -> Iterator[DatasetInput]:
    """Describe the splits of the data set; its fingerprint, as long as MLflow lets it be, is their digest.

    Args:
        info: The data set.
        trained: Whether its training split is used.
    """
    for split, number in info.num_samples.items():
        if split == "train" and not trained:
            continue
        told = {
            "num_samples": number,
            "split": split,
            "labels": list(info.labels),
            "fingerprint": info.fingerprint,
        }
        dataset = Dataset(
            # Of two inputs with one name and digest MLflow keeps the first alone.
            name=fitted_text(f"{info.name}/{split}", MAX_DATASET_NAME_SIZE),
            digest=info.fingerprint[:MAX_DATASET_DIGEST_SIZE],
            source_type="local",
            source=json.dumps({"uri": info.location}),
            profile=json.dumps(told),
        )
        yield DatasetInput(dataset, [InputTag("mlflow.data.context", CONTEXTS.get(split, split))])


KINDS = {"metrics": "", "system": "system/"}
"""The events that hold figures, and before which of their names MLflow shows them on a page of their own."""

TAIL_BYTES = 100_000
"""Enough of a log's end to hold its last event."""


class LoggedMetrics:
    """Knows which metrics a run has, so that a resumed training and a repeated delivery add none twice."""

    def __init__(self, logged: Iterable[Metric] = ()) -> None:
        """Take the metrics that the store holds of the run."""
        self._steps: dict[str, set[int]] = defaultdict(set)
        self._results: dict[str, float] = {}
        self.note(sorted(logged, key=lambda metric: int(metric.timestamp)))

    def note(self, metrics: Iterable[Metric]) -> None:
        """Remember metrics that the store has taken."""
        for metric in metrics:
            self._steps[metric.key].add(metric.step)
            if metric.step == 0:
                self._results[metric.key] = metric.value

    def new(self, events: Sequence[Mapping[str, Any]]) -> list[Metric]:
        """Get the metrics of events that the store lacks, in order.

        A step that its key has repeats what a training did before it was resumed; those of a sweep are numbers of
        trials, which come in any order. Of the trial's results, which have no step and stand at step 0, one whose value
        has changed is new.
        """
        ahead = LoggedMetrics()
        found: list[Metric] = []
        for event in events:
            if event["kind"] in KINDS:
                fresh = [metric for metric in _metrics(event) if not self._has(metric, ahead, event["step"] is None)]
                ahead.note(fresh)
                found += fresh
        return found

    def _has(self, metric: Metric, ahead: LoggedMetrics, is_result: bool) -> bool:
        """Whether the store has a metric, or will have it by what is ahead of it."""
        if is_result:
            known = ahead._results.get(metric.key, self._results.get(metric.key))
            return known is not None and (known == metric.value or (math.isnan(known) and math.isnan(metric.value)))
        return metric.step in self._steps[metric.key] or metric.step in ahead._steps[metric.key]


def _metrics(event: Mapping[str, Any]) -> list[Metric]:
    stamp, prefix = milliseconds(event), KINDS[event["kind"]]
    return [
        Metric(fitted_key(f"{prefix}{name}"), _stored(float(value)), stamp, event["step"] or 0)
        for name, value in event["values"].items()
        if value is not None
    ]


def _stored(value: float) -> float:
    """A value as MLflow's database gives it back: it keeps what is no number, and of infinity the largest number."""
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value


def last_told(log: Path) -> int | None:
    """The time of the last event of a run's log, as MLflow counts it; None where there is none."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(-min(log.stat().st_size, TAIL_BYTES), os.SEEK_END)
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    # The first may be the end of one, and what stands behind the last newline was torn by a kill.
    whole = [line for line in lines[:-1] if line.startswith("{") and line.endswith("}")]
    return milliseconds(json.loads(whole[-1])) if whole else None


def milliseconds(event: Mapping[str, Any]) -> int:
    """The time of an event, as MLflow counts it: milliseconds since 1970."""
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1000)


PREDICTIONS, MISTAKES = "predictions.json", "mistakes.json"
"""The tables: every answer; a sample of the wrong ones, with pictures."""

LISTED_TAG = MLFLOW_LOGGED_ARTIFACTS
"""By this tag MLflow knows which of a run's files are tables; see `listed`."""


def write_tables(run_dir: Path, into: Path) -> list[Path]:
    """Write the tables of a finished run, as MLflow's `log_table` would, which adds to what an earlier launch sent.

    Args:
        run_dir: The run's folder.
        into: Where the tables are written.

    Returns:
        Their files.
    """
    written = []
    mistakes = map(_with_picture, _lines(run_dir / "mistakes.jsonl"))
    for name, rows in ((MISTAKES, mistakes), (PREDICTIONS, _answers(run_dir))):
        table = _columns(rows)
        if table["data"]:
            (into / name).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
            written.append(into / name)
    return written


def listed(names: Iterable[str]) -> str:
    """What the tag `LISTED_TAG` says of tables of these names."""
    return json.dumps([{"path": name, "type": "table"} for name in names])


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    listed = list(rows)
    columns = list(dict.fromkeys(column for row in listed for column in row))
    return {"columns": columns, "data": [[row.get(column) for column in columns] for row in listed]}


def _answers(run_dir: Path) -> Iterable[dict[str, Any]]:
    scored = {score["id"]: score for score in _lines(run_dir / "scores.jsonl")}
    for prediction in _lines(run_dir / "predictions.jsonl"):
        if prediction["id"] in scored:
            yield _row(prediction, scored[prediction["id"]])


def _row(prediction: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    counts = {f"{metric}.{name}": value for metric, named in score["counts"].items() for name, value in named.items()}
    return {
        "id": prediction["id"],
        "output": prediction["output"],
        "reference": json.dumps(score.get("reference"), ensure_ascii=False),
        "parse": score["ending"],
        "notes": "; ".join(score["notes"]),
        **counts,
    }


def _with_picture(row: Mapping[str, Any]) -> dict[str, Any]:
    """A wrong answer, its pictures as a cell that MLflow shows."""
    picture = row["pictures"]
    cell = {"type": "image", "filepath": picture, "compressed_filepath": picture} if picture else None
    return {"pictures": cell, **{name: value for name, value in row.items() if name != "pictures"}}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; no file is no lines. Lines end at a newline alone: U+2028 may stand in a text."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
