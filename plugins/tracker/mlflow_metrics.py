"""Turns events into MLflow's metrics, each of them once."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Metric

from plugins.tracker.mlflow_content import fitted_key

KINDS = {"metrics": "", "system": "system/"}
"""The events that hold figures, and before which of their names MLflow shows them on a page of their own."""

TAIL_BYTES = 100_000
"""Enough of a log's end to hold its last event."""


class Ledger:
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
        ahead = Ledger()
        found: list[Metric] = []
        for event in events:
            if event["kind"] in KINDS:
                fresh = [metric for metric in _metrics(event) if not self._has(metric, ahead, event["step"] is None)]
                ahead.note(fresh)
                found += fresh
        return found

    def _has(self, metric: Metric, ahead: Ledger, is_result: bool) -> bool:
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
