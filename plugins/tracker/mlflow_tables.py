"""Lays predictions beside references out as the tables that MLflow shows as its own, with pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

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
