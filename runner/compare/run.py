"""A finished run read back from its folder: what it was told, and what each of its answers counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.artifacts import RunDirectory
from runner.errors import DataError
from runner.files import read_lines

Row = Mapping[str, Any]
"""A line of `scores.jsonl`."""
FINISHED = "finished"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its own, with experiment and trial as its last two names.
        plan: Its `plan.json`.
        rows: Its `scores.jsonl`, by sample id, in the data set's order.
        metrics: Its `metrics.json`.
        group: The arm or point of its sweep that it repeats; empty outside of one.
        arm: The arm of its sweep; its group where the sweep has none.
    """

    folder: Path
    plan: Mapping[str, Any]
    rows: Mapping[str, Row]
    metrics: Mapping[str, float | None]
    group: str = ""
    arm: str = ""

    @property
    def name(self) -> str:
        """Experiment and trial: `tiny_mmre/trial-aa1055e9`."""
        return RunDirectory(self.folder).name

    @property
    def experiment(self) -> str:
        """The folder of its experiment."""
        return self.folder.parent.name

    @property
    def seed(self) -> int:
        """What its weights and the order of its samples were drawn from."""
        return int(self.plan["seed"])

    @property
    def data(self) -> str:
        """The fingerprint of its data set."""
        return str(self.plan["pinned"]["data"])

    @property
    def sections(self) -> Mapping[str, Mapping[str, Any]]:
        """Its metrics' sections, by type."""
        return {section["type"]: section for section in self.plan["metrics"]}

    @property
    def own_mode(self) -> str:
        """How its answers were read first; empty where its adapter reads in one way alone."""
        return str(self.plan["adapter"].get("parse", ""))

    @property
    def modes(self) -> Sequence[str]:
        """All ways in which its answers were read: its own, then those reported beside it."""
        first: Row = next(iter(self.rows.values()), {})
        beside = [name for name, told in first.items() if isinstance(told, dict) and "counts" in told]
        return [self.own_mode, *beside]

    def counts(self, metric: str, mode: str) -> list[Mapping[str, Any] | None]:
        """What a metric counted of each sample, with the answers read in one way; None where it was not asked."""
        rows = self.rows.values()
        return [(row if mode == self.own_mode else row[mode])["counts"].get(metric) for row in rows]

    def figure(self, name: str, mode: str) -> float | None:
        """A figure of its `metrics.json`, with the answers read in one way."""
        return self.metrics.get(name if mode == self.own_mode else f"{mode}/{name}")


def read_run(folder: Path, group: str = "", arm: str = "") -> Run:
    """Read a finished run.

    Raises:
        DataError: A file is missing or broken; the message says which, and what makes it anew.
    """
    run = RunDirectory(folder)
    again = f"launch it again (runner launch {run.plan}), which does only what is missing"
    for file in (run.scores, run.metrics):
        if not file.exists():
            raise DataError(f"{run.name}: {file.name} is not there; {again}")
    try:
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
        rows = {str(row["id"]): row for row in read_lines(run.scores)}
        found = Run(folder, plan, rows, run.read_metrics(), group, arm)
        _check(found)
    except (ValueError, KeyError, TypeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise DataError(f"{run.name}: cannot be read as a run of this version ({told}); {again}") from error
    if not rows:
        raise DataError(f"{run.name}: scores.jsonl has no sample; {again}")
    return found


def _check(run: Run) -> None:
    """Touch what comparing needs, so that a broken file is told about here."""
    assert run.data
    assert run.seed >= 0
    for row in run.rows.values():
        row["counts"].keys()
        row.get("reference", {})
