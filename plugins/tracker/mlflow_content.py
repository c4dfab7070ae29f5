"""Fits what the engine tells of a trial to what MLflow takes: names, lengths, tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Param
from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE, MAX_ENTITY_KEY_LENGTH, MAX_PARAM_VAL_LENGTH

from runner.stages import DatasetInfo


def fitted_key(name: str) -> str:
    """Write a name with the letters that MLflow allows, in the length that it allows."""
    allowed = re.sub(r"[^\w/.\- :]", "_", name)
    # It reads names as paths, which must be in their simplest form.
    parts = [part for part in allowed.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:MAX_ENTITY_KEY_LENGTH].rstrip("/") or "_"


def parameters(plan: Mapping[str, Any]) -> list[Param]:
    """Write a flattened plan as parameters: strings as they are, other values as JSON, the longest cut.

    The plan itself, which is an artifact, keeps them whole.
    """
    written = {}
    for path, value in plan.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        cut = text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - 1] + "…"
        written[fitted_key(path)] = cut
    return [Param(key, text) for key, text in written.items()]


def dataset_input(info: DatasetInfo) -> DatasetInput:
    """Describe the data set; its fingerprint, as long as MLflow lets it be, is the digest."""
    dataset = Dataset(
        name=info.name,
        digest=info.fingerprint[:MAX_DATASET_DIGEST_SIZE],
        source_type="local",
        source=json.dumps({"uri": info.location}),
        profile=json.dumps(
            {
                "num_samples": dict(info.num_samples),
                "labels": list(info.labels),
                "fingerprint": info.fingerprint,
            }
        ),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train/test")])


def prediction_table(folder: Path) -> dict[str, list[Any]] | None:
    """Lay the predictions out in columns, beside references and scores; None before they are scored."""
    predictions, scores = _rows(folder / "predictions.jsonl"), _rows(folder / "scores.jsonl")
    scored = {score["id"]: score for score in scores}
    rows = [_table_row(each, scored[each["id"]]) for each in predictions if each["id"] in scored]
    columns = dict.fromkeys(column for row in rows for column in row)
    return {column: [row.get(column) for row in rows] for column in columns} or None


def _table_row(prediction: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    counts = {f"{metric}.{name}": value for metric, named in score["counts"].items() for name, value in named.items()}
    return {
        "id": prediction["id"],
        "output": prediction["output"],
        "reference": json.dumps(score.get("reference"), ensure_ascii=False),
        "parse": score["ending"],
        "notes": "; ".join(score["notes"]),
        **counts,
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; no file is no lines. Lines end at a newline alone: U+2028 may stand in a text."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
